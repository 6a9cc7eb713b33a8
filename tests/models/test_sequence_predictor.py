import pytest
import torch

from aam.config import TargetConfig
from aam.models.sequence_predictor import EmbeddedPredictor, SequencePredictor


@pytest.fixture
def make_predictor(make_encoder):
    def make(outputs: int = 1, **options: object) -> SequencePredictor:
        config = TargetConfig.model_validate({"metadata_column": "age"} | options)
        torch.manual_seed(0)
        return SequencePredictor(make_encoder(), outputs, config)

    return make


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("hidden", [(), (8,), (12, 5)])
def test_shapes(make_predictor, make_batch, outputs: int, hidden: tuple[int, ...]):
    tokens, slot, count, depth, _ = make_batch(0)
    output = make_predictor(outputs, regressor_hidden_dims=hidden)(tokens, slot, count, depth)
    assert output.prediction.shape == (4, outputs)
    assert output.sample_embedding.shape == (4, 16)
    assert output.counts is None


def test_hidden_widths_shape_the_head(make_predictor):
    head = make_predictor(3, regressor_hidden_dims=(12, 5), regressor_dropout=0.1).target_head
    widths = [module.out_features for module in head.modules() if isinstance(module, torch.nn.Linear)]
    assert widths == [12, 5, 3]


def test_hidden_abundances_are_predicted(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(1)
    hidden = (count > 0) & (slot % 2 == 0)
    model = make_predictor(count_weight=0.5)
    counts = model(tokens, slot, count, depth, hidden).counts
    assert counts.shape == slot.shape
    assert model(tokens, slot, count, depth).counts is None
    counts[hidden].sum().backward()
    assert model.encoder.sample_encoder.abundance.expand.weight.grad[:, 2].abs().sum() > 0


def test_hidden_abundances_need_their_head(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(1)
    model = make_predictor()
    assert model.count_head is None
    with pytest.raises(ValueError, match="count_weight > 0"):
        model(tokens, slot, count, depth, count > 0)


def test_prediction_from_embedded_asvs_is_the_same(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(2)
    model = make_predictor()
    asvs, expected = model.embed_asvs(tokens), model(tokens, slot, count, depth)
    assert torch.equal(asvs, model.encoder.embed_asvs(tokens))
    assert torch.equal(model.embed_samples(asvs, slot, count, depth), expected.sample_embedding)
    for predict in (model.predict_samples, EmbeddedPredictor(model)):
        assert torch.equal(predict(asvs, slot, count, depth).prediction, expected.prediction)


@pytest.mark.parametrize("name", ["forward", "step", *SequencePredictor.ENTRY_POINTS])
def test_no_entry_point_calls_another(make_predictor, make_batch, refuse, name: str):
    # of a sharded root each gathers the weights and frees them: the inner one would free what the outer still needs
    model = make_predictor(count_weight=1.0)
    tokens, slot, count, depth, _ = make_batch(2)
    asvs, hidden = torch.zeros(len(tokens), 16), count > 0
    refuse(model, {*SequencePredictor.ENTRY_POINTS, "forward"} - {name})
    calls = {
        "forward": lambda: model(tokens, slot, count, depth, hidden),
        "step": lambda: EmbeddedPredictor(model)(asvs, slot, count, depth, hidden),
        "embed_asvs": lambda: model.embed_asvs(tokens),
        "embed_samples": lambda: model.embed_samples(asvs, slot, count, depth),
        "predict_samples": lambda: model.predict_samples(asvs, slot, count, depth, hidden),
    }
    calls[name]()


def test_dropout_only_in_training(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(3)
    model = make_predictor(regressor_dropout=0.5)
    assert not torch.equal(model(tokens, slot, count, depth).prediction, model(tokens, slot, count, depth).prediction)
    model.eval()
    assert torch.equal(model(tokens, slot, count, depth).prediction, model(tokens, slot, count, depth).prediction)


def test_a_frozen_encoder_drops_nothing_out(make_encoder, make_batch):
    tokens, slot, count, depth, _ = make_batch(3)
    encoder = make_encoder(sample_dropout=0.5, nucleotide_dropout=0.5)
    model = SequencePredictor(encoder, 1, TargetConfig(metadata_column="age", regressor_dropout=0.5))
    model.freeze()
    embeddings = [model.train(mode)(tokens, slot, count, depth).sample_embedding for mode in (True, True, False)]
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])
    assert not any(embedding.requires_grad for embedding in embeddings)
    assert model.train().target_head.training


def test_first_counts_are_near_where_they_start(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(4)
    model = make_predictor(count_weight=1.0)
    model.count_head.start_at(-5.0)
    counts = model(tokens, slot, count, depth, count > 0).counts
    assert (counts + 5).abs().max() < 0.5


def test_first_predictions_are_near_zero(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(4)
    assert make_predictor(3)(tokens, slot, count, depth).prediction.abs().max() < 0.5


def test_every_parameter_has_a_gradient(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(5)
    model = make_predictor(2, regressor_hidden_dims=(8,), count_weight=1.0)
    output = model(tokens, slot, count, depth, count > 0)
    (output.prediction.sum() + output.counts.sum()).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # what only pretraining reads
    assert unused == {
        "encoder.log_tau",
        "encoder.asv_encoder.nucleotide_head.weight",
        "encoder.asv_encoder.nucleotide_head.bias",
    }


def test_predictions_are_not_rounded_under_autocast(make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(6)
    model = make_predictor(count_weight=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens, slot, count, depth, count > 0)
    assert output.prediction.dtype == output.sample_embedding.dtype == torch.float32
    assert output.counts.isfinite().all()

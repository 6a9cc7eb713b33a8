from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aam.config import CategoricalFusion, CategoryConfig, CountEmbedding, TargetConfig
from aam.models.heads import TargetSpec
from aam.models.initial import initialise
from aam.models.sequence_predictor import EmbeddedPredictor, PooledPredictor, SequencePredictor
from aam.models.types import CategorySpec

FUSIONS = get_args(CategoricalFusion)
# city in region, and a season; a column that only scales
SPEC = CategorySpec(sizes=(6, 5, 4, 4), parents=(2, None, None, None), fused=2, scaled=3)
FLAT = CategorySpec(sizes=(6, 5), parents=(None, None), fused=2)


ONE, TWO = (TargetSpec((outputs,), ((),), (0.0,)) for outputs in (1, 2))


@pytest.fixture
def make_predictor(make_encoder):
    def make(outputs: int = 1, **options: object) -> SequencePredictor:
        config = TargetConfig.model_validate({"metadata_column": "age"} | options)
        torch.manual_seed(0)
        return SequencePredictor(make_encoder(), TargetSpec((outputs,), ((),), (0.0,)), config)

    return make


@pytest.fixture
def make_conditioned(make_encoder):
    """A model with categories, as it starts or with maps that are zero at the start drawn too."""

    def make(
        fusion: str, spec: CategorySpec = SPEC, started: bool = True, combine: str = "sum", **options: object
    ) -> SequencePredictor:
        target = TargetConfig.model_validate({"metadata_column": "age", "count_weight": 1.0} | options)
        given = {"categorical_columns": "city,season", "categorical_fusion": fusion, "categorical_dim": 6}
        nested = {"categorical_hierarchy": "city=region", "hierarchy_combine": combine} if spec is SPEC else {}
        torch.manual_seed(0)
        model = SequencePredictor(make_encoder(), TWO, target, CategoryConfig.model_validate(given | nested), spec)
        initialise(model, 7)
        for parameter in model.conditioning.parameters():
            if started and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
        return model

    return make


def draw_categories(samples: int = 4) -> Tensor:
    return torch.randint(4, (samples, 4), generator=torch.Generator().manual_seed(5))


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


@pytest.mark.parametrize("features", [0, 8])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_prediction_from_embedded_samples_is_the_same_where_asvs_are_not_read_again(
    make_conditioned, make_batch, fusion: str, features: int
):
    tokens, slot, count, depth, _ = make_batch(7)
    model = make_conditioned(fusion, count_weight=0.0, asv_features=features).eval()
    categories, pooled = draw_categories(), model.pool_samples(model.embed_asvs(tokens), slot, count, depth)
    expected = model(tokens, slot, count, depth, None, categories)
    assert model.reads_samples_alone == (fusion in {"concat", "add", "gmu"})
    for predict in (model.predict_pooled, PooledPredictor(model)):
        if model.reads_samples_alone:
            output = predict(pooled, categories)
            assert torch.equal(output.prediction, expected.prediction)
            assert output.counts is None
        else:
            with pytest.raises(ValueError, match="read the ASVs"):
                predict(pooled, categories)
    assert not make_conditioned(fusion).reads_samples_alone  # it predicts abundances of ASVs


@pytest.mark.parametrize("name", ["forward", "step", "pooled step", *SequencePredictor.ENTRY_POINTS])
def test_no_entry_point_calls_another(make_conditioned, make_batch, refuse, name: str):
    # of a sharded root each gathers the weights and frees them: the inner one would free what the outer still needs
    options = {"asv_features": 8, **({"count_weight": 0.0} if "pooled" in name else {})}
    model = make_conditioned("add" if "pooled" in name else "cross_attention", **options)
    tokens, slot, count, depth, _ = make_batch(2)
    asvs, hidden, categories = torch.zeros(len(tokens), 16), count > 0, draw_categories()
    refuse(model, {*SequencePredictor.ENTRY_POINTS, "forward"} - {name})
    calls = {
        "forward": lambda: model(tokens, slot, count, depth, hidden, categories),
        "step": lambda: EmbeddedPredictor(model)(asvs, slot, count, depth, hidden, categories),
        "embed_asvs": lambda: model.embed_asvs(tokens),
        "embed_samples": lambda: model.embed_samples(asvs, slot, count, depth),
        "pool_samples": lambda: model.pool_samples(asvs, slot, count, depth),
        "wave_asvs": lambda: model.wave_asvs(asvs),
        "predict_samples": lambda: model.predict_samples(asvs, slot, count, depth, hidden, categories),
        "predict_pooled": lambda: model.predict_pooled(torch.zeros(4, 24), categories),
        "pooled step": lambda: PooledPredictor(model)(torch.zeros(4, 24), categories),
        "category_attention": lambda: model.category_attention(asvs, slot, count, depth, categories),
        "head_inputs": lambda: model.head_inputs(asvs, slot, count, depth, categories),
        "pooled_head_inputs": lambda: model.pooled_head_inputs(torch.zeros(4, 24), categories),
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
    model = SequencePredictor(encoder, ONE, TargetConfig(metadata_column="age", regressor_dropout=0.5))
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


@pytest.mark.parametrize("spec", [SPEC, FLAT], ids=["hierarchical", "flat"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_predictions_depend_on_categories_and_embeddings_do_not(make_conditioned, make_batch, fusion: str, spec):
    tokens, slot, count, depth, _ = make_batch(7)
    model, categories = make_conditioned(fusion, spec), 2 + draw_categories()[:, : len(spec.sizes)] % 2
    output = model(tokens, slot, count, depth, count > 3, categories)
    other = model(tokens, slot, count, depth, count > 3, 5 - categories)
    assert output.prediction.shape == (4, 2)
    assert ((output.prediction - other.prediction).abs().sum(1) > 1e-5).all()
    assert torch.equal(output.sample_embedding, other.sample_embedding)
    assert torch.equal(output.counts, other.counts)
    asvs = model.embed_asvs(tokens)
    assert torch.equal(
        model.embed_samples(asvs, slot, count, depth), model(tokens, slot, count, depth, None, categories)[1]
    )
    for predict in (model.predict_samples, EmbeddedPredictor(model)):
        assert torch.equal(predict(asvs, slot, count, depth, count > 3, categories).prediction, output.prediction)


@pytest.mark.parametrize("fusion", ["add", "cross_attention", "perceiver"])
def test_a_model_with_categories_starts_as_one_without(make_conditioned, make_predictor, make_batch, fusion: str):
    tokens, slot, count, depth, _ = make_batch(7)
    plain = make_predictor(2, count_weight=1.0)
    initialise(plain, 7)
    model = make_conditioned(fusion, started=False)
    expected = plain(tokens, slot, count, depth, count > 3)
    output = model(tokens, slot, count, depth, count > 3, draw_categories())
    assert all(torch.equal(one, other) for one, other in zip(output, expected, strict=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padded_asvs_change_nothing(make_conditioned, make_batch, fusion: str):
    tokens, slot, count, depth, _ = make_batch(8)
    model, categories = make_conditioned(fusion).double(), draw_categories()
    padded = functional.pad(slot, (0, 5), value=3), functional.pad(count, (0, 5)), depth
    expected = model(tokens, slot, count, depth, None, categories).prediction
    torch.testing.assert_close(model(tokens, *padded, None, categories).prediction, expected, rtol=1e-10, atol=1e-10)
    for row in range(4):
        here = count[row] > 0
        alone = slot[row : row + 1, here], count[row : row + 1, here], depth[row : row + 1]
        prediction = model(tokens, *alone, None, categories[row : row + 1]).prediction
        torch.testing.assert_close(prediction, expected[row : row + 1], rtol=1e-10, atol=1e-10)


def test_attention_to_categories(make_conditioned, make_batch):
    tokens, slot, count, depth, _ = make_batch(8)
    model, categories = make_conditioned("cross_attention"), draw_categories()
    asvs = model.embed_asvs(tokens)
    weights = model.category_attention(asvs, slot, count, depth, categories)
    assert weights.shape == (4, 4, slot.shape[1], 2)
    real = (count > 0)[:, None].expand(-1, 4, -1)
    torch.testing.assert_close(weights.sum(-1), real.float())
    assert not weights[~real].any()
    padded = functional.pad(slot, (0, 5), value=3), functional.pad(count, (0, 5)), depth
    more = model.category_attention(asvs, *padded, categories)
    torch.testing.assert_close(more[:, :, : slot.shape[1]], weights)
    assert not more[:, :, slot.shape[1] :].any()


def test_attention_needs_a_model_that_has_it(make_conditioned, make_predictor, make_batch):
    _, slot, count, depth, _ = make_batch(8)
    given = torch.zeros(9, 16), slot, count, depth, draw_categories()
    for model in (make_predictor(), make_conditioned("concat"), make_conditioned("perceiver")):
        with pytest.raises(ValueError, match="attention to categories needs a model built with categor"):
            model.category_attention(*given)


def test_categories_that_are_needed_must_be_given(make_conditioned, make_predictor, make_batch):
    tokens, slot, count, depth, _ = make_batch(8)
    with pytest.raises(ValueError, match="depends on categories, and none are given"):
        make_conditioned("add")(tokens, slot, count, depth)


def test_a_column_that_only_scales_conditions_nothing(make_encoder):
    scaling = CategorySpec(sizes=(4,), parents=(None,), fused=0, scaled=0)
    model = SequencePredictor(make_encoder(), ONE, TargetConfig(metadata_column="age"), CategoryConfig(), scaling)
    assert model.conditioning is None


@pytest.mark.parametrize("combine", ["sum", "gated"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_that_depends_on_categories_learns(
    make_conditioned, make_batch, fusion: str, combine: str, frozen: bool
):
    tokens, slot, count, depth, _ = make_batch(5)
    model = make_conditioned(fusion, combine=combine)
    if frozen:
        model.freeze()
    output = model(tokens, slot, count, depth, count > 0, draw_categories())
    (output.prediction.square().sum() + output.counts.sum()).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    conditioning = {name for name in model.state_dict() if name.startswith("conditioning.")}
    assert conditioning
    assert conditioning <= with_gradient
    assert any(name.startswith("encoder.") for name in with_gradient) != frozen
    # tables of the columns that are read and of the region above them, none of the column that only scales
    assert sum(".tables." in name for name in conditioning) == 3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_categories_under_autocast(make_conditioned, make_batch, fusion: str):
    tokens, slot, count, depth, _ = make_batch(6)
    model, categories = make_conditioned(fusion, combine="gated"), draw_categories()
    whole = model(tokens, slot, count, depth, count > 0, categories).prediction
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens, slot, count, depth, count > 0, categories)
    assert output.prediction.dtype == torch.float32
    torch.testing.assert_close(output.prediction, whole, atol=0.02, rtol=0.1)
    (output.prediction.square().sum() + output.counts.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("joins", get_args(CountEmbedding))
def test_every_way_of_reading_abundance_learns_and_hides_it(make_encoder, make_batch, joins: str):
    tokens, slot, count, depth, _ = make_batch(5)
    model = SequencePredictor(
        make_encoder(count_embedding=joins), ONE, TargetConfig(metadata_column="age", count_weight=1.0)
    )
    hidden = count > 0
    output = model(tokens, slot, count, depth, hidden)
    (output.prediction.square().sum() + output.counts.square().sum()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    swapped = count.clone()
    row = int(hidden.sum(1).argmax())
    swapped[row, 0], swapped[row, 1] = count[row, 1], count[row, 0]
    assert not torch.equal(swapped, count)
    assert torch.equal(model(tokens, slot, swapped, depth, hidden).counts, output.counts), "not seen where hidden"

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from aam.config import CategoricalFusion, CategoryConfig, CountEmbedding, TargetConfig
from aam.data.sampling.samples import Samples
from aam.models.heads import TargetSpec
from aam.models.initial import initialize
from aam.models.sequence_predictor import SequencePredictor, pool
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
        initialize(model, 7)
        for parameter in model.conditioning.parameters():
            if started and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
        return model

    return make


def draw_categories(samples: int = 4) -> Tensor:
    return torch.randint(4, (samples, 4), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def draw(make_batch):
    """Samples of which nothing is masked, or whose abundances are."""

    def make(seed: int, masked: bool = False, categories: Tensor | None = None) -> Samples:
        samples = make_batch(seed)
        abundances = ~samples.padding if masked else None
        return samples._replace(masked_nucleotides=None, masked_abundances=abundances, categories=categories)

    return make


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("hidden", [(), (8,), (12, 5)])
def test_shapes(make_predictor, draw, outputs: int, hidden: tuple[int, ...]):
    output = make_predictor(outputs, regressor_hidden_dims=hidden)(draw(0))
    assert output.prediction.shape == (4, outputs)
    assert output.sample_embedding.shape == output.head_input.shape == (4, 16)
    assert output.abundances is None


def test_hidden_widths_shape_the_head(make_predictor):
    head = make_predictor(3, regressor_hidden_dims=(12, 5), regressor_dropout=0.1).target_head
    widths = [module.out_features for module in head.modules() if isinstance(module, torch.nn.Linear)]
    assert widths == [12, 5, 3]


def test_masked_abundances_are_predicted(make_predictor, draw):
    samples = draw(1)
    masked = ~samples.padding & (samples.asv_index % 2 == 0)
    model = make_predictor(count_weight=0.5)
    abundances = model(samples._replace(masked_abundances=masked)).abundances
    assert abundances.shape == samples.padding.shape
    assert model(samples).abundances is None
    abundances[masked].sum().backward()
    assert model.encoder.sample_encoder.abundance.expand.weight.grad[:, 2].abs().sum() > 0


def test_masked_abundances_need_their_head(make_predictor, draw):
    model = make_predictor()
    assert model.count_head is None
    with pytest.raises(ValueError, match="count_weight > 0"):
        model(draw(1, masked=True))


@pytest.mark.parametrize("features", [0, 8])
def test_levels_by_themselves_give_what_the_forward_pass_gives(make_conditioned, draw, features: int):
    samples = draw(2, masked=True, categories=draw_categories())
    model = make_conditioned("concat", asv_features=features)
    expected = model(samples)
    embedded = samples._replace(asvs=model.embed_asvs(samples.asvs))
    encoded = model.encoder.sample_encoder(embedded)
    assert torch.equal(embedded.asvs, model.encoder.asv_encoder(samples.asvs).embedding)
    assert torch.equal(encoded.embedding, expected.sample_embedding)
    assert torch.equal(model.count_head(encoded.asv_context), expected.abundances)
    pooled = [encoded.embedding, *([model.asv_features(embedded)] if features else [])]
    assert torch.equal(pool(model, embedded), torch.cat(pooled, dim=1))
    assert torch.equal(expected.head_input[:, :16], encoded.embedding)
    assert torch.equal(expected.head_input[:, 28:], torch.cat(pooled, dim=1)[:, 16:]), "after two categories of six"
    assert torch.equal(model.target_head(expected.head_input, samples.categories[:, 3]), expected.prediction)


def test_prediction_from_embedded_asvs_is_the_same(make_predictor, draw):
    samples, model = draw(2, masked=True), make_predictor(count_weight=1.0)
    asvs = model.embed_asvs(samples.asvs)
    assert torch.equal(asvs, model.encoder.embed_asvs(samples.asvs))
    expected, output = model(samples), model(samples._replace(asvs=asvs))
    assert all(torch.equal(one, other) for one, other in zip(output, expected, strict=True))


@pytest.mark.parametrize("features", [0, 8])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_prediction_from_pooled_samples_is_the_same_where_asvs_are_not_read_again(
    make_conditioned, draw, fusion: str, features: int
):
    samples = draw(7, categories=draw_categories())
    model = make_conditioned(fusion, count_weight=0.0, asv_features=features).eval()
    expected = model(samples)
    pooled = pool(model, samples._replace(asvs=model.embed_asvs(samples.asvs)))
    assert pooled.shape == (4, 16 + features)
    given = Samples.of_pooled(pooled, samples.categories)
    assert model.reads_samples_alone == (fusion in {"concat", "add", "gmu"})
    if model.reads_samples_alone:
        output = model(given)
        assert torch.equal(output.prediction, expected.prediction)
        assert torch.equal(output.sample_embedding, expected.sample_embedding)
        assert torch.equal(output.head_input, expected.head_input)
        assert output.abundances is None
    else:
        with pytest.raises(ValueError, match="read the ASVs"):
            model(given)
    assert not make_conditioned(fusion).reads_samples_alone  # it predicts abundances of ASVs


@pytest.mark.parametrize("features", [0, 8])
def test_embedded_asvs_have_a_gradient(make_predictor, draw, features: int):
    samples, model = draw(2), make_predictor(asv_features=features)
    asvs = model.embed_asvs(samples.asvs).detach().requires_grad_()
    model(samples._replace(asvs=asvs)).prediction.sum().backward()
    held = samples.asv_index[~samples.padding].unique()
    assert asvs.grad.isfinite().all()
    assert asvs.grad[held].abs().sum(1).min() > 0, "every ASV that a sample holds has one"


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("joins", ["add", "concat", "film"])
@pytest.mark.parametrize("features", [0, 8])
def test_counts_have_a_gradient(make_encoder, draw, joins: str, embedded: bool, features: int):
    samples = draw(2)
    config = TargetConfig(metadata_column="age", asv_features=features)
    model = SequencePredictor(make_encoder(count_embedding=joins), ONE, config).double()
    counts = samples.counts.double().requires_grad_()
    asvs = model.embed_asvs(samples.asvs).detach() if embedded else samples.asvs
    model(samples._replace(asvs=asvs, counts=counts)).prediction.sum().backward()
    assert counts.grad.isfinite().all()
    # reads are clamped at one before the logarithm
    assert (counts.grad[~samples.padding & (samples.counts > 1)] != 0).all()
    if not features:
        assert not counts.grad[samples.padding].any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_asv_without_reads_is_no_padding(make_conditioned, draw, fusion: str):
    """`padding` says what is there, and not the counts."""
    samples = draw(5, categories=draw_categories())
    counts, model = samples.counts.clone(), make_conditioned(fusion).double()
    counts[0] = 0
    unread = model(samples._replace(counts=counts)).prediction
    as_one = counts.clamp_min(1).masked_fill(samples.padding, 0)
    torch.testing.assert_close(unread, model(samples._replace(counts=as_one)).prediction, rtol=0, atol=0)
    nothing = samples.padding.clone()
    nothing[0] = True
    other = model(samples._replace(counts=counts, padding=nothing)).prediction
    assert (unread[0] - other[0]).abs().min() > 1e-6
    torch.testing.assert_close(unread[1:], other[1:], rtol=1e-10, atol=1e-10)


def test_sharding_units_hold_the_whole_model(make_conditioned):
    model = make_conditioned("cross_attention", asv_features=8)
    held = {id(parameter) for unit in model.sharding_units for parameter in unit.parameters()}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_dropout_only_in_training(make_predictor, draw):
    samples, model = draw(3), make_predictor(regressor_dropout=0.5)
    assert not torch.equal(model(samples).prediction, model(samples).prediction)
    model.eval()
    assert torch.equal(model(samples).prediction, model(samples).prediction)


def test_a_frozen_encoder_drops_nothing_out(make_encoder, draw):
    samples, encoder = draw(3), make_encoder(sample_dropout=0.5, nucleotide_dropout=0.5)
    model = SequencePredictor(encoder, ONE, TargetConfig(metadata_column="age", regressor_dropout=0.5))
    model.freeze()
    embeddings = [model.train(mode)(samples).sample_embedding for mode in (True, True, False)]
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])
    assert not any(embedding.requires_grad for embedding in embeddings)
    assert model.train().target_head.training


def test_first_abundances_are_near_where_they_start(make_predictor, draw):
    model = make_predictor(count_weight=1.0)
    model.count_head.start_at(-5.0)
    assert (model(draw(4, masked=True)).abundances + 5).abs().max() < 0.5


def test_first_predictions_are_near_zero(make_predictor, draw):
    assert make_predictor(3)(draw(4)).prediction.abs().max() < 0.5


def test_every_parameter_has_a_gradient(make_predictor, draw):
    model = make_predictor(2, regressor_hidden_dims=(8,), count_weight=1.0)
    output = model(draw(5, masked=True))
    (output.prediction.sum() + output.abundances.sum()).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # what only pretraining reads
    assert unused == {
        "encoder.scale.log_tau",
        "encoder.asv_encoder.nucleotide_head.weight",
        "encoder.asv_encoder.nucleotide_head.bias",
    }


def test_heads_of_pretraining_need_no_gradient(make_encoder, draw):
    encoder = make_encoder(faith_pd=True, taxonomy={"phylum": 3}, abundance=True)
    model = SequencePredictor(encoder, ONE, TargetConfig(metadata_column="age"))
    model(draw(5)).prediction.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_predictions_are_not_rounded_under_autocast(make_predictor, draw):
    model = make_predictor(count_weight=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(draw(6, masked=True))
    assert output.prediction.dtype == output.sample_embedding.dtype == torch.float32
    assert output.abundances.isfinite().all()


@pytest.mark.parametrize("spec", [SPEC, FLAT], ids=["hierarchical", "flat"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_predictions_depend_on_categories_and_embeddings_do_not(make_conditioned, draw, fusion: str, spec):
    model, categories = make_conditioned(fusion, spec), 2 + draw_categories()[:, : len(spec.sizes)] % 2
    samples = draw(7, categories=categories)
    samples = samples._replace(masked_abundances=samples.counts > 3)
    output, other = model(samples), model(samples._replace(categories=5 - categories))
    assert output.prediction.shape == (4, 2)
    assert ((output.prediction - other.prediction).abs().sum(1) > 1e-5).all()
    assert torch.equal(output.sample_embedding, other.sample_embedding)
    assert torch.equal(output.abundances, other.abundances)
    embedded = samples._replace(asvs=model.embed_asvs(samples.asvs))
    assert torch.equal(model.encoder.sample_encoder(embedded).embedding, output.sample_embedding)
    assert torch.equal(model(embedded).prediction, output.prediction)


@pytest.mark.parametrize("fusion", ["add", "cross_attention", "perceiver"])
def test_a_model_with_categories_starts_as_one_without(make_conditioned, make_predictor, draw, fusion: str):
    samples, plain = draw(7, masked=True), make_predictor(2, count_weight=1.0)
    initialize(plain, 7)
    expected = plain(samples)
    output = make_conditioned(fusion, started=False)(samples._replace(categories=draw_categories()))
    assert all(torch.equal(one, other) for one, other in zip(output, expected, strict=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padded_asvs_change_nothing(make_conditioned, draw, padded, alone, fusion: str):
    model, samples = make_conditioned(fusion).double(), draw(8, categories=draw_categories())
    expected = model(samples).prediction
    torch.testing.assert_close(model(padded(samples, 5)).prediction, expected, rtol=1e-10, atol=1e-10)
    for row in range(4):
        prediction = model(alone(samples, row)).prediction
        torch.testing.assert_close(prediction, expected[row : row + 1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("embedded", [False, True])
def test_attention_to_categories(make_conditioned, draw, padded, embedded: bool):
    model, samples = make_conditioned("cross_attention"), draw(8, categories=draw_categories())
    expected = model.category_attention(samples)
    if embedded:
        samples = samples._replace(asvs=model.embed_asvs(samples.asvs))
    weights, asvs = model.category_attention(samples), samples.padding.shape[1]
    assert torch.equal(weights, expected)
    assert weights.shape == (4, 4, asvs, 2)
    real = (~samples.padding)[:, None].expand(-1, 4, -1)
    torch.testing.assert_close(weights.sum(-1), real.float())
    assert not weights[~real].any()
    more = model.category_attention(padded(samples, 5))
    torch.testing.assert_close(more[:, :, :asvs], weights)
    assert not more[:, :, asvs:].any()


def test_attention_needs_a_model_that_has_it(make_conditioned, make_predictor, draw):
    samples = draw(8, categories=draw_categories())
    for model in (make_predictor(), make_conditioned("concat"), make_conditioned("perceiver")):
        with pytest.raises(ValueError, match="attention to categories needs a model built with categor"):
            model.category_attention(samples)
    with pytest.raises(ValueError, match=r"attention to categories needs .* samples that have some"):
        make_conditioned("cross_attention").category_attention(draw(8))


def test_categories_that_are_needed_must_be_given(make_conditioned, draw):
    with pytest.raises(ValueError, match="depends on categories, and none are given"):
        make_conditioned("add")(draw(8))
    with pytest.raises(ValueError, match="depends on categories, and none are given"):
        make_conditioned("add", count_weight=0.0)(Samples.of_pooled(torch.zeros(4, 16)))


def test_a_column_that_only_scales_conditions_nothing(make_encoder):
    scaling = CategorySpec(sizes=(4,), parents=(None,), fused=0, scaled=0)
    model = SequencePredictor(make_encoder(), ONE, TargetConfig(metadata_column="age"), CategoryConfig(), scaling)
    assert model.conditioning is None


@pytest.mark.parametrize("combine", ["sum", "gated"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_that_depends_on_categories_learns(
    make_conditioned, draw, fusion: str, combine: str, frozen: bool
):
    model = make_conditioned(fusion, combine=combine)
    if frozen:
        model.freeze()
    output = model(draw(5, masked=True, categories=draw_categories()))
    (output.prediction.square().sum() + output.abundances.sum()).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    conditioning = {name for name in model.state_dict() if name.startswith("conditioning.")}
    assert conditioning
    assert conditioning <= with_gradient
    assert any(name.startswith("encoder.") for name in with_gradient) != frozen
    # tables of the columns that are read and of the region above them, none of the column that only scales
    assert sum(".tables." in name for name in conditioning) == 3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_categories_under_autocast(make_conditioned, draw, fusion: str):
    model = make_conditioned(fusion, combine="gated")
    samples = draw(6, masked=True, categories=draw_categories())
    whole = model(samples).prediction
    with torch.autocast("cpu", torch.bfloat16):
        output = model(samples)
    assert output.prediction.dtype == torch.float32
    torch.testing.assert_close(output.prediction, whole, atol=0.02, rtol=0.1)
    (output.prediction.square().sum() + output.abundances.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("joins", get_args(CountEmbedding))
def test_every_way_of_reading_abundance_learns_and_masks_it(make_encoder, draw, joins: str):
    samples = draw(5, masked=True)
    model = SequencePredictor(
        make_encoder(count_embedding=joins), ONE, TargetConfig(metadata_column="age", count_weight=1.0)
    )
    output = model(samples)
    (output.prediction.square().sum() + output.abundances.square().sum()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    counts, swapped = samples.counts, samples.counts.clone()
    row = int((~samples.padding).sum(1).argmax())
    swapped[row, 0], swapped[row, 1] = counts[row, 1], counts[row, 0]
    assert not torch.equal(swapped, counts)
    assert torch.equal(model(samples._replace(counts=swapped)).abundances, output.abundances), "not seen where masked"

from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aam.config import CategoricalFusion, CategoryConfig
from aam.models.fusion import CategoryAttention, Conditioning, FusedSamples, build_fusion
from aam.models.pooling import AttentionPooling
from aam.models.types import CategorySpec, CategoryVectors

FUSIONS = get_args(CategoricalFusion)
UNDISTURBED = ("add", "cross_attention", "perceiver")
WIDTH, SIZE, COLUMNS = 8, 6, 3
SPEC = CategorySpec(sizes=(5, 4, 6, 4), parents=(3, None, None, None), fused=COLUMNS)
exact = {"rtol": 1e-10, "atol": 1e-10}


def config(fusion: str, **options: object) -> CategoryConfig:
    heads = {"cross_attn_heads": 2} if fusion in ("cross_attention", "perceiver") else {}
    given = {"categorical_columns": "a,b,c", "categorical_fusion": fusion, "categorical_dim": SIZE} | heads | options
    return CategoryConfig.model_validate(given)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(rows: int = 4, asvs: int = 7, extra: int = 0) -> FusedSamples:
    """Samples of which the second has no padding, and with ``extra`` more of it none."""
    context = drawn(rows, asvs, WIDTH, seed=1)
    padding = torch.arange(asvs) >= torch.tensor([3, asvs, 1, 5])[:rows, None]
    context, padding = (
        functional.pad(context, (0, 0, 0, extra), value=7.0),
        functional.pad(padding, (0, extra), value=1),
    )
    torch.manual_seed(0)
    pooling = AttentionPooling(WIDTH, 2).double()

    def pool(x: Tensor, absent: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return pooling(x.double(), absent)

    return FusedSamples(pool(context, padding), context, padding, pool)


def vectors(rows: int = 4) -> CategoryVectors:
    columns = drawn(rows, COLUMNS, SIZE, seed=2) * SIZE**-0.5
    return CategoryVectors(columns, columns.flatten(1))


def fusion_of(name: str, started: bool = False) -> nn.Module:
    """As it starts, or with maps that are zero at the start drawn too, as after some training."""
    torch.manual_seed(3)
    fusion = build_fusion(config(name), SPEC, WIDTH).double()
    for parameter in fusion.parameters():
        if started and not parameter.any():
            nn.init.normal_(parameter, std=0.5)
    return fusion


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_says_how_wide_it_is(name: str):
    fusion = fusion_of(name)
    assert fusion(samples(), vectors()).shape == (4, fusion.width)
    assert fusion.width == (WIDTH + COLUMNS * SIZE if name == "concat" else WIDTH)


@pytest.mark.parametrize("name", UNDISTURBED)
def test_some_start_as_the_model_without_categories(name: str):
    given = samples()
    assert torch.equal(fusion_of(name)(given, vectors()), given.embedding)
    assert not torch.allclose(fusion_of(name, started=True)(given, vectors()), given.embedding)


@pytest.mark.parametrize("name", UNDISTURBED)
def test_what_starts_at_zero_learns_at_once(name: str):
    fusion = fusion_of(name)
    fusion(samples(), vectors()).square().sum().backward()
    started = [p for key, p in fusion.named_parameters() if key.startswith(("project.", "output.", "attention.out"))]
    assert any(p.grad.any() and not p.any() for p in started)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_parameter_has_a_gradient(name: str):
    fusion = fusion_of(name, started=True)
    fusion(samples(), vectors()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in fusion.parameters())


@pytest.mark.parametrize("name", FUSIONS)
def test_padding_other_samples_and_the_order_of_asvs_change_nothing(name: str):
    fusion, categories = fusion_of(name, started=True), vectors()
    expected = fusion(samples(), categories)
    torch.testing.assert_close(fusion(samples(extra=4), categories), expected, **exact)
    given = samples()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(5))
    shuffled = given._replace(asv_context=given.asv_context[:, order], padding=given.padding[:, order])
    torch.testing.assert_close(fusion(shuffled, categories), expected, **exact)
    alone = FusedSamples(given.embedding[2:3], given.asv_context[2:3, :1], given.padding[2:3, :1], given.pool)
    one = CategoryVectors(categories.columns[2:3], categories.joined[2:3])
    torch.testing.assert_close(fusion(alone, one), expected[2:3], **exact)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_column_matters(name: str):
    fusion, given = fusion_of(name, started=True), samples()
    before = fusion(given, vectors())
    for column in range(COLUMNS):
        columns = vectors().columns.clone()
        columns[:, column] += 1
        assert ((fusion(given, CategoryVectors(columns, columns.flatten(1))) - before).norm(dim=1) > 1e-4).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_sample_without_asvs_is_finite(name: str):
    fusion, given = fusion_of(name, started=True), samples()
    padding = given.padding.clone()
    padding[0] = True
    context = given.asv_context.clone().requires_grad_()
    output = fusion(FusedSamples(given.pool(context, padding), context, padding, given.pool), vectors())
    assert output.isfinite().all()
    output.sum().backward()
    assert context.grad.isfinite().all()


@pytest.mark.parametrize("name", FUSIONS)
def test_half_precision_stays_finite_and_the_result_is_not_rounded(name: str):
    fusion = fusion_of(name, started=True).float()
    given = samples()

    def pool(x: Tensor, padding: Tensor) -> Tensor:
        return given.pool(x, padding).float()

    half = FusedSamples(given.embedding.float(), given.asv_context.float() * 30, given.padding, pool)
    columns = vectors().columns.float() * 30
    with torch.autocast("cpu", torch.bfloat16):
        output = fusion(half, CategoryVectors(columns, columns.flatten(1)))
    assert output.dtype == torch.float32
    assert output.isfinite().all()
    output.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_a_gated_unit_is_that_of_the_paper():
    fusion, given, categories = fusion_of("gmu"), samples(), vectors()
    x, c = given.embedding, categories.joined
    gate = torch.sigmoid(torch.cat([x, c], 1) @ fusion.gate.weight.T)
    expected = gate * torch.tanh(x @ fusion.sample.weight.T) + (1 - gate) * torch.tanh(c @ fusion.categories.weight.T)
    torch.testing.assert_close(fusion(given, categories), expected, **exact)


def test_concatenation_keeps_both_as_they_are():
    given, categories = samples(), vectors()
    output = fusion_of("concat")(given, categories)
    assert torch.equal(output[:, :WIDTH], given.embedding)
    assert torch.equal(output[:, WIDTH:], categories.joined)


def test_cross_attention_is_that_of_torch_added_to_each_asv():
    fusion, given, categories = fusion_of("cross_attention", started=True), samples(), vectors()
    plain = nn.MultiheadAttention(WIDTH, 2, kdim=SIZE, vdim=SIZE, batch_first=True).double()
    plain.load_state_dict(fusion.attention.state_dict())
    x = given.asv_context
    attended, weights = plain(
        fusion.norm(x), categories.columns, categories.columns, need_weights=True, average_attn_weights=False
    )
    torch.testing.assert_close(fusion(given, categories), given.pool(x + attended, given.padding), **exact)
    real = ~given.padding[:, None, :, None].expand(-1, 2, -1, COLUMNS)
    torch.testing.assert_close(fusion.weights(given, categories)[real], weights[real], **exact)


def test_weights_of_attention_sum_to_one_over_the_columns_of_real_asvs():
    fusion, categories = fusion_of("cross_attention", started=True), vectors()
    given = samples(extra=3)
    weights = fusion.weights(given, categories)
    assert weights.shape == (4, 2, 10, COLUMNS)
    total = weights.sum(-1)
    torch.testing.assert_close(total, (~given.padding)[:, None].expand_as(total).double(), **exact)
    assert not weights[given.padding[:, None, :, None].expand_as(weights)].any()
    torch.testing.assert_close(weights[:, :, :7], fusion.weights(samples(), categories), **exact)
    assert weights[1].std(dim=1).max() > 1e-3, "ASVs differ in what they attend to"


@pytest.mark.parametrize("source", [SIZE, WIDTH])
def test_first_weights_of_attention(source: int):
    torch.manual_seed(0)
    attention = CategoryAttention(64, 4, 64 if source == WIDTH else source, source_std=0.5, output_std=0.0)
    if source == WIDTH:
        query, key, value = attention.in_proj_weight.chunk(3)
    else:
        query, key, value = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    assert query.std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert [part.std().item() for part in (key, value)] == pytest.approx([0.5, 0.5], rel=0.1)
    assert not attention.out_proj.weight.any()
    assert not attention.in_proj_bias.any()


@pytest.mark.parametrize("name", ["cross_attention", "perceiver"])
def test_heads_that_do_not_divide_the_width_are_refused(name: str):
    with pytest.raises(ValueError, match="a width of 8 does not divide among 3 heads"):
        build_fusion(config(name, cross_attn_heads=3), SPEC, WIDTH)


@pytest.mark.parametrize("combine", ["sum", "gated"])
@pytest.mark.parametrize("name", FUSIONS)
def test_an_unseen_city_is_predicted_from_its_region(name: str, combine: str):
    torch.manual_seed(0)
    model = Conditioning(config(name, categorical_hierarchy="a=d", hierarchy_combine=combine), SPEC, WIDTH).double()
    for parameter in model.fusion.parameters():
        nn.init.normal_(parameter, std=0.4)
    given = samples(1)
    # a city, two more columns, and the region
    here, there, known = (
        model(given, torch.tensor([row])).inputs for row in ([1, 2, 3, 2], [1, 2, 3, 3], [3, 2, 3, 2])
    )
    assert (here - there).norm() > 1e-3
    assert (here - known).norm() > 1e-3
    with torch.no_grad():
        model.embedder.tables["0"].weight[3] = model.embedder.tables["3"].weight[2] * (combine == "gated")
    torch.testing.assert_close(model(given, torch.tensor([[3, 2, 3, 2]])).inputs, here, **exact)


def test_only_cross_attention_has_weights_to_show():
    model = Conditioning(config("perceiver"), SPEC, WIDTH).double()
    with pytest.raises(ValueError, match="categorical_fusion cross_attention"):
        model(samples(), torch.full((4, 4), 2), with_attention=True)

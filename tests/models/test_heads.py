"""The target head: predictions stay in their range whatever its weights are, and quantiles in their order."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import TargetConfig
from aam.data.labels.target_table import Targets
from aam.models.heads import OutputScaling, TargetHead, TargetSpec

WIDTH, SAMPLES, CATEGORIES = 5, 7, 3
TRANSFORMS = ("none", "minmax", "zscore", "log-minmax", "log-zscore")
QUANTILES = (0.05, 0.25, 0.5, 0.9)
RNG = np.random.default_rng(3)
TRAINING = pd.DataFrame(
    {"x": RNG.gamma(0.5, 40.0, 30), "y": RNG.uniform(0, 3, 30), "site": ["a", "b", "c"] * 10},
    index=pd.Index([f"s{i}" for i in range(30)], name="sample_id"),
)
SHARES = TRAINING.assign(x=RNG.uniform(0, 1, 30), y=np.linspace(0, 1, 30))
NEW = TRAINING.iloc[:SAMPLES]

weights = st.tuples(
    st.integers(0, 2**31),  # of the numbers
    st.floats(0, 1e4) | st.sampled_from([0.0, 1e-30, 1e30]),  # of how large they are
)


def config(*columns: str, **options) -> TargetConfig:
    return TargetConfig(metadata_column=columns or ("x",), **options)


def spec_of(targets: Targets) -> TargetSpec:
    return TargetSpec(*zip(*((c.outputs, c.quantiles, c.start) for c in targets.columns), strict=True))


def build(made: TargetConfig, table: pd.DataFrame = TRAINING, categories: int = 0) -> tuple[Targets, TargetHead]:
    targets = Targets.fit(table[list(made.metadata_column)], table, np.arange(len(table)), made)
    return targets, TargetHead(WIDTH, spec_of(targets), made, categories)


@torch.no_grad()
def randomize(head: TargetHead, seed: int, size: float) -> None:
    """Any weights, also of the scaling by category."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


@torch.no_grad()
def predict(targets: Targets, head: TargetHead, seed: int = 0, size: float = 1.0, metadata: pd.DataFrame = NEW):
    """Predictions in the targets' own units, of float32 outputs."""
    generator = torch.Generator().manual_seed(seed + 1)
    sample = torch.randn(SAMPLES, WIDTH, generator=generator) * min(size, 1e6)
    category = None
    if head.category_scaling is not None:
        category = torch.randint(CATEGORIES, (SAMPLES,), generator=generator)
    outputs = head(sample, category)
    assert outputs.dtype == torch.float32
    with np.errstate(over="ignore"):  # weights without bound: infinity is not negative
        return targets.decode(outputs.double().numpy(), metadata)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("activation", ["relu", "softplus", "exp"])
@pytest.mark.parametrize("quantiles", [False, True])
@settings(max_examples=15, deadline=None)
@given(weights=weights)
def test_predictions_are_not_negative_whatever_the_weights(activation, transform, quantiles, weights):
    options = {"target_loss": "quantile", "quantiles": QUANTILES} if quantiles else {}
    made = config(output_activation=activation, target_transform=transform, learnable_output_scale=True, **options)
    targets, head = build(made, categories=CATEGORIES)
    randomize(head, *weights)
    predicted = predict(targets, head, *weights).to_numpy()
    finite = ~np.isnan(predicted)  # infinity times zero, of weights without bound
    assert weights[1] > 10 or finite.all()
    assert (predicted[finite] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(weights=weights)
def test_bounded_predictions_stay_between_0_and_1_whatever_the_weights(weights):
    targets, head = build(config("x", "y", bounded_targets=True, learnable_output_scale=True), SHARES, CATEGORIES)
    randomize(head, *weights)
    predicted = predict(targets, head, *weights).to_numpy()
    finite = ~np.isnan(predicted)
    assert weights[1] > 10 or finite.all()
    assert ((predicted[finite] >= 0) & (predicted[finite] <= 1)).all()


RANGES = [
    *({"output_activation": name, "target_transform": "log-zscore"} for name in ("none", "relu", "softplus", "exp")),
    {"normalize_by": "site"},
    {"bounded_targets": True},
]


@pytest.mark.parametrize("options", RANGES)
@settings(max_examples=25, deadline=None)
@given(weights=st.tuples(st.integers(0, 2**31), st.floats(0, 20)))
def test_quantiles_never_cross_whatever_the_weights(options, weights):
    made = config("x", "y", target_loss="quantile", quantiles=QUANTILES, learnable_output_scale=True, **options)
    targets, head = build(made, SHARES if made.bounded_targets else TRAINING, CATEGORIES)
    assert all(len(column.groups.groups) == 3 for column in targets.columns if column.groups is not None)
    randomize(head, *weights)
    predicted = predict(targets, head, *weights)
    for column in targets.columns:
        own = targets.of_column(predicted, column)
        quantiles = own[[f"quantile_{share:g}" for share in QUANTILES]].to_numpy()
        assert (quantiles[:, 1:] >= quantiles[:, :-1]).all()
        assert own["prediction"].tolist() == own["quantile_0.5"].tolist()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("activation", ["relu", "softplus", "exp"])
def test_limited_predictions_start_at_the_mean_of_the_training_samples(activation, transform):
    made = config("x", "y", output_activation=activation, target_transform=transform, learnable_output_scale=True)
    targets, head = build(made, categories=CATEGORIES)
    torch.nn.init.zeros_(head.output.weight)
    values = TRAINING[["x", "y"]]
    mean = np.expm1(np.log1p(values).mean()) if transform.startswith("log-") else values.mean()
    predicted = predict(targets, head)
    assert predicted.to_numpy() == pytest.approx(np.tile(mean.to_numpy(), (SAMPLES, 1)), rel=1e-5)


def test_bounded_predictions_start_at_the_mean_of_the_training_samples():
    targets, head = build(config("x", "y", bounded_targets=True), SHARES)
    torch.nn.init.zeros_(head.output.weight)
    expected = np.tile(SHARES[["x", "y"]].mean().to_numpy(), (SAMPLES, 1))
    assert predict(targets, head).to_numpy() == pytest.approx(expected, rel=1e-5)


def test_quantiles_start_as_those_of_a_normal_variable():
    targets, head = build(config(target_loss="quantile", quantiles=QUANTILES))
    torch.nn.init.zeros_(head.output.weight)
    normal = NormalDist(TRAINING["x"].mean(), TRAINING["x"].std(ddof=0))
    expected = [normal.inv_cdf(share) for share in QUANTILES]
    quantiles = predict(targets, head).to_numpy()[:, 1:]
    assert quantiles == pytest.approx(np.tile(expected, (SAMPLES, 1)), rel=1e-4)


def test_quantiles_of_one_target_do_not_depend_on_the_weights_of_another():
    made = config("x", "y", target_loss=("x=quantile", "y=mse"), quantiles=QUANTILES)
    targets, head = build(made)
    before = predict(targets, head)
    with torch.no_grad():
        head.output.weight[-1] += 1.0
    after = predict(targets, head)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["prediction_y"]


def test_every_weight_of_a_head_has_a_gradient():
    """Also of the quantiles' steps, and of what scales them by category."""
    options = {"target_loss": ("x=quantile", "y=mse"), "output_activation": "softplus", "learnable_output_scale": True}
    _, head = build(config("x", "y", quantiles=QUANTILES, regressor_hidden_dims=(4,), **options), categories=CATEGORIES)
    category = torch.arange(SAMPLES) % CATEGORIES
    head(torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0)), category).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


SPEC = TargetSpec(outputs=(1, 3), quantiles=((), (0.1, 0.5, 0.9)), start=(0.0, 0.0))


@pytest.mark.parametrize("category", [None, torch.tensor([0, 2, 1, 2])])
def test_scaling_is_the_identity_at_the_start(category):
    scaling = OutputScaling(CATEGORIES if category is not None else 1, SPEC)
    prediction = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scaling(prediction, category), prediction)


def test_scaling_takes_the_row_of_the_category_and_one_number_for_a_target():
    scaling = OutputScaling(CATEGORIES, SPEC)
    with torch.no_grad():
        scaling.log_scale[1] = torch.tensor([2.0, 3.0]).log()
        scaling.offset[2] = torch.tensor([10.0, 20.0])
    scaled = scaling(torch.tensor([[1.0, 2.0, 3.0, 4.0]]).repeat(3, 1), torch.tensor([0, 1, 2]))
    expected = torch.tensor([[1.0, 2, 3, 4], [2, 6, 9, 12], [11, 22, 23, 24]])
    assert torch.allclose(scaled, expected)


def test_a_head_with_categories_predicts_the_same_of_all_at_the_start_and_learns_them_apart():
    _, head = build(config(), categories=CATEGORIES)
    _, plain = build(config())
    plain.load_state_dict({n: v for n, v in head.state_dict().items() if "scaling" not in n})
    sample = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    category = torch.tensor([0, 1, 1, 2])
    assert torch.equal(head(sample, category), plain(sample))
    head(sample[:3], category[:3]).sum().backward()
    for parameter in head.category_scaling.parameters():
        assert (parameter.grad[:, 0] != 0).tolist() == [True, True, False]


def test_a_learnable_scale_is_one_number_and_an_offset_of_each_target():
    made = config("x", "y", learnable_output_scale=True)
    _, head = build(made)
    assert {n: tuple(p.shape) for n, p in head.scaling.named_parameters()} == {"log_scale": (1, 2), "offset": (1, 2)}
    assert build(config("x", "y"))[1].scaling is None


def test_a_scale_of_a_category_acts_within_the_range():
    """The activation is applied last, so that no offset makes a prediction negative."""
    targets, head = build(config(output_activation="relu"), categories=CATEGORIES)
    with torch.no_grad():
        head.category_scaling.offset.fill_(-1e6)
    assert (predict(targets, head)["prediction"] == 0).all()


def test_a_standardizing_norm_gives_every_dimension_mean_zero_and_deviation_one():
    torch.manual_seed(0)
    vectors = torch.randn(1, 16) + 0.05 * torch.randn(200, 16)
    vectors[:, 3] = vectors[:, 3].mean()  # nearly constant: is not blown up
    head = TargetHead(16, TargetSpec((1,), ((),), (0.0,)), TargetConfig.model_validate({"metadata_column": "age"}))
    with torch.no_grad():
        for name, value in head.standardizing(vectors).items():
            getattr(head.norm, name).copy_(value)
        read = head.norm(vectors)
    torch.testing.assert_close(read.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    others = [place for place in range(16) if place != 3]
    torch.testing.assert_close(read.std(0, unbiased=False)[others], torch.ones(15), atol=1e-3, rtol=0)
    assert read.std(0, unbiased=False)[3] <= 1.001
    assert head.norm.weight.max() <= 100

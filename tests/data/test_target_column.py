"""One column to predict: its values on the scale that is learned, and predictions of them as users read them."""

import json

import numpy as np
import pandas as pd
import pytest

from aam.config import TargetConfig
from aam.data.labels.group_scales import LEAST_SAMPLES
from aam.data.labels.target_column import TargetColumn, check_range
from aam.errors import InputError


def frame(**columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=pd.Index([f"s{i}" for i in range(count)], name="sample_id"))


def target(column: str, **options) -> TargetConfig:
    return TargetConfig(metadata_column=column, **options)


def fit(values: list, **options) -> tuple[TargetColumn, pd.Series, pd.DataFrame]:
    """A column fitted to all samples, their values, and metadata without another column."""
    metadata = frame(x=values)
    return TargetColumn.fit(metadata["x"], metadata, target("x", **options)), metadata["x"], metadata


def again(column: TargetColumn) -> TargetColumn:
    return TargetColumn.from_json(json.loads(json.dumps(column.to_json())))


@pytest.mark.parametrize("transform", ["none", "minmax", "zscore", "log-minmax", "log-zscore"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_numbers_come_back_in_their_own_units(transform, activation):
    column, values, metadata = fit([0.0, 2.0, 11.0, 30.5], target_transform=transform, output_activation=activation)
    encoded = column.encode(values, metadata)
    decoded = column.decode(encoded[:, None], metadata)
    assert column.outputs == 1
    assert list(decoded.columns) == ["prediction"]
    assert decoded.index.name == "sample_id"
    assert decoded["prediction"].to_dict() == pytest.approx(values.to_dict())
    assert again(column) == column
    assert (encoded[0] == 0) == (activation != "none" or transform.endswith(("none", "minmax")))


@pytest.mark.parametrize("transform", ["none", "minmax", "zscore", "log-minmax", "log-zscore"])
def test_a_limited_range_starts_at_the_mean_of_the_training_samples(transform):
    values = np.array([0.0, 2.0, 11.0, 30.5])
    column, _, metadata = fit(list(values), target_transform=transform, output_activation="exp")
    start = column.decode(np.full((4, 1), column.start), metadata)["prediction"]
    expected = np.expm1(np.log1p(values).mean()) if transform.startswith("log-") else values.mean()
    assert start.to_numpy() == pytest.approx(np.full(4, expected))
    assert fit(list(values), target_transform=transform)[0].start == 0


def test_missing_numbers_stay_missing_on_the_learned_scale():
    column, _, _ = fit([1.0, 3.0], target_transform="minmax")
    other = frame(x=[5.0, np.nan, 1.0])
    assert column.encode(other["x"], other) == pytest.approx([2.0, np.nan, 0.0], nan_ok=True)


def test_quantiles_are_decoded_with_their_median_as_the_prediction():
    options = {"target_loss": "quantile", "quantiles": (0.05, 0.5, 0.975), "target_transform": "minmax"}
    column, _, metadata = fit([10.0, 20.0], **options)
    decoded = column.decode(np.array([[0.0, 0.5, 2.0], [-1.0, 0.0, 0.1]]), metadata)
    assert (column.outputs, column.point) == (3, 1)
    assert list(decoded) == ["prediction", "quantile_0.05", "quantile_0.5", "quantile_0.975"]
    assert decoded.to_numpy() == pytest.approx(np.array([[15, 10, 15, 30], [10, 0, 10, 11]]))
    assert again(column) == column


def test_each_category_has_its_own_scale_with_normalize_by():
    count = LEAST_SAMPLES
    metadata = frame(
        x=[*np.arange(count), *(100 + 10 * np.arange(count)), 7.0], site=["a"] * count + ["b"] * count + ["c"]
    )
    column = TargetColumn.fit(metadata["x"], metadata, target("x", normalize_by="site"))
    encoded = column.encode(metadata["x"], metadata)
    assert encoded[:count] == pytest.approx(encoded[count:-1])
    assert encoded[:count].mean() == pytest.approx(0)
    assert encoded[-1] == pytest.approx((7.0 - metadata["x"].mean()) / metadata["x"].std(ddof=0))
    assert column.decode(encoded[:, None], metadata)["prediction"].to_numpy() == pytest.approx(metadata["x"].to_numpy())
    one = frame(x=[0.0], site=["b"])
    assert column.decode(np.zeros((1, 1)), one)["prediction"].tolist() == [100 + 10 * (count - 1) / 2]
    assert again(column) == column


def test_classes_are_decoded_with_their_probabilities():
    column, values, metadata = fit(["skin", "gut", "gut", "oral"], classifier=True)
    assert column.outputs == 3
    assert column.encode(values, metadata).tolist() == [2, 0, 0, 1]
    outputs = np.array([[0.0, np.log(2), 0.0], [800.0, 0.0, -800.0]])
    decoded = column.decode(outputs, metadata.iloc[:2])
    assert decoded["prediction"].tolist() == ["oral", "gut"]
    assert list(decoded.index) == ["s0", "s1"]
    probabilities = decoded[["probability_gut", "probability_oral", "probability_skin"]].to_numpy()
    assert probabilities == pytest.approx(np.array([[0.25, 0.5, 0.25], [1, 0, 0]]))
    assert again(column) == column


def test_a_missing_class_has_no_code():
    column, _, _ = fit(["gut", "skin"], classifier=True)
    other = frame(x=["skin", None, "gut"])
    assert column.encode(other["x"], other) == pytest.approx([1, np.nan, 0], nan_ok=True)


def test_a_class_without_a_training_sample_is_refused():
    column, _, _ = fit(["a", "b"], classifier=True)
    other = frame(x=["a", "c"])
    with pytest.raises(InputError, match=r"without a training sample: c \(samples s1\)"):
        column.encode(other["x"], other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"output_activation": "relu"},
            r"--output-activation relu .*'x' .*s1 \(-0.5\), s4 \(-1\); leave the option out",
        ),
        ({"bounded_targets": True}, r"--bounded-targets .*'x' .*s1 \(-0.5\), s3 \(1.5\), s4 \(-1\); divide"),
    ],
)
def test_values_that_a_limited_range_does_not_reach_are_refused(options, says):
    values = frame(x=[0.0, -0.5, np.nan, 1.5, -1.0, 1.0])["x"]
    with pytest.raises(InputError, match=says):
        check_range(values, target("x", **options))
    check_range(values, target("x"))
    check_range(values.iloc[[0, 2, 5]], target("x", **options))

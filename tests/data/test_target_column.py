import numpy as np
import pandas as pd
import pytest

from aam.config import TargetConfig
from aam.data.target_column import TargetColumn, target_values
from aam.errors import InputError


def frame(**columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=pd.Index([f"s{i}" for i in range(count)], name="sample_id"))


def target(column: str, **options) -> TargetConfig:
    return TargetConfig(metadata_column=column, **options)


def test_missing_values_stay_missing():
    metadata = frame(age=[1.5, np.nan, 3.0], text=["4", None, "6"], site=["gut", None, "skin"])
    assert target_values(metadata, target("age")).isna().tolist() == [False, True, False]
    assert target_values(metadata, target("text")).tolist()[::2] == [4.0, 6.0]
    classes = target_values(metadata, target("site", classifier=True))
    assert classes.isna().tolist() == [False, True, False]
    assert list(classes.dropna()) == ["gut", "skin"]


@pytest.mark.parametrize(
    ("values", "classifier", "says"),
    [
        ([np.nan, np.nan], False, "no value for any of the 2 samples"),
        ([np.nan, np.nan], True, "no value for any of the 2 samples"),
        (["low", "high"], False, "not numeric"),
    ],
)
def test_columns_that_cannot_be_learned_are_refused(values, classifier, says):
    with pytest.raises(InputError, match=says):
        target_values(frame(x=values), target("x", classifier=classifier))


def test_an_absent_column_is_refused():
    with pytest.raises(InputError, match="agee"):
        target_values(frame(age=[1.0]), target("agee"))


@pytest.mark.parametrize("transform", ["none", "minmax", "zscore", "log-minmax", "log-zscore"])
def test_numbers_come_back_in_their_own_units(transform):
    values = frame(x=[0.0, 2.0, 11.0, 30.5])["x"]
    column = TargetColumn.fit(values, target("x", target_transform=transform))
    encoded = column.encode(values)
    decoded = column.decode(encoded[:, None], list(values.index))
    assert column.outputs == 1
    assert list(decoded.columns) == ["prediction"]
    assert decoded.index.name == "sample_id"
    assert decoded["prediction"].to_dict() == pytest.approx(values.to_dict())
    assert TargetColumn.from_json(column.to_json()) == column


def test_classes_are_decoded_with_their_probabilities():
    values = frame(x=["skin", "gut", "gut", "oral"])["x"]
    column = TargetColumn.fit(values, target("x", classifier=True))
    assert column.outputs == 3
    assert column.encode(values).tolist() == [2, 0, 0, 1]
    outputs = np.array([[0.0, np.log(2), 0.0], [800.0, 0.0, -800.0]])
    decoded = column.decode(outputs, ["a", "b"])
    assert decoded["prediction"].tolist() == ["oral", "gut"]
    probabilities = decoded[["probability_gut", "probability_oral", "probability_skin"]].to_numpy()
    assert probabilities == pytest.approx(np.array([[0.25, 0.5, 0.25], [1, 0, 0]]))
    assert TargetColumn.from_json(column.to_json()) == column


def test_the_scale_is_that_of_the_training_samples():
    column = TargetColumn.fit(frame(x=[1.0, 3.0])["x"], target("x", target_transform="minmax"))
    assert column.encode(frame(x=[5.0])["x"]).tolist() == [2.0]


def test_a_class_without_a_training_sample_is_refused():
    column = TargetColumn.fit(frame(x=["a", "b"])["x"], target("x", classifier=True))
    with pytest.raises(InputError, match=r"without a training sample: c \(samples s1\)"):
        column.encode(frame(x=["a", "c"])["x"])

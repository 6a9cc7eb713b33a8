"""Columns that are predicted together, each with values of its own missing."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from aam.config import TargetConfig
from aam.data.labels.target_table import Targets, target_values
from aam.errors import InputError

ALL = np.arange(6)


def frame(**columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=pd.Index([f"s{i}" for i in range(count)], name="sample_id"))


def target(*columns: str, **options) -> TargetConfig:
    return TargetConfig(metadata_column=columns, **options)


METADATA = frame(
    ph=[4.0, np.nan, 6.0, 8.0, np.nan, 5.0],
    heat=[np.nan, 10.0, 30.0, np.nan, np.nan, 20.0],
    site=["gut", "skin", None, "gut", "skin", "gut"],
)
QUANTILES = {"target_loss": ("ph=quantile", "heat=mse"), "quantiles": (0.1, 0.5, 0.9)}


def test_missing_values_stay_missing():
    metadata = frame(age=[1.5, np.nan, 3.0], text=["4", None, "6"], site=["gut", None, "skin"])
    values = target_values(metadata, target("text", "age"))
    assert list(values) == ["text", "age"]
    assert values.isna().to_numpy().tolist() == [[False, False], [True, True], [False, False]]
    assert values["text"].tolist()[::2] == [4.0, 6.0]
    classes = target_values(metadata, target("site", classifier=True))["site"]
    assert classes.isna().tolist() == [False, True, False]
    assert list(classes.dropna()) == ["gut", "skin"]


@pytest.mark.parametrize(
    ("values", "classifier", "says"),
    [
        ([np.nan, np.nan], False, "--metadata-column x: no value for any of the 2 samples"),
        ([np.nan, np.nan], True, "--metadata-column x: no value for any of the 2 samples"),
        (["low", "high"], False, "not numeric"),
    ],
)
def test_columns_that_cannot_be_learned_are_refused(values, classifier, says):
    metadata = frame(age=[1.0, 2.0], x=values)
    with pytest.raises(InputError, match=says):
        target_values(metadata, target(*(["x"] if classifier else ["age", "x"]), classifier=classifier))


def test_an_absent_column_is_refused():
    with pytest.raises(InputError, match="agee"):
        target_values(frame(age=[1.0]), target("age", "agee"))


def test_each_target_is_fitted_to_the_training_samples_that_have_it():
    values = target_values(METADATA, target("ph", "heat"))
    targets = Targets.fit(values, METADATA, np.array([0, 1, 2, 4, 5]), target("ph", "heat", target_transform="minmax"))
    ph, heat = (column.scale for column in targets.columns)
    assert (ph.offset, ph.scale) == (4.0, 2.0)
    assert (heat.offset, heat.scale) == (10.0, 20.0)
    expected = [[0, np.nan], [np.nan, 0], [1, 1], [2, np.nan], [np.nan, np.nan], [0.5, 0.5]]
    assert targets.encode(values, METADATA) == pytest.approx(np.array(expected), nan_ok=True)


def test_missing_values_of_one_target_change_nothing_of_another():
    values = target_values(METADATA, target("ph", "heat"))
    both = Targets.fit(values, METADATA, ALL, target("ph", "heat"))
    alone = Targets.fit(values[["ph"]], METADATA, ALL, target("ph"))
    assert both.columns[0] == alone.only


def test_predictions_of_several_targets_are_named_by_them():
    config = target("ph", "heat", target_transform="none", **QUANTILES)
    targets = Targets.fit(target_values(METADATA, config), METADATA, ALL, config)
    outputs = np.arange(24.0).reshape(6, 4)
    decoded = targets.decode(outputs, METADATA)
    assert list(decoded) == [
        "prediction_ph",
        "quantile_0.1_ph",
        "quantile_0.5_ph",
        "quantile_0.9_ph",
        "prediction_heat",
    ]
    assert decoded.to_numpy().tolist() == outputs[:, [1, 0, 1, 2, 3]].tolist()
    ph, heat = targets.columns
    assert list(targets.of_column(decoded, ph)) == ["prediction", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    assert targets.of_column(decoded, ph)["quantile_0.9"].tolist() == outputs[:, 2].tolist()
    assert targets.of_column(decoded, heat).to_dict("list") == {"prediction": outputs[:, 3].tolist()}
    assert [part.shape for part in targets.split(outputs)] == [(6, 3), (6, 1)]
    only = Targets((ph,))
    table = only.decode(outputs[:, :3], METADATA)
    assert list(table) == ["prediction", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    assert only.of_column(table, ph) is table


def test_losses_belong_to_targets_by_name():
    config = target("ph", "heat", target_loss=("heat=mae", "mse"))
    targets = Targets.fit(target_values(METADATA, config), METADATA, ALL, config)
    assert [(column.name, column.loss) for column in targets.columns] == [("ph", "mse"), ("heat", "mae")]


@pytest.mark.parametrize(
    "config",
    [
        target("ph", "heat", **QUANTILES),
        target("ph", normalize_by="site"),
        target("ph", output_activation="exp", target_transform="log-minmax"),
        target("site", classifier=True),
    ],
)
def test_json_and_back(config):
    values = target_values(METADATA, config)
    targets = Targets.fit(values, METADATA, np.flatnonzero(values.notna().any(axis=1)), config)
    assert Targets.from_json(json.loads(json.dumps(targets.to_json()))) == targets
    assert targets.is_classes == config.classifier
    assert targets.metadata_columns == (("site",) if config.normalize_by else ())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_activation": "softplus"}, r"--output-activation softplus .*'cold' .*s3 \(-2\)"),
        ({"bounded_targets": True}, r"--bounded-targets .*'ph' .*s0 \(4\)"),
        ({}, "--metadata-column ph: the target is 4.0 in all 1 training samples"),
    ],
)
def test_refusals_name_the_samples_of_either_side_of_the_split(options, says):
    metadata = METADATA.assign(cold=[1.0, 2.0, 3.0, -2.0, 1.0, 0.5])
    config = target("ph", "cold", **options)
    with pytest.raises(InputError, match=says):
        Targets.fit(target_values(metadata, config), metadata, np.array([0, 1]), config)


def test_a_target_without_a_training_sample_is_refused():
    config = target("ph", "heat")
    with pytest.raises(InputError, match="--metadata-column heat: no training sample has a value of the target"):
        Targets.fit(target_values(METADATA, config), METADATA, np.array([0, 3]), config)


def test_samples_of_other_categories_are_told_for_each_target(caplog):
    config = target("ph", "heat", normalize_by="site")
    targets = Targets.fit(target_values(METADATA, config), METADATA, ALL, config)
    assert targets.metadata_columns == ("site",)
    with caplog.at_level(logging.WARNING):
        targets.warn_of_others(METADATA)
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "--normalize-by: for ph",
        "--normalize-by: for heat",
    ]

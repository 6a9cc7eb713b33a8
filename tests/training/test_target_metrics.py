"""Metrics of predictions as users read them, of one target and of several with missing values."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from aam.config import TargetConfig
from aam.data.labels.target_table import Targets, target_values
from aam.training.tasks.target_metrics import better_metrics, score

RNG = np.random.default_rng(8)
METADATA = pd.DataFrame(
    {
        "ph": RNG.normal(7, 1, 30),
        "heat": np.where(np.arange(30) % 3, RNG.normal(20, 5, 30), np.nan),
        "site": ["gut", "skin", "soil"] * 10,
    },
    index=pd.Index([f"s{i}" for i in range(30)], name="sample_id"),
)
QUANTILES = {"target_loss": ("ph=quantile", "heat=mae"), "quantiles": (0.1, 0.5, 0.9)}


def fit(*columns: str, **options) -> tuple[Targets, pd.DataFrame]:
    config = TargetConfig(metadata_column=columns, **options)
    values = target_values(METADATA, config)
    return Targets.fit(values, METADATA, np.arange(30), config), values


def predictions(targets: Targets) -> pd.DataFrame:
    outputs = np.random.default_rng(2).normal(size=(30, sum(column.outputs for column in targets.columns)))
    if targets.columns[0].quantiles:
        outputs[:, :3].sort(axis=1)
    return targets.decode(outputs, METADATA)


def test_one_target_keeps_the_plain_names():
    targets, values = fit("ph")
    predicted = predictions(targets)
    metrics = score(targets, predicted, values)
    assert metrics["r2"] == pytest.approx(reference.r2_score(values["ph"], predicted["prediction"]))
    assert set(metrics) == {"r2", "mae", "rmse", "pearson"}


def test_metrics_of_several_targets_end_in_their_names_and_skip_what_is_missing():
    targets, values = fit("ph", "heat", **QUANTILES)
    predicted = predictions(targets)
    metrics = score(targets, predicted, values)
    assert list(metrics)[:2] == ["r2", "pearson"]
    for name in ("ph", "heat"):
        known = values[name].notna()
        true, own = values[name][known], predicted[f"prediction_{name}"][known]
        assert metrics[f"r2_{name}"] == pytest.approx(reference.r2_score(true, own))
        assert metrics[f"mae_{name}"] == pytest.approx(reference.mean_absolute_error(true, own))
    assert metrics["r2"] == pytest.approx((metrics["r2_ph"] + metrics["r2_heat"]) / 2)
    low, high = predicted["quantile_0.1_ph"], predicted["quantile_0.9_ph"]
    assert metrics["coverage_ph"] == np.mean((low <= values["ph"]) & (values["ph"] <= high))
    assert "coverage_heat" not in metrics


def test_a_target_without_a_held_out_value_leaves_the_mean_to_the_others():
    targets, values = fit("ph", "heat")
    metrics = score(targets, predictions(targets).iloc[:1], values.iloc[:1].assign(heat=np.nan))
    assert metrics["mae_heat"] is metrics["r2_heat"] is None
    metrics = score(targets, predictions(targets), values.assign(heat=np.nan))
    assert metrics["r2"] == metrics["r2_ph"]


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (("ph",), {}),
        (("ph",), {"target_loss": "quantile"}),
        (("ph", "heat"), QUANTILES),
        (("ph", "heat"), {"normalize_by": "site"}),
        (("site",), {"classifier": True}),
    ],
)
def test_the_names_are_those_that_score_gives(columns, options):
    targets, values = fit(*columns, **options)
    assert list(better_metrics(targets)) == list(score(targets, predictions(targets), values))


def test_classes_are_scored_by_their_probabilities():
    targets, values = fit("site", classifier=True)
    predicted = predictions(targets)
    metrics = score(targets, predicted, values)
    assert metrics["accuracy"] == reference.accuracy_score(values["site"], predicted["prediction"])
    probabilities = predicted[["probability_gut", "probability_skin", "probability_soil"]]
    assert metrics["log_loss"] == pytest.approx(reference.log_loss(values["site"], probabilities))


@pytest.mark.parametrize("target", ["ph", "r2", "a/b", "new_mae"])
def test_the_direction_of_a_metric_is_that_of_every_target(target: str):
    table = METADATA.rename(columns={"ph": target})
    config = TargetConfig(metadata_column=(target, "heat"), target_loss="quantile")
    better = better_metrics(Targets.fit(target_values(table, config), table, np.arange(30), config))
    assert better["r2"] is better["pearson"] is True
    for name in (target, "heat"):
        assert better[f"r2_{name}"] is better[f"pearson_{name}"] is True
        assert better[f"mae_{name}"] is better[f"rmse_{name}"] is better[f"pinball_{name}"] is False
        assert better[f"coverage_{name}"] is None


def test_a_loss_of_classes_should_fall_and_all_else_rise():
    better = better_metrics(fit("site", classifier=True)[0])
    assert {name for name, rises in better.items() if not rises} == {"log_loss"}

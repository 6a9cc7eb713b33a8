"""Predictions that are as good as a constant are called so, and others are not."""

import numpy as np
import pandas as pd
import pytest

from aam.config import TargetConfig
from aam.data.labels.target_table import Targets
from aam.evaluation.collapse import complaint

IDS = [f"S{number:02d}" for number in range(40)]
NOISE = np.random.default_rng(0).normal(size=40)
NUMBERS = pd.DataFrame({"age": np.linspace(0.0, 20.0, 40)}, index=IDS)
LABELS = pd.DataFrame({"site": ["gut", "skin"] * 20}, index=IDS)


def targets_of(values, **options):
    config = TargetConfig.model_validate({"metadata_column": tuple(values), **options})
    return Targets.fit(values, values, np.arange(40), config)


@pytest.mark.parametrize(
    ("predicted", "says"),
    [
        (10 + 0.01 * NOISE, "age have 0.00. of the spread of the true values, nearly a constant: try"),
        (10 + 5 * NOISE, "age is predicted no better than by its mean"),
        (np.linspace(0.0, 20.0, 40) + NOISE, None),
    ],
)
def test_numbers(predicted, says):
    table = pd.DataFrame({"prediction": predicted}, index=IDS)
    said = complaint(targets_of(NUMBERS), table, NUMBERS)
    assert said is None if says is None else pd.Series([said]).str.contains(says).all()


@pytest.mark.parametrize(("right", "poor"), [(0.5, True), (0.9, False)])
def test_classes(right, poor):
    gut = np.where((np.arange(40) % 2 == 0) == (np.arange(40) < 40 * right), 0.8, 0.2)
    table = pd.DataFrame({"prediction": "gut", "probability_gut": gut, "probability_skin": 1 - gut}, index=IDS)
    said = complaint(targets_of(LABELS, classifier=True), table, LABELS)
    assert (said is not None) == poor
    if said is not None:
        assert "site is predicted no better than by chance" in said
        assert "--min-steps" in said


def test_one_of_several_columns():
    values = NUMBERS.assign(height=NOISE)
    table = pd.DataFrame({"prediction_age": values["age"], "prediction_height": 0.0}, index=IDS)
    said = complaint(targets_of(values), table, values)
    assert said is not None
    assert "height" in said
    assert "age" not in said.split(":")[0]


def test_a_constant_truth_says_nothing():
    table = pd.DataFrame({"prediction": 0.0}, index=IDS)
    assert complaint(targets_of(NUMBERS), table, NUMBERS * 0 + 3) is None

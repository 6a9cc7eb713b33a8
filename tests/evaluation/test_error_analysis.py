"""Errors by properties of samples."""

import numpy as np
import pandas as pd
import pytest

from aam.evaluation.error_analysis import (
    categories_of,
    class_errors,
    errors_by,
    number_errors,
    spread_explained,
    telling_columns,
)


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_errors_of_numbers_and_classes():
    errors = number_errors(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0]))
    assert errors["error"].tolist() == [1, 0, 2]
    assert errors["bias"].tolist() == [1, 0, -2]
    probability = np.array([[0.8, 0.2], [0.6, 0.4]])
    errors = class_errors(np.array([0, 1]), probability)
    assert errors["error"].tolist() == [0, 1]
    assert errors["log_loss"].tolist() == pytest.approx([-np.log(0.8), -np.log(0.4)])


def test_means_of_each_value_are_those_of_its_samples(random):
    true, predicted = random.normal(size=(2, 60))
    site = np.array(["b", "a", None] * 20, dtype=object)
    errors = number_errors(true, predicted)
    groups = np.array([f"g{place // 2}" for place in range(60)])
    table = errors_by(errors, site, groups)
    assert table["value"].tolist() == ["a", "b"]
    for row in table.itertuples():
        own = site == row.value
        assert row.samples == own.sum()
        assert row.groups == len(set(groups[own]))
        assert row.error == pytest.approx(np.abs(predicted - true)[own].mean())
        assert row.bias == pytest.approx((predicted - true)[own].mean())
        assert row.low < row.error < row.high


def test_an_interval_is_wider_where_few_groups_hold_the_samples(random):
    size = np.abs(np.repeat(random.normal(size=12), 10))  # samples of a group have one error
    errors = pd.DataFrame({"error": size})
    everywhere = np.array(["x"] * 120, dtype=object)
    by_group = errors_by(errors, everywhere, np.repeat([f"g{n}" for n in range(12)], 10)).iloc[0]
    by_sample = errors_by(errors, everywhere, np.array([f"s{n}" for n in range(120)])).iloc[0]
    assert by_group["high"] - by_group["low"] > 2 * (by_sample["high"] - by_sample["low"])
    assert np.isnan(errors_by(errors, everywhere, np.repeat(["a", "b"], 60)).iloc[0]["low"])


def test_numbers_are_put_into_parts_of_about_equally_many_samples():
    names = categories_of(np.array([*range(100), np.nan], dtype=np.float64))
    assert names.isna().sum() == 1
    assert names.value_counts().tolist() == [20] * 5
    assert list(names.cat.categories) == ["0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 to 99"]
    assert list(categories_of(np.array([2.0, 1.0, 1.0])).cat.categories) == ["1", "2"]
    assert categories_of(np.array([7.0] * 90 + [8.0, 9, 10, 11, 12, 13])).iloc[0].startswith("7")


def test_only_what_tells_errors_apart_explains_them(random):
    site = np.repeat(["a", "b", "c"], 40).astype(object)
    errors = pd.Series(np.repeat([1.0, 2.0, 3.0], 40) + 0.1 * random.normal(size=120))
    assert spread_explained(errors, site) > 0.95
    assert spread_explained(errors, random.permutation(site)) < 0.1
    many = np.array([f"v{place // 3}" for place in random.permutation(120)], dtype=object)
    assert spread_explained(pd.Series(random.normal(size=120)), many) < 0.2  # not larger for many values by itself
    assert np.isnan(spread_explained(errors, np.array(["one"] * 120, dtype=object)))
    assert np.isnan(spread_explained(pd.Series(np.ones(120)), site))


def test_columns_are_ordered_by_what_they_tell(random):
    errors = pd.Series(np.repeat([1.0, 3.0], 30))
    metadata = pd.DataFrame(
        {
            "noise": random.permutation(np.repeat(["x", "y"], 30)),
            "cause": np.repeat(["p", "q"], 30),
            "constant": "k",
            "id": [f"s{n}" for n in range(60)],
            "seldom": pd.Series([None] * 50 + ["u", "v"] * 5, dtype=object),
            "depth": np.arange(60.0),
        }
    )
    table = telling_columns(errors, metadata)
    assert table["column"].tolist() == ["cause", "depth", "noise"]
    assert table["explained"].iloc[0] == pytest.approx(1)

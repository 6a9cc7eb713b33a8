"""How often intervals and sets hold the true value."""

import numpy as np
import pandas as pd
import pytest

from aam.evaluation.comparison import OutOfFold
from aam.evaluation.coverage import coverage_table, covering

GROUPS = pd.Series({"s1": "a", "s2": "a", "s3": "a", "s4": "b"})


def rows(learner: str, **columns) -> pd.DataFrame:
    head = {"sample_id": list(GROUPS.index), "learner": learner, "repeat": 1, "fold": 1}
    return pd.DataFrame(head | columns)


def numbers(low, high) -> pd.DataFrame:
    return rows("kernel", true=[1.0, 2.0, 3.0, 4.0], prediction=[1.0, 2.0, 3.0, 4.0], low=low, high=high)


def classes(learner: str, sets: list[str]) -> pd.DataFrame:
    probabilities = {"probability_x,y": [0.5] * 4, "probability_z": [0.5] * 4}
    return rows(learner, true=["x,y", "z", "z", "z"], prediction=["z"] * 4, set=sets, **probabilities)


def test_groups_count_alike():
    """One of three samples of a is not held, the one of b is: (2 / 3 + 1) / 2."""
    table = numbers([0, 0, 3.5, 3], [2, 2, 4, 6])
    (row,) = coverage_table(table, OutOfFold.of(table, GROUPS, 1), 0.9).to_dict("records")
    assert row["coverage"] == pytest.approx(5 / 6)
    assert row["width"] == pytest.approx((1.5 + 3) / 2)
    assert np.isnan(row["low"])  # of two groups there is no interval of it


def test_samples_without_an_interval_do_not_count():
    table = numbers([np.nan, 0, 3.5, np.nan], [np.nan, 2, 4, np.nan])
    (row,) = coverage_table(table, OutOfFold.of(table, GROUPS, 1), 0.9).to_dict("records")
    assert (row["coverage"], row["width"]) == (pytest.approx(0.5), pytest.approx(1.25))


def test_sets_hold_names_with_commas_and_learners_without_sets_are_not_there():
    table = pd.concat([classes("kernel", ['"x,y"', '"x,y"', 'z,"x,y"', ""]), classes("linear", [""] * 4)])
    table = pd.concat([table, classes("other", [""] * 4).assign(set=np.nan)], ignore_index=True)
    found = coverage_table(table, OutOfFold.of(table, GROUPS, 1), 0.8)
    assert list(found["learner"]) == ["kernel"]
    assert found["coverage"].to_list() == [pytest.approx(2 / 3)]
    assert found["set_size"].to_list() == [pytest.approx(4 / 3)]


def test_nothing_is_asked_for():
    table = numbers([0] * 4, [9] * 4).drop(columns=["low", "high"])
    out = OutOfFold.of(table, GROUPS, 1)
    for level in (None, 0.9):
        found = coverage_table(table, out, level)
        assert found.empty
        assert covering(found, "kernel", "age", "groups (child)") == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"width": 3.25}, "intervals of 90% that kernel gives hold the true value of 0.85 of held-out samples "),
        (
            {"width": 3.25},
            "(95 % 0.80 to 0.88) and are 3.25 of age wide on average: fewer than they should, beyond noise",
        ),
        ({"width": 3.25, "high": 0.95}, "(95 % 0.80 to 0.95) and are 3.25 of age wide on average"),
        ({"set_size": 1.5}, "and have 1.5 classes on average"),
        ({"width": np.inf}, "are infinite in some folds: their training samples are of fewer than 9 groups (child)"),
    ],
)
def test_what_is_said_of_them(row, said):
    table = pd.DataFrame([{"learner": "kernel", "level": 0.9, "coverage": 0.85, "low": 0.8, "high": 0.88, **row}])
    (text,) = covering(table, "kernel", "age", "groups (child)")
    assert said in text
    assert text.endswith("beyond noise") == (row == {"width": 3.25} or "set_size" in row)
    assert covering(table, None, "age", "groups (child)") == []

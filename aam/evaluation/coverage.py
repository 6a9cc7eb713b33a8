"""How often the intervals or sets of a comparison hold the true value, for samples of groups that were held out.

Shapes: n samples that were held out.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aam.evaluation.comparison import OutOfFold
from aam.evaluation.intervals import Floats, Interval
from aam.evaluation.verdict import shown_interval
from aam.learners.conformal import fewest_groups, listed

SIZES = {True: "set_size", False: "width"}
"""What the size of a set of classes, and that of an interval, are called."""


class _Row(NamedTuple):
    learner: str
    level: float
    coverage: float
    low: float
    high: float
    size: float
    """Mean width, or number of classes."""


def coverage_table(table: pd.DataFrame, out: OutOfFold, level: float | None) -> pd.DataFrame:
    """One row for each learner that gives intervals, or for classes sets.

    Columns: learner, level, coverage (fraction of the samples of a held-out group whose interval holds the true value,
    as mean over groups, each counting alike: this is what the method of `aam.learners.conformal` promises), low and
    high (95 % interval of that over groups), and width (in units of the target) or set_size (classes), likewise means.
    Samples count as means over repeats; those without an interval do not.

    Args:
        table: as of `prediction_table`.
        out: the same predictions by sample.
        level: of the intervals.
    """
    columns = [*_Row._fields[:-1], SIZES[bool(out.classes)]]
    if level is None:
        return pd.DataFrame(columns=columns)
    learners = [name for name in out.predicted if _has(table, name)]
    return pd.DataFrame([_row(table[table["learner"] == name], out, name, level) for name in learners], columns=columns)


def _has(table: pd.DataFrame, learner: str) -> bool:
    column = "set" if "set" in table else "low"
    if column not in table:
        return False
    own = table.loc[table["learner"] == learner, column]
    return bool((own.notna() & (own != "")).any())


def _row(table: pd.DataFrame, out: OutOfFold, learner: str, level: float) -> _Row:
    held, size = _sets(table) if out.classes else _intervals(table)
    means = pd.DataFrame({"sample_id": table["sample_id"], "held": held, "size": size}).dropna()
    means = means.groupby("sample_id").mean().reindex(list(out.sample_ids))
    known = means["held"].notna().to_numpy()
    code = out.boot.code
    weight = np.where(known, 1 / np.maximum(np.bincount(code[known], minlength=out.boot.groups), 1)[code], 0.0)
    covered = np.where(known, means["held"], 0.0) * weight
    with np.errstate(invalid="ignore"):  # a draw of groups without an interval has no coverage
        drawn = out.boot.sums(covered) / out.boot.sums(weight)
    wide = float((means["size"].to_numpy()[known] * weight[known]).sum() / weight.sum())
    return _Row(learner, level, float(covered.sum() / weight.sum()), *out.boot.interval(drawn), wide)


def _intervals(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Whether each interval holds the true value, and how wide it is; NaN where there is none."""
    true, low, high = (table[name].to_numpy(np.float64) for name in ("true", "low", "high"))
    held = ((low <= true) & (true <= high)).astype(np.float64)
    return np.where(np.isnan(low), np.nan, held), high - low


def _sets(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Whether each set holds the true class, and how many it has; NaN where there is none."""
    sets = [listed(text) for text in table["set"]]
    size = np.array([len(names) or np.nan for names in sets])
    held = np.array([float(true in names) for true, names in zip(table["true"], sets, strict=True)])
    return np.where(np.isnan(size), np.nan, held), size


def covering(table: pd.DataFrame, learner: str | None, column: str, unit: str) -> list[str]:
    """Say how often the intervals of a learner hold the true value, and how wide they are."""
    found = [] if learner is None else table[table["learner"] == learner].to_dict("records")
    return [_said(row, column, unit) for row in found]


def _said(row: Mapping[Hashable, Any], column: str, unit: str) -> str:
    what, size = ("sets", row["set_size"]) if "set_size" in row else ("intervals", row["width"])
    named = f"{what} of {row['level']:.0%} that {row['learner']} gives"
    if np.isinf(size):
        fewest = fewest_groups(row["level"])
        return f"{named} are infinite in some folds: their training samples are of fewer than {fewest} {unit}"
    wide = f"have {size:.3g} classes" if what == "sets" else f"are {size:.3g} of {column} wide"
    shown = shown_interval(Interval(row["low"], row["high"]))
    told = f"{named} hold the true value of {row['coverage']:.2f} of held-out samples" + (
        f" ({shown})" if shown else ""
    )
    short = "" if np.isnan(row["high"]) or row["high"] >= row["level"] else ": fewer than they should, beyond noise"
    return f"{told} and {wide} on average{short}"

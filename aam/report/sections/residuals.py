"""Errors of the best learner by group, depth, number of ASVs, and columns of the metadata."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.data.files.metadata import categorical_column
from aam.errors import InputError
from aam.evaluation.error_analysis import errors_by, telling_columns
from aam.report.blocks import (
    Block,
    Cell,
    Folded,
    Gallery,
    Part,
    Picture,
    Table,
    Text,
    cell,
    correlated,
    count,
    ranged,
    rows_of,
    shown,
)
from aam.report.drawing import FAINT, SERIES, canvas, few_ticks, log_axis, scatter, shortened, thinned
from aam.report.predicted import Predicted, best_of
from aam.report.runs import Run
from aam.report.sections.data import gone
from aam.report.studies import NoStudy

MOST_GROUPS: Final = 40
"""Groups of a figure: the worst of more."""
MOST_COLUMNS: Final = 3
"""Columns that are shown unless the user names some."""
LEAST_EXPLAINED: Final = 0.01
SAME: Final = 0.95
"""Rank correlation with the target from which a column is the target by another name."""
SEED: Final = 42


def residuals(run: Run) -> list[Part]:
    """Which samples are predicted badly."""
    best = best_of(run)
    if best is None:
        return []
    unit = "bias (predicted less true)" if best.number is not None else "fraction of wrong classes"
    blocks: list[Block] = [Text(f"Of {best.learner}, {len(best.ids):,} {best.what}. Figures show the {unit}.")]
    of_groups = _group_pictures(best)
    study = run.study
    if isinstance(study, NoStudy):
        return [Part([*blocks, *([Gallery(of_groups)] if of_groups else []), *_group_table(best), gone(study)])]
    rows = [study.table.sample_ids.index(name) for name in best.ids]
    depth, held = study.table.depth[rows], np.diff(study.table.counts.indptr)[rows]
    pictures: list[Picture] = []
    if best.number is not None:
        pictures += [_cloud(best, depth, "reads of a sample"), _cloud(best, held, "ASVs of a sample")]
    tables: list[Block] = [
        _by(best, np.asarray(depth, np.float64), "reads of a sample"),
        _by(best, np.asarray(held, np.float64), "ASVs of a sample"),
    ]
    if study.metadata is not None:
        tables += _by_columns(run, best, study.metadata.loc[list(best.ids)])
    return [Part([*blocks, Gallery([*pictures, *of_groups]), *_group_table(best), *tables])]


def _value(best: Predicted) -> str:
    """The error that figures show: signed where there are signs."""
    return "bias" if best.number is not None else "error"


def _group_means(best: Predicted) -> pd.DataFrame:
    errors = best.errors.assign(group=best.groups)
    means = errors.groupby("group").mean()
    means.insert(0, "samples", errors.groupby("group").size())
    return means.sort_values("error", ascending=False, kind="stable")


def _group_pictures(best: Predicted) -> list[Picture]:
    """Means of each group with its samples, the worst group on top."""
    if not best.grouped:
        return []
    means = _group_means(best)
    chosen = means.head(MOST_GROUPS)[::-1]
    more = f", the {MOST_GROUPS} worst of {len(means)}" if len(means) > MOST_GROUPS else ""
    worst = ", ".join(f"{name} {shown(row)}" for name, row in means[_value(best)].head(3).items())
    words = "bias" if best.number is not None else "fraction of wrong classes"
    with canvas(
        f"Mean {words} of each group{more}, the worst on top: {worst}.",
        f"{words} by group{more}",
        height=0.5 + 0.16 * len(chosen),
    ) as drawn:
        places = np.arange(len(chosen))
        if best.number is not None:
            at = pd.Series(places, index=chosen.index).reindex(best.groups).to_numpy()
            rows = thinned(len(at))
            rows = rows[np.isfinite(at[rows])]
            scatter(drawn, best.errors["bias"].to_numpy()[rows], at[rows], FAINT, s=5, alpha=0.4)
            drawn.axes.axvline(0, color=FAINT, linewidth=0.8, linestyle="--")
        drawn.axes.plot(chosen[_value(best)], places, "o", color=SERIES[0], markersize=4.5)
        drawn.axes.set_yticks(places, [shortened(name, 18) for name in chosen.index])
        drawn.axes.tick_params(axis="y", labelsize=7)
        drawn.axes.set(xlabel=words, ylabel="group", ylim=(-0.8, len(chosen) - 0.2))
        few_ticks(drawn.axes, "x")
    return [drawn.picture]


def _group_table(best: Predicted) -> list[Block]:
    if not best.grouped:
        return []
    means = _group_means(best)
    frame = means.reset_index().rename(columns={"error": "mean error" if best.number is not None else "wrong"})
    table = Table.of(frame, "Errors by group")
    return [Folded(f"Errors of {count(len(means), 'group')}", table)]


def _cloud(best: Predicted, x: NDArray[Any], name: str) -> Picture:
    """Residuals of samples against a number of theirs, with the median of parts of equally many samples."""
    bias = best.errors["bias"].to_numpy()
    size = best.errors["error"].to_numpy()
    rho = pd.Series(x).corr(pd.Series(size), method="spearman") if min(np.ptp(x), np.ptp(size)) > 0 else np.nan
    rows = thinned(len(x))
    tips = [f"{best.ids[row]}: {shown(bias[row])}" for row in rows]
    told = f"rank correlation of the size of errors with {name}: {correlated(rho)}"
    with canvas(f"Residuals of {len(x)} samples against {name}; {told}.", told) as drawn:
        drawn.axes.axhline(0, color=FAINT, linewidth=0.8, linestyle="--")
        scatter(drawn, x[rows], bias[rows], SERIES[0], tips, s=9, alpha=0.5)
        middle = _medians(np.asarray(x, np.float64), bias)
        drawn.axes.plot(*middle, color=SERIES[1], linewidth=1.8, marker="s", markersize=4)
        log_axis(drawn.axes, "x")
        few_ticks(drawn.axes, "y")
        drawn.axes.set(xlabel=name, ylabel="predicted less true")
    return drawn.picture


def _medians(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    parts = np.array_split(np.argsort(x, kind="stable"), min(6, max(1, len(x) // 5)))
    return [float(np.median(x[part])) for part in parts], [float(np.median(y[part])) for part in parts]


def _by(best: Predicted, values: NDArray[Any], name: str) -> Table:
    """Mean errors of each value or part of a property."""
    found = errors_by(best.errors, values, best.groups, SEED)
    if best.number is not None:
        columns = [name, "samples", "groups", "mean error (95 %)", "bias"]
        tails: Iterator[Cell] = (cell(value) for value in found["bias"])
    else:
        columns = [name, "samples", "groups", "wrong (95 %)", "log loss"]
        tails = (cell(value) for value in found["log_loss"])
    rows = [
        [Cell(row.value), cell(row.samples), cell(row.groups), ranged(row.error, row.low, row.high), tail]
        for row, tail in zip(rows_of(found), tails, strict=True)
    ]
    return Table(columns, rows, f"Errors by {name}")


def _by_columns(run: Run, best: Predicted, metadata: pd.DataFrame) -> list[Block]:
    """Errors by columns that the user names, or by those that tell errors apart the most."""
    for name in run.errors_by:
        if name not in metadata:
            raise InputError(f"--errors-by {name}: the metadata of {run.folder} has no such column")
    named = (best.column, run.group_column)
    others = metadata[
        [name for name in map(str, metadata) if name not in named and not _is_target(metadata, name, best)]
    ]
    telling = telling_columns(best.errors["error"], others)
    blocks: list[Block] = [
        Folded("Columns of the metadata by how much of the errors they explain", _telling_table(telling))
    ]
    chosen = run.errors_by or tuple(telling.loc[telling["explained"] >= LEAST_EXPLAINED, "column"].head(MOST_COLUMNS))
    for name in chosen:
        values = metadata[name]
        plain = values if pd.api.types.is_numeric_dtype(values.dtype) else categorical_column(metadata, name)
        blocks.append(_by(best, plain.to_numpy(), name))
    if chosen and not run.errors_by:
        told = (
            f"{count(len(telling), 'column')} of the metadata were searched for those that tell errors apart the most"
        )
        blocks.append(
            Text(f"{told}: with so many, some do so by chance (--errors-by names columns to look at).", "note")
        )
    return blocks if len(telling) or chosen else []


def _is_target(metadata: pd.DataFrame, name: str, best: Predicted) -> bool:
    """Whether a column of numbers is the target by another name, such as days beside months."""
    if best.number is None or not pd.api.types.is_numeric_dtype(metadata[name].dtype):
        return False
    other, true = metadata[name].reset_index(drop=True), pd.Series(best.true)
    return min(other.nunique(), true.nunique()) > 1 and abs(other.corr(true, method="spearman")) > SAME


def _telling_table(telling: pd.DataFrame) -> Table:
    rows = [(Cell(row.column), cell(row.explained)) for row in rows_of(telling)]
    return Table(["column", "omega squared"], rows, "Fraction of the variance of errors between values of a column")

"""Whether what is predicted goes along with the sequencing depth or with batches."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.data.files.metadata import categorical_column
from aam.data.leakage.group_columns import role_of
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.error_analysis import spread_explained
from aam.report.blocks import Block, Gallery, Part, Picture, Text, correlated
from aam.report.drawing import FAINT, SERIES, canvas, few_ticks, log_axis, scatter, shortened, thinned
from aam.report.predicted import target_of
from aam.report.runs import Run
from aam.report.sections.data import gone
from aam.report.studies import NoStudy

MOST_BATCHES: Final = 25
MOST_COLUMNS: Final = 3
MOST_CLASSES: Final = 12
STRIKING: Final = 0.3
"""Rank correlation with the depth from which it is said to be striking."""


def confounders(run: Run) -> list[Part]:
    """Figures of the target against depth and batches."""
    if not run.columns:
        return []
    study = run.study
    if isinstance(study, NoStudy):
        return [Part([gone(study)])]
    try:
        targets = target_of(run, study)
    except InputError as error:
        return [Part([Text(f"Nothing can be compared: {error}", "note")])]
    place = {name: row for row, name in enumerate(study.table.sample_ids)}
    pictures, texts = [], []
    for column, values in targets.items():
        depth = study.table.depth[[place[name] for name in values.index]]
        picture, told = _against_depth(column, values, depth)
        pictures.append(picture)
        texts.append(told)
        for batch in batch_columns(run, study):
            pictures += _against_batch(column, values, batch, study)
    blocks: list[Block] = [Text(" ".join(texts)), Gallery(pictures)]
    if not batch_columns(run, study):
        blocks.append(Text("No column of batches is known; --batch-column of aam evaluate names one.", "note"))
    return [Part(blocks)]


def batch_columns(run: Run, study: Study) -> list[str]:
    """Columns of batches: those that were named, else those whose name says so."""
    assert study.metadata is not None
    named = run.config.get("comparison", {}).get("batch_column") or [
        str(name) for name in study.metadata.columns if role_of(str(name)) == "run"
    ]
    return [name for name in named if name in study.metadata and name not in run.columns][:MOST_COLUMNS]


def _against_depth(column: str, values: "pd.Series[Any]", depth: NDArray[np.int64]) -> tuple[Picture, str]:
    if pd.api.types.is_float_dtype(values.dtype):
        return _number_against_depth(column, values, depth)
    return _class_against_depth(column, values, depth)


def _number_against_depth(column: str, values: "pd.Series[Any]", depth: NDArray[np.int64]) -> tuple[Picture, str]:
    reads, y = pd.Series(depth), pd.Series(values.to_numpy(np.float64))
    rho = reads.corr(y, method="spearman") if min(np.ptp(depth), np.ptp(y)) > 0 else np.nan
    told = f"{column} and sequencing depth: rank correlation {correlated(rho)}{_striking(abs(rho))}."
    rows = thinned(len(y))
    with canvas(f"{column} of {len(y)} samples against their reads. {told}", f"{column} against depth") as drawn:
        scatter(drawn, depth[rows], y.to_numpy()[rows], SERIES[0], s=9, alpha=0.5)
        log_axis(drawn.axes, "x")
        few_ticks(drawn.axes, "y")
        drawn.axes.set(xlabel="reads of a sample", ylabel=shortened(column))
    return drawn.picture, told


def _class_against_depth(column: str, values: "pd.Series[Any]", depth: NDArray[np.int64]) -> tuple[Picture, str]:
    explained = spread_explained(pd.Series(np.log10(depth)), values.to_numpy())
    told = f"Classes of {column} explain {correlated(explained)} of the variance of log depth{_striking(explained)}."
    names = list(values.value_counts().index[:MOST_CLASSES])[::-1]
    with canvas(
        f"Reads of the samples of each class of {column}. {told}", f"depth by {column}", height=0.5 + 0.26 * len(names)
    ) as drawn:
        _strips(drawn.axes, [depth[(values == name).to_numpy()] for name in names], names)
        log_axis(drawn.axes, "x")
        drawn.axes.set(xlabel="reads of a sample")
    return drawn.picture, told


def _striking(value: float) -> str:
    return ", which is striking: depth may stand in for it" if value >= STRIKING else ""


def _strips(axes: Any, parts: list[NDArray[Any]], names: list[Any]) -> None:
    """Values of each name, one row of dots each, with their medians."""
    for place, part in enumerate(parts):
        rows = thinned(len(part), 200)
        shift = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else np.zeros(len(rows))
        axes.scatter(part[rows], place + shift, s=7, alpha=0.4, linewidths=0, color=FAINT)
        axes.plot(np.median(part), place, "D", color=SERIES[0], markersize=5)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set(ylim=(-0.7, len(names) - 0.3))


def _against_batch(column: str, values: "pd.Series[Any]", batch: str, study: Study) -> list[Picture]:
    assert study.metadata is not None
    batches = categorical_column(study.metadata, batch).loc[values.index].dropna()
    values = values.loc[batches.index]
    names = list(batches.value_counts().index)
    if len(names) < 2:
        return []
    chosen = names[:MOST_BATCHES][::-1]
    more = f", the {MOST_BATCHES} largest of {len(names)}" if len(names) > MOST_BATCHES else ""
    if pd.api.types.is_float_dtype(values.dtype):
        return [_number_by_batch(column, values, batch, batches, (chosen, more))]
    return [_classes_by_batch(column, values, batch, batches, (chosen, more))]


Batches = tuple[list[Any], str]


def _number_by_batch(
    column: str, values: "pd.Series[Any]", batch: str, batches: "pd.Series[Any]", chosen: Batches
) -> Picture:
    names, more = chosen
    explained = correlated(spread_explained(values.reset_index(drop=True), batches.to_numpy()))
    told = f"{batch} explains {explained} of the variance of {column}"
    with canvas(
        f"{column} of the samples of each {batch}{more}; {told}.", told + more, height=0.5 + 0.22 * len(names)
    ) as drawn:
        _strips(drawn.axes, [values[batches == name].to_numpy(np.float64) for name in names], names)
        drawn.axes.set(xlabel=shortened(column), ylabel=shortened(batch))
        few_ticks(drawn.axes, "x")
    return drawn.picture


def _classes_by_batch(
    column: str, values: "pd.Series[Any]", batch: str, batches: "pd.Series[Any]", chosen: Batches
) -> Picture:
    """Bars of the classes of each batch."""
    names, more = chosen
    classes = list(values.value_counts().index)
    kept = classes if len(classes) <= len(SERIES) else classes[: len(SERIES) - 1]
    with canvas(
        f"Fraction of each class of {column} in each {batch}{more}.",
        f"{column} by {batch}{more}",
        height=0.5 + 0.22 * len(names),
    ) as drawn:
        left = np.zeros(len(names))
        for number, name in enumerate(kept):
            own = np.array([float((values[batches == one] == name).mean()) for one in names])
            drawn.axes.barh(range(len(names)), own, left=left, color=SERIES[number], alpha=0.85, label=shortened(name))
            left += own
        rest = 1 - left
        if (rest > 1e-9).any():
            drawn.axes.barh(range(len(names)), rest, left=left, color=FAINT, alpha=0.6, label="others")
        drawn.axes.set_yticks(range(len(names)), [shortened(name) for name in names])
        drawn.axes.set(xlabel="fraction of samples", xlim=(0, 1), ylabel=shortened(batch))
        drawn.axes.legend(loc="upper left", bbox_to_anchor=(0, -0.55 / (0.5 + 0.22 * len(names))), ncols=2)
    return drawn.picture

"""The samples of a run: how many, how deep, what was left out, and the values that are predicted."""

from typing import Any, Final

import numpy as np
import pandas as pd

from aam.data.files.metadata import categorical_column
from aam.data.study import Study
from aam.errors import InputError
from aam.report.blocks import Block, Cell, Folded, Gallery, Part, Picture, Table, Text, cell, count, shown
from aam.report.drawing import SERIES, canvas, few_ticks, log_axis, shortened
from aam.report.predicted import target_of
from aam.report.runs import Run
from aam.report.studies import NoStudy

MOST_BARS: Final = 20
"""Classes of a bar chart; further ones are in the table."""
BINS: Final = 24
SIDE_WORDS: Final = {"train": "training", "val": "validation", "test": "test"}


def data(run: Run) -> list[Part]:
    """Samples, depth, ASVs, groups, values, and what was left out and why."""
    if run.kind in ("explanation", "tuning"):
        return []
    study = run.study
    if isinstance(study, NoStudy):
        return [Part([*_known(run), gone(study), *_left_out(run, None)])]
    blocks: list[Block] = [Text(_told(run, study)), *_known(run)]
    pictures = [_depth_picture(study)]
    tables: list[Block] = []
    if run.columns and study.metadata is not None:
        try:
            for column, values in target_of(run, study).items():
                pictures.append(_value_picture(column, values))
                tables.append(_value_table(column, values))
        except InputError as error:
            blocks.append(Text(f"The values are not shown: {error}", "note"))
    return [Part([*blocks, Gallery(pictures), *tables, *_left_out(run, study)])]


def gone(study: NoStudy) -> Text:
    """Why what needs the input files is not shown."""
    return Text(f"What needs the table, the tree and the metadata is not shown: {study.reason}.", "note")


def _told(run: Run, study: Study) -> str:
    depth, table = study.table.depth, study.table
    held = np.diff(table.counts.indptr)
    return (
        f"{count(table.n_samples, 'sample')} with {count(table.n_asvs, 'ASV')}; a sample has {int(np.median(depth)):,} "
        f"reads (median; {int(depth.min()):,} to {int(depth.max()):,}) of {int(np.median(held)):,} ASVs (median; "
        f"{int(held.min()):,} to {int(held.max()):,}).{_groups_told(run, study)}"
    )


def _groups_told(run: Run, study: Study) -> str:
    column = run.group_column
    if column is None or study.metadata is None or column not in study.metadata:
        return ""
    sizes = categorical_column(study.metadata, column).value_counts()
    return (
        f" They are of {count(len(sizes), 'group')} ({column}) with {int(sizes.median())} samples each (median; "
        f"{sizes.min()} to {sizes.max()})."
    )


def _known(run: Run) -> list[Block]:
    """What the folder itself tells of the samples."""
    split = run.table(run.folder.split, ("sample_id", "split"))
    if split is not None:
        sizes = split["split"].value_counts()
        told = ", ".join(f"{sizes[side]:,} {word}" for side, word in SIDE_WORDS.items() if side in sizes)
        return [Text(f"Split: {told} samples.")]
    folds = run.table(run.folder.fold_table, ("sample_id", "group"))
    if folds is None:
        return []
    samples, repeats = folds["sample_id"].nunique(), folds["repeat"].nunique()
    groups = (
        f" of {count(folds['group'].nunique(), 'group')}" if "group" in folds and folds["group"].notna().any() else ""
    )
    parts = folds.groupby("repeat")["fold"].nunique().max()
    return [
        Text(f"{count(samples, 'sample')}{groups} were held out once in {count(repeats, 'repeat')} of {parts} folds.")
    ]


def _left_out(run: Run, study: Study | None) -> list[Block]:
    """Samples that were not used, by reason."""
    table = run.table(run.folder.left_out, ("sample_id", "reason"))
    if table is None and study is not None:
        assert study.left_out is not None
        table = study.left_out
    if table is None:
        return []
    table = table.assign(reason=[_reason(run, str(reason)) for reason in table["reason"]])
    if table.empty:
        return [Text("No sample was left out.")]
    counts = table["reason"].value_counts()
    rows = [(cell(reason), cell(int(times))) for reason, times in counts.items()]
    summary = Table(["why", "samples"], rows, f"{count(len(table), 'sample was', 'samples were')} left out")
    return [summary, Folded("Which samples were left out", Table.of(table, "Samples left out"))]


def _reason(run: Run, reason: str) -> str:
    return f"no value of {', '.join(run.columns)}" if reason == "not used by the run" and run.columns else reason


def _depth_picture(study: Study) -> Picture:
    depth = study.table.depth
    alt = (
        f"Histogram of the reads of {count(len(depth), 'sample')}: median {int(np.median(depth)):,}, from "
        f"{int(depth.min()):,} to {int(depth.max()):,}."
    )
    with canvas(alt, "Sequencing depth") as drawn:
        low, high = np.log10(depth.min()), np.log10(depth.max())
        edges = np.logspace(low - 0.02, high + 0.02, BINS + 1)
        drawn.axes.hist(depth, bins=list(edges), color=SERIES[0], alpha=0.8)
        log_axis(drawn.axes, "x")
        drawn.axes.set(xlabel="reads of a sample", ylabel="samples")
    return drawn.picture


def _value_picture(column: str, values: "pd.Series[Any]") -> Picture:
    if pd.api.types.is_float_dtype(values.dtype):
        ends = f"from {shown(values.min())} to {shown(values.max())}"
        alt = f"Histogram of {column} in {count(len(values), 'sample')}, {ends}."
        with canvas(alt, f"Values of {column}") as drawn:
            drawn.axes.hist(values, bins=BINS, color=SERIES[0], alpha=0.8)
            few_ticks(drawn.axes, "x")
            drawn.axes.set(xlabel=shortened(column), ylabel="samples")
        return drawn.picture
    sizes = values.value_counts()
    shown_sizes = sizes.head(MOST_BARS)[::-1]
    more = f"; the {MOST_BARS} largest of {len(sizes)}" if len(sizes) > MOST_BARS else ""
    alt = f"Bars of the samples of each class of {column}: " + ", ".join(
        f"{name} {size}" for name, size in sizes.head(5).items()
    )
    with canvas(f"{alt}{more}.", f"Samples by {column}{more}", height=0.4 + 0.2 * len(shown_sizes)) as drawn:
        drawn.axes.barh(range(len(shown_sizes)), shown_sizes, color=SERIES[0], alpha=0.8)
        drawn.axes.set_yticks(range(len(shown_sizes)), [shortened(name) for name in shown_sizes.index])
        few_ticks(drawn.axes, "x")
        drawn.axes.set(xlabel="samples", ylim=(-0.6, len(shown_sizes) - 0.4))
    return drawn.picture


def _value_table(column: str, values: "pd.Series[Any]") -> Block:
    if pd.api.types.is_float_dtype(values.dtype):
        names = ["samples", "mean", "standard deviation", "lowest", "median", "highest"]
        row = [len(values), values.mean(), values.std(), values.min(), values.median(), values.max()]
        return Table(names, [[cell(value) for value in row]], f"Values of {column}")
    sizes = values.value_counts()
    rows = [(Cell(str(name)), cell(int(size)), cell(size / len(values))) for name, size in sizes.items()]
    table = Table([column, "samples", "fraction"], rows, f"Values of {column}")
    return table if len(rows) <= MOST_BARS else Folded(f"All {len(rows)} classes of {column}", table)

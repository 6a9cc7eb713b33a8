"""Scores of learners, with their intervals."""

from typing import Final

import numpy as np
import pandas as pd

from aam.evaluation.scores import LOWER_IS_BETTER
from aam.evaluation.variants import RANDOM, RAREFIED
from aam.evaluation.verdict import NO_MODEL, spelled
from aam.report.blocks import Block, Cell, Folded, Gallery, Part, Picture, Table, Text, cell, ranged, rows_of, shown
from aam.report.drawing import FAINT, INK, SERIES, canvas, few_ticks
from aam.report.predicted import SIDE_NAMES, judged
from aam.report.runs import Run
from aam.training.run_folder import SIDES, VARIANTS

WORDS: Final = {
    "": "as asked for",
    f"_{RAREFIED}": "with as many reads of every sample",
    f"_{RANDOM}": "held out at random, which looks better than new groups",
}
RECALL: Final = "recall_"
FIRST: Final = {"r2": ("r2", "mae"), "balanced_accuracy": ("balanced_accuracy", "auroc")}
"""Scores that are drawn, by the main one."""


def scores(run: Run) -> list[Part]:
    """A table and a figure for each way to look at the samples."""
    if run.kind == "evaluate":
        return _of_evaluation(run)
    return _of_training(run) if run.kind == "train" else []


def _of_evaluation(run: Run) -> list[Part]:
    document = run.document(run.folder.evaluation)
    assert document is not None
    order = [judged(run), *(end for end in VARIANTS if end != judged(run))]
    parts = []
    for end in order:
        table = run.table(run.folder.scores(end), ("learner", "metric"))
        if table is None:
            continue
        unit = f"groups ({run.group_column})" if run.group_column else "samples"
        bars = f"95 % intervals over {unit}" if document.get("interval") else "too few groups for intervals"
        main = str(table["metric"].iloc[0])
        pictures = [_picture(table, metric, bars) for metric in FIRST.get(main, (main,)) if _has(table, metric)]
        blocks: list[Block] = [Gallery(pictures), *_tables(table, bars)]
        if end == judged(run):
            blocks += _differences(run, end)
        several = sum(run.folder.scores(one).exists() for one in VARIANTS) > 1
        parts.append(Part(blocks, f"Scores {WORDS[end]}" if several else ""))
    return parts


def _has(table: pd.DataFrame, metric: str) -> bool:
    return bool(table.loc[table["metric"] == metric, "value"].notna().any())


def _ranked(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    own = table[table["metric"] == metric].dropna(subset=["value"])
    return own.sort_values("value", ascending=metric in LOWER_IS_BETTER, kind="stable")


def _tables(table: pd.DataFrame, bars: str) -> list[Block]:
    """A row for each learner, a column for each metric; recalls of classes, which may be many, apart."""
    metrics = list(dict.fromkeys(table["metric"]))
    recalls = [metric for metric in metrics if metric.startswith(RECALL)]
    plain = [metric for metric in metrics if metric not in recalls]
    caption = f"Scores of learners on samples that they have not seen; {bars}"
    blocks: list[Block] = [_table(table, plain, caption)]
    if recalls:
        blocks.append(Folded("Recall of each class", _table(table, recalls, f"Recall of each class; {bars}")))
    return blocks


def _table(table: pd.DataFrame, metrics: list[str], caption: str) -> Table:
    of = {(row.learner, row.metric): row for row in rows_of(table)}
    rows = []
    for learner in _ranked(table, str(table["metric"].iloc[0]))["learner"]:
        cells = [of.get((learner, metric)) for metric in metrics]
        rows.append(
            [Cell(learner), *(Cell("") if one is None else ranged(one.value, one.low, one.high) for one in cells)]
        )
    return Table(["learner", *map(spelled, metrics)], rows, caption)


def _picture(table: pd.DataFrame, metric: str, bars: str) -> Picture:
    own = _ranked(table, metric)[::-1]
    told = ", ".join(f"{row.learner} {shown(row.value)}" for row in rows_of(own[::-1]))
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    alt = f"{spelled(metric)} of each learner, the best on top ({better} is better): {told}."
    with canvas(alt, f"{spelled(metric)} ({better} is better); {bars}", height=0.4 + 0.24 * len(own)) as drawn:
        axes = drawn.axes
        for place, row in enumerate(rows_of(own)):
            colour = FAINT if row.learner in NO_MODEL else SERIES[0]
            if np.isfinite(row.low) and np.isfinite(row.high):
                axes.plot([row.low, row.high], [place] * 2, color=colour, linewidth=2)
            axes.plot(row.value, place, "o", color=colour, markersize=5)
        forest = own.loc[own["learner"] == "forest", "value"]
        if len(forest):
            axes.axvline(float(forest.iloc[0]), color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
        axes.set_yticks(range(len(own)), list(own["learner"]), color=INK)
        axes.set(xlabel=spelled(metric), ylim=(-0.6, len(own) - 0.4))
        few_ticks(axes, "x")
    return drawn.picture


def _differences(run: Run, end: str) -> list[Block]:
    table = run.table(run.folder.differences(end), ("learner", "reference", "metric"))
    if table is None or table.empty:
        return []
    main = table[table["metric"] == table["metric"].iloc[0]]
    rows = [
        (Cell(row.learner), Cell(row.reference), ranged(row.difference, row.low, row.high), Cell(str(row.beyond_noise)))
        for row in rows_of(main)
    ]
    caption = f"Differences of {spelled(str(table['metric'].iloc[0]))}, over the same draws"
    return [
        Folded(
            "Is that more than noise?", Table(["learner", "less that of", "difference", "beyond noise"], rows, caption)
        )
    ]


def _of_training(run: Run) -> list[Part]:
    """Metrics of held-out samples, and those of a forest and the ensemble beside a network's."""
    baselines = run.document(run.folder.baselines)
    learner = run.config["choice"].get("learner", "neural")
    blocks: list[Block] = []
    for side in reversed(SIDES):
        own = run.document(run.folder.side_metrics(side))
        if own is None:
            continue
        of = {learner: own} if baselines is None else baselines["scores"].get(side, {learner: own})
        names = list(
            dict.fromkeys(
                name for metrics in of.values() for name, value in metrics.items() if not isinstance(value, str)
            )
        )
        rows = [[Cell(each), *(cell(metrics.get(name)) for name in names)] for each, metrics in of.items()]
        chosen = ", which chose the network's checkpoint" if side == "val" and learner == "neural" else ""
        blocks.append(Table(["learner", *map(spelled, names)], rows, f"Scores of {SIDE_NAMES[side]}{chosen}"))
    if blocks:
        blocks.append(Text("One split has no intervals: aam evaluate says how sure such scores are.", "note"))
    return [Part(blocks)] if blocks else []

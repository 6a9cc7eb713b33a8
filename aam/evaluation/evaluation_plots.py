"""Plots of an evaluation, as PNG and SVG: predicted against true, and scores with their intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from sklearn.metrics import confusion_matrix

from aam.data.files.whole_files import whole_file
from aam.evaluation.comparison import OutOfFold
from aam.evaluation.outcome import Evaluation
from aam.evaluation.scores import LOWER_IS_BETTER
from aam.evaluation.variants import MAIN, RANDOM, RAREFIED
from aam.evaluation.verdict import NO_MODEL, spelled
from aam.training.run_folder import ENDINGS, Ending

COLUMNS: Final = 4
COUNTED_CLASSES: Final = 10
"""Classes up to which the cells of a confusion matrix show their counts."""
BASELINE: Final = "0.45"
MODEL: Final = "#1f5fa8"
LOOKS: Final = {MAIN: ("o", MODEL), RAREFIED: ("D", "#c2571a"), RANDOM: ("s", "#3a8a4d")}
"""Marker and colour of each variant."""
SECOND: Final = {"r2": "mae", "balanced_accuracy": "auroc"}
"""The score that is shown beside the main one."""


def save(drawn: Figure, place: Callable[[Ending], Path]) -> None:
    """Write a figure as .png and .svg, the same bytes for the same figure; the folder is made if absent."""
    FigureCanvasAgg(drawn)
    with rc_context({"svg.hashsalt": "aam", "svg.fonttype": "none"}):
        for ending in ENDINGS:
            place(ending).parent.mkdir(exist_ok=True)
            with whole_file(place(ending)) as draft:
                drawn.savefig(draft, dpi=150, metadata={"Date": None} if ending == "svg" else None)


def plot_predictions(evaluation: Evaluation, place: Callable[[Ending], Path]) -> None:
    """Draw out-of-fold predictions of each learner against the truth: points of numbers, confusions of classes."""
    out = evaluation.main.out
    names = list(out.predicted)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    longest = max(map(len, out.classes), default=0)
    size = 3.2 if not out.classes else min(8.0, 2.0 + 0.3 * len(out.classes) + 0.07 * longest)
    drawn = Figure(figsize=(columns * size, rows * (size + 0.5)), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.06))
    for number, name in enumerate(names):
        axes = drawn.add_subplot(rows, columns, number + 1)
        if out.classes:
            _draw_confusion(axes, out, name, first=number % columns == 0)
        else:
            _draw_points(axes, out, name)
        axes.set_title(f"{name}\n{_shown_scores(out, name)}", fontsize=9)
    if out.classes:
        drawn.supxlabel("predicted", fontsize=10)
        drawn.supylabel("true", fontsize=10)
    else:
        drawn.supxlabel(f"true {evaluation.column}", fontsize=10)
        drawn.supylabel(f"predicted {evaluation.column}, out of fold", fontsize=10)
    save(drawn, place)


def _shown_scores(out: OutOfFold, name: str) -> str:
    scores = out.scores[name]
    return ", ".join(f"{spelled(metric)} {scores[metric]:.2f}" for metric in (out.main, SECOND[out.main]))


def _draw_points(axes: Axes, out: OutOfFold, name: str) -> None:
    """Points, on axes that all learners share."""
    values = [out.true, *out.predicted.values()]
    ends = [min(part.min() for part in values), max(part.max() for part in values)]
    margin = 0.04 * (ends[1] - ends[0])
    limits = (ends[0] - margin, ends[1] + margin)
    axes.plot(limits, limits, color="black", linewidth=0.8, linestyle="--")
    colour = BASELINE if name in NO_MODEL else MODEL
    alpha = 0.6 if len(out.true) < 500 else 0.3
    axes.scatter(out.true, out.predicted[name], s=9, alpha=alpha, linewidths=0, color=colour, rasterized=True)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _draw_confusion(axes: Axes, out: OutOfFold, name: str, first: bool) -> None:
    """Fractions of each true class, and counts where they can be read."""
    count = len(out.classes)
    counts = confusion_matrix(out.true, out.predicted[name].argmax(axis=1), labels=range(count))
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Greys" if name in NO_MODEL else "Blues", vmin=0, vmax=1.3)
    if count <= COUNTED_CLASSES:
        for (row, col), cell in np.ndenumerate(counts):
            if cell:
                colour = "white" if fractions[row, col] > 0.6 else "black"
                axes.text(col, row, str(cell), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(count), out.classes, rotation=90, fontsize=8)
    axes.set_yticks(range(count), out.classes if first else [""] * count, fontsize=8)


def plot_scores(evaluation: Evaluation, place: Callable[[Ending], Path]) -> None:
    """Draw the two most telling scores of each learner with their intervals, the best learner on top."""
    main = evaluation.main.out
    names = main.ranking[::-1]
    metrics = (main.main, SECOND[main.main])
    height = 1.4 + (0.24 + 0.16 * len(evaluation.outcomes)) * len(names)
    drawn = Figure(figsize=(8.4, height), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_scores(axes, evaluation, names, metric)
    panels[0].set_yticks(range(len(names)), names)
    for label in panels[0].get_yticklabels():
        label.set_color(BASELINE if label.get_text() in NO_MODEL else "black")
    if len(evaluation.outcomes) > 1:
        handles = [
            Line2D([], [], marker=LOOKS[name][0], color=LOOKS[name][1], markersize=5, label=_legend(evaluation, name))
            for name in evaluation.outcomes
        ]
        drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    drawn.suptitle(_title(evaluation), fontsize=10)
    save(drawn, place)


def _title(evaluation: Evaluation) -> str:
    out = evaluation.main.out
    groups = "" if out.boot.groups == len(out.sample_ids) else f" of {out.boot.groups} groups"
    bars = "lines: 95 % intervals" if out.boot.enough else "too few groups for intervals"
    forest = "; dashed: forest" if "forest" in out.predicted else ""
    return f"{evaluation.column}, {len(out.sample_ids)} held-out samples{groups}; {bars}{forest}"


def _draw_scores(axes: Axes, evaluation: Evaluation, names: list[str], metric: str) -> None:
    outcomes = evaluation.outcomes
    for number, (variant, outcome) in enumerate(outcomes.items()):
        marker, colour = LOOKS[variant]
        shift = 0.2 * ((len(outcomes) - 1) / 2 - number)
        out = outcome.out
        for place, name in enumerate(names):
            interval = out.interval(name, metric)
            own = BASELINE if name in NO_MODEL and variant == MAIN else colour
            axes.plot([interval.low, interval.high], [place + shift] * 2, color=own, linewidth=1.6, alpha=0.75)
            axes.plot(out.scores[name][metric], place + shift, marker, color=own, markersize=5)
    yardstick = evaluation.main.out.scores.get("forest")
    if yardstick is not None:
        axes.axvline(yardstick[metric], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    axes.set_xlabel(f"{spelled(metric)} ({better} is better)", fontsize=9)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(evaluation: Evaluation, variant: str) -> str:
    if variant == RAREFIED:
        return f"{evaluation.outcomes[variant].variant.depth} reads of each sample"
    if variant == RANDOM:
        return "random split"
    return "all reads" if RAREFIED in evaluation.outcomes else "held-out groups"

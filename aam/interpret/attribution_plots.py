"""Plots of attributions: the ASVs with the largest ones over all samples; a sample from baseline to prediction."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from aam.evaluation.evaluation_plots import save
from aam.interpret.attribution import SampleAttribution, mean_absolute
from aam.interpret.explained import ExplainedModel
from aam.interpret.names import Names
from aam.learners.base import Floats
from aam.training.run_folder import RunFolder

SHOWN: Final = 15
"""ASVs that are drawn."""
BLUE, ORANGE = "#1f5fa8", "#c2571a"
"""Of what raises and what lowers a prediction; told apart by all kinds of colour vision."""
_LONGEST: Final = 44
_LEAST_PERCENT: Final = 0.01


def plot_attributions(model: ExplainedModel, samples: Sequence[SampleAttribution], folder: RunFolder) -> None:
    """Draw a dot for each sample and ASV, of the ASVs with the largest mean attribution."""
    names = Names.of(model.study.table, model.study.taxonomy)
    order = np.argsort(-mean_absolute(list(samples)), kind="stable")[:SHOWN][::-1]
    number = explained_class(model, samples)
    values = np.stack([sample.of_asvs[order, number] for sample in samples])
    rows = np.array([sample.row for sample in samples])
    proportion = model.study.asv_proportions[rows][:, order].toarray()
    drawn = Figure(figsize=(8.5, 1.4 + 0.3 * len(order)), layout="constrained")
    axes = drawn.add_subplot()
    shown = _draw_dots(axes, values, proportion)
    axes.set_yticks(range(len(order)), [shortened(names.asv(int(column))) for column in order], fontsize=8)
    axes.set_xlabel(f"attribution: adds to {told(model, number)}", fontsize=9)
    axes.set_title(f"{model.column.name}, {model.learner}: {len(samples)} samples", fontsize=10)
    bar = drawn.colorbar(shown, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("percent of the reads of the sample", fontsize=8)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
    bar.ax.tick_params(labelsize=8)
    save(drawn, folder.attribution_plot)


def _draw_dots(axes: Axes, values: Floats, proportion: Floats) -> ScalarMappable:
    """Dots of each ASV, spread a little; absent ones hollow. Returns what a colour bar is of."""
    spread = np.linspace(-0.28, 0.28, len(values)) if len(values) > 1 else np.zeros(1)
    percent = 100 * proportion
    norm = LogNorm(_LEAST_PERCENT, max(float(percent.max()), 10 * _LEAST_PERCENT), clip=True)
    for place in range(values.shape[1]):
        held = proportion[:, place] > 0
        height = place + spread
        axes.scatter(values[~held, place], height[~held], s=9, facecolors="none", edgecolors="0.6", linewidths=0.6)
        axes.scatter(values[held, place], height[held], s=11, c=percent[held, place], cmap="viridis_r", norm=norm)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.text(0.995, 0.01, "hollow: not in the sample", transform=axes.transAxes, ha="right", fontsize=7, color="0.35")
    return ScalarMappable(norm, "viridis_r")


def plot_sample(model: ExplainedModel, sample: SampleAttribution, folder: RunFolder) -> None:
    """Draw how the largest attributions of a sample lead from the baseline to its prediction."""
    names = Names.of(model.study.table, model.study.taxonomy)
    number = explained_class(model, [sample])
    value = sample.of_asvs[:, number]
    first = np.argsort(-np.abs(value), kind="stable")[:SHOWN]
    first = first[value[first] != 0]
    labels = [shortened(names.asv(int(column))) for column in first]
    steps, others = value[first].tolist(), int(np.count_nonzero(value)) - len(first)
    if others:
        labels.append(f"{others} other ASVs")
        steps.append(float(value.sum() - value[first].sum()))
    start, end = float(sample.contributions.baseline[0, number]), float(sample.contributions.explained[number])
    drawn = Figure(figsize=(8.5, 1.5 + 0.28 * len(steps)), layout="constrained")
    axes = drawn.add_subplot()
    _draw_steps(axes, start, steps)
    axes.set_yticks(range(len(steps)), labels, fontsize=8)
    axes.set_ylim(len(steps) + 0.1, -1.7)
    _mark_ends(axes, start, end)
    words = "blue: raises the prediction; orange: lowers it"
    axes.text(0.995, 0.01, words, transform=axes.transAxes, ha="right", fontsize=7, color="0.35")
    axes.set_xlabel(told(model, number), fontsize=9)
    axes.set_title(
        f"sample {model.study.table.sample_ids[sample.row]}, {model.learner}", fontsize=10, loc="left", pad=14
    )
    save(drawn, folder.attribution_sample_plot)


def _draw_steps(axes: Axes, start: float, steps: Sequence[float]) -> None:
    """Bars, each from where the one above ends."""
    low = high = start
    for place, step in enumerate(steps):
        axes.barh(place, step, left=start, color=BLUE if step > 0 else ORANGE, height=0.65)
        low, high = min(low, start + step), max(high, start + step)
        start += step
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _mark_ends(axes: Axes, start: float, end: float) -> None:
    """Lines at baseline and prediction, named above each other, as they may be near."""
    ends = ((start, end, -0.65, f"baseline {start:.4g}"), (end, start, -1.15, f"prediction {end:.4g}"))
    for at, other, height, text in ends:
        axes.axvline(at, color="0.55", linewidth=0.8, linestyle="--")
        side = "left" if at < other else "right"  # between the lines, where there is room
        axes.annotate(f" {text} ", (at, height), fontsize=8, ha=side, va="bottom")


def explained_class(model: ExplainedModel, samples: Sequence[SampleAttribution]) -> int:
    """The class that is drawn: of two the second, as the other is its mirror; else the most often predicted one."""
    if len(model.classes) <= 2:
        return len(model.classes) // 2
    predicted = [int(np.argmax(sample.contributions.explained)) for sample in samples]
    return int(np.bincount(predicted).argmax())


def told(model: ExplainedModel, number: int) -> str:
    """What is explained, in words."""
    if model.classes:
        return f"probability of {model.column.name} {model.classes[number]}"
    unit = "" if model.in_units else " (on the logarithmic scale that is learned)"
    return f"predicted {model.column.name}{unit}"


def shortened(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"

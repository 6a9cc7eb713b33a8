"""Plots of attributions: the ASVs with the largest ones over all samples; a sample from baseline to prediction."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    bar.set_label("percent of reads (log scale)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    save(drawn, folder.attribution_plot)


def _draw_dots(axes: Axes, values: Floats, proportion: Floats) -> object:
    """Dots of each ASV, spread a little; absent ones hollow. Returns what a colour bar is of."""
    spread = np.linspace(-0.28, 0.28, len(values)) if len(values) > 1 else np.zeros(1)
    percent = np.log10(np.maximum(100 * proportion, 1e-3))
    top = max(float(percent.max()), -1.0)
    shown = None
    for place in range(values.shape[1]):
        held = proportion[:, place] > 0
        height = place + spread
        axes.scatter(values[~held, place], height[~held], s=9, facecolors="none", edgecolors="0.6", linewidths=0.6)
        shown = axes.scatter(
            values[held, place], height[held], s=11, c=percent[held, place], cmap="viridis_r", vmin=-2, vmax=top
        )
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.text(0.995, 0.01, "hollow: not in the sample", transform=axes.transAxes, ha="right", fontsize=7, color="0.35")
    return shown


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
    axes.set_ylim(len(steps) - 0.4, -1.2)
    for at, text in ((start, f"baseline {start:.3g}"), (end, f"prediction {end:.3g}")):
        axes.axvline(at, color="0.55", linewidth=0.8, linestyle="--")
        axes.annotate(text, (at, -0.75), fontsize=8, ha="center", va="bottom", annotation_clip=False)
    axes.set_xlabel(told(model, number), fontsize=9)
    axes.set_title(
        f"sample {model.study.table.sample_ids[sample.row]}, {model.learner}", fontsize=10, loc="left", pad=14
    )
    save(drawn, folder.attribution_sample_plot)


def _draw_steps(axes: Axes, start: float, steps: Sequence[float]) -> None:
    """Bars, each from where the one above ends."""
    for place, step in enumerate(steps):
        axes.barh(place, step, left=start, color=BLUE if step > 0 else ORANGE, height=0.65)
        start += step
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)


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

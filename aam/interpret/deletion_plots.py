"""Plot of a deletion test: change of predictions, and rise of the loss, by the number of ASVs that were taken out."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aam.evaluation.evaluation_plots import save
from aam.training.run_folder import RunFolder

STYLES: Final = {
    "importance": ("#1f5fa8", "-", "o"),
    "attribution": ("#c2571a", "-", "s"),
    "attention": ("#2a8c6e", "-", "^"),
    "abundance": ("0.35", "--", "D"),
    "random": ("0.6", ":", "v"),
}
"""Colour, line and mark of each order, told apart without colours too."""


def plot_deletion(table: pd.DataFrame, title: str, change: str, loss: str, folder: RunFolder) -> None:
    """Draw a curve with an interval for each order; the loss only where it is known.

    Args:
        table: as of `Deletion.table`.
        title: of the figure.
        change: what changes, for the axis.
        loss: what rises, for the axis.
        folder: where the plot goes.
    """
    panels = {"change": change}
    if table["loss_rise"].notna().any():
        panels["loss_rise"] = loss
    drawn = Figure(figsize=(1 + 4.6 * len(panels), 4.2), layout="constrained")
    row = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, label) in zip(row, panels.items(), strict=True):
        _draw(axes, table, name)
        axes.set_ylabel(label, fontsize=9)
    lines, orders = row[0].get_legend_handles_labels()
    labels = ["at random" if order == "random" else f"by {order}" for order in orders]
    drawn.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    drawn.suptitle(title, fontsize=10)
    save(drawn, folder.deletion_plot)


def _draw(axes: Axes, table: pd.DataFrame, name: str) -> None:
    numbers = sorted(table["removed"].unique())
    place = {number: at for at, number in enumerate(numbers)}
    orders = list(dict.fromkeys(table["order"]))
    for turn, order in enumerate(orders):
        rows = table[table["order"] == order]
        colour, line, mark = STYLES[order]
        at = [place[number] + 0.06 * (turn - (len(orders) - 1) / 2) for number in rows["removed"]]
        axes.plot(at, rows[name], color=colour, linestyle=line, marker=mark, markersize=4, linewidth=1.3, label=order)
        axes.vlines(at, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, linewidth=1)
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set_xlabel("ASVs taken out of each sample", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)

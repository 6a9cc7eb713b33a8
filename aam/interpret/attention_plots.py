"""Heat map of the attention of a sample: which ASVs look at which, and what the pooling takes of each."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from aam.evaluation.evaluation_plots import save
from aam.learners.base import Floats
from aam.training.run_folder import RunFolder

SHOWN: Final = 20
"""ASVs that are drawn, those with the most attention."""


def plot_attention(between: Floats, pooling: Floats, names: Sequence[str], title: str, folder: RunFolder) -> None:
    """Draw the ASVs of a sample that receive the most attention.

    Args:
        between: attention of ASVs to ASVs, mean over heads and layers [S, S].
        pooling: what the pooling takes of each, mean over heads [S].
        names: of the ASVs [S].
        title: of the figure.
        folder: where the plot goes.
    """
    order = np.argsort(-(between.mean(axis=0) + pooling), kind="stable")[:SHOWN]
    labels = [names[place] for place in order]
    drawn = Figure(figsize=(10.0, 3.2 + 0.24 * len(order)), layout="constrained")
    heat, bars = drawn.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    shown = heat.imshow(between[np.ix_(order, order)], aspect="auto", cmap="viridis", vmin=0)
    heat.set_yticks(range(len(order)), labels, fontsize=8)
    heat.set_xticks(range(len(order)), labels, fontsize=8, rotation=90)
    heat.set_ylabel("ASV that attends", fontsize=9)
    heat.set_xlabel("ASV that is attended to", fontsize=9)
    bar = drawn.colorbar(shown, ax=heat, location="top", fraction=0.04, pad=0.02)
    bar.set_label("attention, mean over heads and layers", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bars.barh(range(len(order)), pooling[order], color="#1f5fa8", height=0.7)
    bars.axvline(1 / len(pooling), color="0.5", linewidth=0.8, linestyle="--")
    bars.set_xlabel("pooling\n(dashed: all alike)", fontsize=9)
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(labelsize=8)
    drawn.suptitle(title, fontsize=10)
    save(drawn, folder.attention_plot)

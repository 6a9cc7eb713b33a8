"""Predicted against true distances of held-out samples."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aam.evaluation.figures import figure
from aam.training.inference import embed_samples
from aam.training.metrics import DistanceMetrics, Metrics
from aam.training.objective import PretrainObjective

BINS = 120


def write_distance_report(objective: PretrainObjective, folder: Path) -> Metrics:
    """Compare all pairs of held-out samples and write ``val_distances.json`` and ``plots/val_distances.png``.

    Args:
        objective: holds the trained model and the held-out samples.
        folder: the output folder.

    Returns:
        Metrics over the pairs; see `DistanceMetrics`.
    """
    objective.model.eval()
    metrics = DistanceMetrics()
    with torch.no_grad():
        batches = embed_samples(objective.model, objective.nucleotides, objective.held_out, objective.compute)
        embedding = torch.cat([rows for _, rows in batches])
        counts, edges = _histogram(objective.compare_pairs(embedding), metrics)
    values = metrics.compute()
    pairs = {"pairs": int(metrics.moments.count), "samples": len(embedding)}
    (folder / "val_distances.json").write_text(json.dumps(pairs | values, indent=2) + "\n", encoding="utf-8")
    _draw(counts, edges, values, folder / "plots" / "val_distances.png")
    return values


def _histogram(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], metrics: DistanceMetrics
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count pairs by true and predicted distance, so that the memory does not grow with their number."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    counts = np.zeros((BINS, BINS))
    for predicted, true in pairs:
        metrics.update(predicted, true)
        x, y = true.clamp(0, 1).double().numpy(), predicted.clamp(0, 1).double().numpy()
        counts += np.histogram2d(x, y, bins=(edges, edges))[0]
    return counts, edges


def _draw(counts: NDArray[np.float64], edges: NDArray[np.float64], values: Metrics, path: Path) -> None:
    occupied = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    low = edges[max(0, occupied.min() - 2)] if len(occupied) else 0.0
    with figure(path) as axes:
        axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0).T, norm="log", cmap="viridis", rasterized=True)
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        axes.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
        axes.set(xlabel="true distance", ylabel="predicted distance")
        shown = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
        axes.set_title("Pairs of held-out samples: " + ", ".join(shown[:2]), fontsize=10)

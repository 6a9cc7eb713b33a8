"""Predicted against true distances of validation samples."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aam.data.files.whole_files import write_json
from aam.evaluation.figures import figure
from aam.models.types import EncoderOutput
from aam.training.distributed import World
from aam.training.inference.samples import join_moments
from aam.training.metrics import DistanceMetrics, Metrics
from aam.training.objective import Objective
from aam.training.run_folder import RunFolder
from aam.training.tasks.distances import UnifracTask

BINS = 120


def write_distance_report(objective: Objective[EncoderOutput], folder: RunFolder) -> Metrics:
    """Compare all pairs of validation samples and write their metrics and a plot.

    Every rank compares its fraction of the pairs; rank 0 writes.

    Args:
        objective: holds the trained model and the validation samples.
        folder: the output folder.

    Returns:
        Metrics over the pairs; see `DistanceMetrics`.
    """
    world, task = objective.parallel.world, objective.task(UnifracTask)
    metrics = DistanceMetrics()
    with torch.no_grad():
        z = objective.outputs(task, objective.held_out)
        edges = np.linspace(0.0, _largest(task, z, world), BINS + 1)
        counts = _histogram(task.compare_pairs(z), metrics, edges)
    counts = world.sum(torch.from_numpy(counts).to(world.device)).cpu().numpy()
    metrics.moments = join_moments(metrics.moments, world)
    values = metrics.compute()
    pairs = {"pairs": int(metrics.moments.count), "samples": len(z)}
    if world.is_main:
        write_json(folder.distances, pairs | values)
        _draw(counts, edges, values, folder.distances_plot)
    return values


def _largest(task: UnifracTask, z: torch.Tensor, world: World) -> float:
    """Upper end of the distances: 1, or the largest true one where nothing bounds them."""
    if task.bounded:
        return 1.0
    own = max((float(true.max()) for _, true in task.compare_pairs(z) if len(true)), default=0.0)
    return float(world.gather(torch.tensor([own], device=world.device), [1] * world.size).max())


def _histogram(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], metrics: DistanceMetrics, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count pairs by true and predicted distance, so that the memory does not grow with their number."""
    counts = np.zeros((BINS, BINS))
    for predicted, true in pairs:
        metrics.update(predicted, true)
        x, y = (values.double().clamp(0, edges[-1]).numpy() for values in (true, predicted))
        counts += np.histogram2d(x, y, bins=(edges, edges))[0]
    return counts


def _draw(counts: NDArray[np.float64], edges: NDArray[np.float64], values: Metrics, path: Path) -> None:
    occupied = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    low = edges[max(0, occupied.min() - 2)] if len(occupied) else 0.0
    with figure(path) as axes:
        axes.pcolormesh(edges, edges, np.ma.masked_equal(counts, 0).T, norm="log", cmap="viridis", rasterized=True)
        axes.plot([0, edges[-1]], [0, edges[-1]], color="black", linewidth=0.8, linestyle="--")
        axes.set(xlim=(low, edges[-1]), ylim=(low, edges[-1]), aspect="equal")
        axes.set(xlabel="true distance", ylabel="predicted distance")
        shown = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
        axes.set_title("Pairs of validation samples: " + ", ".join(shown[:2]), fontsize=10)

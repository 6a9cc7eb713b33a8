"""`aam find-lr`: the learning-rate range test."""

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from aam.config import FindLrConfig, PretrainFindLrConfig
from aam.data.arrays import Floats
from aam.data.sampling.dataset import StepBatch
from aam.errors import InputError
from aam.evaluation.figures import figure
from aam.training.loading import step_loader
from aam.training.optim import make_optimizer
from aam.workflows.fit import Run
from aam.workflows.folder import check_folder, open_folder
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining
from aam.workflows.tables import write_table

logger = logging.getLogger(__name__)

DIVERGED = 4.0
"""The test ends where the mean of the last losses is this many times its lowest value."""
LAST = 5
"""Losses in that mean."""
WIDTH = 0.05
"""Standard deviation of the smoothing kernel, as a fraction of the steps."""
BEGINNING = 0.1
"""Fraction of the steps, at rates too low to learn anything, of which none is suggested."""
CLEAR_FALL = 0.05
"""Fraction of its value that the smoothed loss must lose for a suggestion to mean anything."""


def find_lr(config: PretrainFindLrConfig) -> float:
    """Pretrain for a few steps at a rising learning rate and suggest one.

    Source: Smith 2017, Cyclical learning rates for training neural networks. Writes a table and a plot of
    losses by rate.

    Raises:
        InputError: a file or an option is wrong, or no rate is better than others; nothing has been written then.
    """
    check_folder(config, config.output)
    pretraining = config.pretraining()
    curve = sweep(prepare_pretraining(load_pretraining_study(pretraining), pretraining), config.search)
    if len(curve) < 3:
        raise InputError(f"--lr-min {config.search.lr_min} diverges within {len(curve)} steps: begin lower")
    best = suggest(curve)
    with open_folder(config, config.output) as folder:
        write_table(curve.set_index("lr"), folder.find_lr)
        _draw(curve, best, folder.find_lr_plot)
    logger.info("the loss falls fastest at a learning rate of %.2g: try --lr %.2g; see %s", best, best, folder)
    return best


def sweep(run: Run, search: FindLrConfig) -> pd.DataFrame:
    """Train while the learning rate rises geometrically; returns columns lr, loss, smoothed_loss."""
    losses: list[float] = []
    means: list[float] = []
    rates = np.geomspace(search.lr_min, search.lr_max, search.lr_steps)
    optimizer, scaler = make_optimizer(run.model, run.config.optim), run.material.compute.scaler()
    for rate, step in zip(rates, _steps(run, search.lr_steps), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = float(run.objective.backward(step.to(run.material.compute.device), scaler.scale)["loss"])
        if not np.isfinite(loss):
            break
        losses.append(loss)
        means.append(float(np.mean(losses[-LAST:])))
        if means[-1] > DIVERGED * min(means):
            break
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return pd.DataFrame({"lr": rates[: len(losses)], "loss": losses, "smoothed_loss": smooth(np.array(losses))})


def _steps(run: Run, count: int) -> DataLoader[StepBatch]:
    """Steps over as many epochs as are needed."""
    epochs = math.ceil(count / run.material.sampler(run.config).steps_per_epoch)
    sampler = run.material.sampler(run.config, epochs)
    return step_loader(run.dataset, sampler, run.config.runtime, run.material.compute.device)


def smooth(losses: Floats) -> Floats:
    """Take weighted geometric means of losses [steps] with a Gaussian kernel around each.

    A running mean would lag behind and suggest too high a rate; an arithmetic one is lost to the first divergence.
    """
    step = np.arange(len(losses))
    width = max(1.0, WIDTH * len(losses))
    kernel = np.exp(-0.5 * np.square((step[:, None] - step) / width))
    logarithm = np.log(np.maximum(losses, np.finfo(np.float64).tiny))
    smoothed: Floats = np.exp(kernel @ logarithm / kernel.sum(axis=1))
    return smoothed


def suggest(curve: pd.DataFrame) -> float:
    """Find the rate at which the smoothed loss falls fastest, relative to its value, before its minimum.

    Raises:
        InputError: the loss does not fall clearly.
    """
    smoothed = curve["smoothed_loss"].to_numpy()
    first = int(BEGINNING * len(curve))
    lowest = first + int(smoothed[first:].argmin())
    fall = 1 - smoothed[lowest] / smoothed[first]
    if fall < CLEAR_FALL:
        raise InputError(
            f"the loss falls by {max(fall, 0):.1%} between learning rates of {curve['lr'].iloc[0]:.2g} and "
            f"{curve['lr'].iloc[-1]:.2g}, too little to suggest one: use more --lr-steps, or other --lr-min and "
            "--lr-max"
        )
    slope = np.gradient(np.log(smoothed))
    return float(curve["lr"].iloc[first + int(slope[first : lowest + 1].argmin())])


def _draw(curve: pd.DataFrame, best: float, path: Path) -> None:
    with figure(path, 6, 4) as axes:
        axes.semilogx(curve["lr"], curve["loss"], alpha=0.3, label="loss")
        axes.semilogx(curve["lr"], curve["smoothed_loss"], label="smoothed")
        axes.axvline(best, color="black", linestyle="--", linewidth=0.8, label=f"suggested: {best:.2g}")
        axes.set(xlabel="learning rate", ylabel="training loss")
        axes.legend(frameon=False)

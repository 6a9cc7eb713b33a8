"""`aam find-lr`: the learning-rate range test."""

import logging

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from aam.config import PretrainFindLrConfig
from aam.errors import InputError
from aam.evaluation.figures import figure
from aam.training.optim import make_optimizer
from aam.workflows.fit import Run
from aam.workflows.folder import check_folder, open_folder
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining
from aam.workflows.tables import write_table

logger = logging.getLogger(__name__)

SMOOTHING = 0.9
DIVERGED = 4.0
"""The test ends where the smoothed loss is this many times its lowest value."""


def find_lr(config: PretrainFindLrConfig) -> float:
    """Pretrain for a few steps at a rising learning rate and suggest one.

    Source: Smith 2017, Cyclical learning rates for training neural networks. The suggestion is where the smoothed loss
    falls fastest. Writes ``find_lr.tsv`` and ``plots/find_lr.png``.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_folder(config, config.output)
    run = prepare_pretraining(load_pretraining_study(config), config)
    curve = sweep(run, config)
    if len(curve) < 3:
        raise InputError(f"--lr-min {config.search.lr_min} diverges within {len(curve)} steps: begin lower")
    folder = open_folder(config, config.output)
    write_table(curve.set_index("lr"), folder / "find_lr.tsv")
    slope = np.gradient(curve["smoothed_loss"].to_numpy(), np.log(curve["lr"].to_numpy()))
    best = float(curve["lr"].iloc[int(slope.argmin())])
    with figure(folder / "plots" / "find_lr.png", 6, 4) as axes:
        axes.semilogx(curve["lr"], curve["loss"], alpha=0.3, label="loss")
        axes.semilogx(curve["lr"], curve["smoothed_loss"], label="smoothed")
        axes.axvline(best, color="black", linestyle="--", linewidth=0.8, label=f"suggested: {best:.2g}")
        axes.set(xlabel="learning rate", ylabel="training loss")
        axes.legend(frameon=False)
    logger.info("the loss falls fastest at a learning rate of %.2g: try --lr %.2g; see %s", best, best, folder)
    return best


def sweep(run: Run, config: PretrainFindLrConfig) -> pd.DataFrame:
    """Train while the learning rate rises geometrically; returns columns lr, loss, smoothed_loss."""
    search = config.search
    rates = np.geomspace(search.lr_min, search.lr_max, search.lr_steps)
    optimizer = make_optimizer(run.model, config.optim)
    epochs = -(-search.lr_steps // run.material.sampler(config).steps_per_epoch)
    endless = config.model_copy(update={"optim": config.optim.model_copy(update={"epochs": epochs})})
    loader = DataLoader(run.dataset, sampler=run.material.sampler(endless), batch_size=None)
    rows: list[tuple[float, float, float]] = []
    mean = 0.0
    for rate, step in zip(rates, loader, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = float(run.objective.backward(step.to(run.material.compute.device), lambda value: value)["loss"])
        if not np.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (len(rows) + 1))
        rows.append((float(rate), loss, smoothed))
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if smoothed > DIVERGED * min(row[2] for row in rows):
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed_loss"])

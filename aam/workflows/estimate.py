"""`aam estimate`: how much memory and time a run would take, without running it."""

import math
import time
from typing import Any

import numpy as np
import torch

from aam.config import EstimatePretrainConfig, EstimateTrainConfig
from aam.data.sampling.dataset import PooledStepDataset, StepBatch, StepPlan
from aam.data.sampling.packing import BatchCost, MemoryBudget
from aam.data.study import load_study
from aam.training.checkpoints.store import CheckpointStore
from aam.training.memory.allocator import keep_freed_memory
from aam.training.memory.budget import GB, Held, held_by_training
from aam.training.trainer import Trainer
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

STEPS = 3
"""Steps that are tried; the first one is not counted."""


def estimate_pretraining(config: EstimatePretrainConfig) -> str:
    """Estimate a pretraining run; see `describe`.

    Raises:
        InputError: a file or an option is wrong.
    """
    asked = config.pretraining()
    return describe(prepare_pretraining(load_pretraining_study(asked), asked))


def estimate_training(config: EstimateTrainConfig) -> str:
    """Estimate a fine-tuning run; see `describe`.

    Raises:
        InputError: a file or an option is wrong.
    """
    asked = config.training()
    study = load_study(asked.inputs, asked.sampling, needs=("metadata",))
    return describe(prepare_training(study, asked))


def describe(run: Run) -> str:
    """Try a few steps of a run, and tell its size, memory and time as lines of text; nothing is written.

    The steps change the weights of the model.
    """
    held = held_by_training(run.model, run.world.device)
    trainer = run.trainer(CheckpointStore(run.config.output.output_dir))
    trainer.memory.settle()
    budget = trainer.memory.budget or _unlimited(trainer, held)
    whole = [run.dataset[plan] for plan in _plans(run)]
    seconds = _seconds(trainer, run)
    # unique ASVs of a step, and ASVs of its samples
    unique = [len(np.unique(torch.cat([batch.asv for batch in step.micro]).numpy())) for step in whole]
    together = [sum(int((~batch.padding).sum()) for batch in step.micro) for step in whole]
    cut = [trainer.memory.dataset[plan] for plan in _plans(run)]
    learned = [weight for weight in run.model.parameters() if weight.requires_grad]
    steps = run.material.sampler(run.config).steps_per_epoch
    epochs = run.config.optim.epochs
    lines: dict[str, Any] = {
        "samples": f"{len(run.material.split.train):,} to train on, {len(run.material.split.val):,} to validate",
        "ASVs": f"{run.material.study.table.n_asvs:,}",
        "parameters": f"{sum(weight.numel() for weight in run.model.parameters()):,}",
        "  of them learned": f"{sum(weight.numel() for weight in learned):,}",
        "samples in a step": f"{run.config.optim.step_samples:,}",
        "unique ASVs in a step": f"{np.mean(unique):,.0f}, at most {max(unique):,} (ASVs of its samples together: "
        f"{np.mean(together):,.0f}; of the {len(whole)} steps that were tried)",
        "memory": f"{_memory(budget, cut) / GB:.3f} GB above what the study takes",
        "  weights": f"{held.weights / GB:.3f} GB (there before the first step)",
        "  gradients": f"{held.gradients / GB:.3f} GB",
        "  optimizer": f"{held.optimizer / GB:.3f} GB",
        "  in one batch a step": f"{_memory(budget, whole) / GB:.3f} GB",
        "batches in a step": f"{np.mean([len(step.micro) for step in cut]):.1f}",
        "time of a step": f"{seconds:.2f} s",
        "time of an epoch": f"{_clock(steps * seconds)} ({steps:,} steps), and its validation",
        "time of the run": f"{_clock(epochs * steps * seconds)} ({epochs:,} epochs), and their validations",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _unlimited(trainer: Trainer, held: Held) -> MemoryBudget:
    """What batches take where steps are not cut; of embedded samples nothing that is worth counting."""
    if isinstance(trainer.memory.dataset, PooledStepDataset):
        return MemoryBudget(math.inf, BatchCost(0.0, 0.0, fixed=held.gradients + held.optimizer))
    budget = trainer.memory.measured()
    keep_freed_memory()  # as `aam` begins
    return budget


def _plans(run: Run) -> list[StepPlan]:
    return run.material.sampler(run.config).plan_epoch(0)[:STEPS]


def _memory(budget: MemoryBudget, steps: list[StepBatch]) -> float:
    """Bytes of the largest batch."""
    batches = [batch for step in steps for batch in step.micro]
    return max(budget.cost.of_batch(len(batch.asv), (~batch.padding).sum(1).tolist()) for batch in batches)


def _seconds(trainer: Trainer, run: Run) -> float:
    """Median time of a step, with the preparation of its data."""
    times = []
    for plan in _plans(run):
        start = time.perf_counter()
        float(trainer.train_step(trainer.memory.dataset[plan])["loss"])
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:] or times))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

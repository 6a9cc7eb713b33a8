"""`aam estimate`: how much memory and time a run would take, without running it."""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from aam.config import EstimatePretrainConfig, EstimateTrainConfig
from aam.data.dataset import StepBatch, StepPlan
from aam.data.packing import MemoryBudget
from aam.data.study import load_study
from aam.training.checkpoint import CheckpointStore
from aam.training.memory import GB
from aam.training.trainer import Trainer
from aam.workflows.fit import Run, measured_budget, memory_limit
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining
from aam.workflows.train import prepare_training

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
    limit = memory_limit(run)
    budget = measured_budget(run, limit)
    trainer = run.trainer(CheckpointStore(run.config.output.output_dir))
    trainer.dataset = replace(run.dataset, budget=budget) if limit is not None else run.dataset
    whole = [run.dataset[plan] for plan in _plans(run)]
    seconds = _seconds(trainer, run)
    sizes = [_size(step) for step in whole]
    cut = [trainer.dataset[plan] for plan in _plans(run)]
    learned = [weight for weight in run.model.parameters() if weight.requires_grad]
    steps = run.material.sampler(run.config).steps_per_epoch
    epochs = run.config.optim.epochs
    lines: dict[str, Any] = {
        "samples": f"{len(run.material.split.train):,} to train on, {len(run.material.split.val):,} to validate",
        "ASVs": f"{run.material.study.table.n_asvs:,}",
        "parameters": f"{sum(weight.numel() for weight in run.model.parameters()):,}",
        "  of them learned": f"{sum(weight.numel() for weight in learned):,}",
        "samples in a step": f"{run.config.optim.step_samples:,}",
        "unique ASVs in a step": f"{np.mean([size[0] for size in sizes]):,.0f} (ASVs of its samples together: "
        f"{np.mean([size[1] for size in sizes]):,.0f})",
        "memory": f"{_memory(budget, cut) / GB:.2f} GB above what the study takes",
        "  in one batch a step": f"{_memory(budget, whole) / GB:.2f} GB",
        "batches in a step": f"{np.mean([len(step.micro) for step in cut]):.1f}",
        "time of a step": f"{seconds:.2f} s",
        "time of an epoch": f"{_clock(steps * seconds)} ({steps:,} steps), and its validation",
        "time of the run": f"{_clock(epochs * steps * seconds)} ({epochs:,} epochs), and their validations",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _plans(run: Run) -> list[StepPlan]:
    return run.material.sampler(run.config).plan_epoch(0)[:STEPS]


def _size(step: StepBatch) -> tuple[int, int]:
    """Unique ASVs of the batches of a step, and ASVs of its samples."""
    return sum(len(batch.asv) for batch in step.micro), sum(int((batch.count > 0).sum()) for batch in step.micro)


def _memory(budget: MemoryBudget, steps: list[StepBatch]) -> float:
    """Bytes of the largest batch."""
    batches = [batch for step in steps for batch in step.micro]
    return max(budget.cost.of(len(batch.asv), int((batch.count > 0).sum())) for batch in batches)


def _seconds(trainer: Trainer, run: Run) -> float:
    """Median time of a step, with the preparation of its data."""
    times = []
    for plan in _plans(run):
        start = time.perf_counter()
        float(trainer.train_step(trainer.dataset[plan])["loss"])
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:] or times))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

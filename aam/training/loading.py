"""Batches of training, prepared while the device computes."""

import os
import sys
from typing import Final

import torch
from torch.utils.data import DataLoader

from aam.config import MachineConfig
from aam.config.launch import launched_local_world_size
from aam.data.sampling.dataset import StepBatch, StepDataset, StepSampler
from aam.training.machine.signals import shield_worker

GPU_WORKERS: Final = 2
"""Workers for each GPU where it is not said how many."""


def step_loader(
    dataset: StepDataset, sampler: StepSampler, config: MachineConfig, device: torch.device
) -> DataLoader[StepBatch]:
    """Give the steps of a sampler in order; they are the same with any number of workers.

    Args:
        dataset: makes them.
        sampler: plans them.
        config: says how many workers.
        device: where they are needed; for a GPU they are copied to memory that it can read while it computes.
    """
    workers = config.num_workers
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=default_workers(device) if workers is None else workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=shield_worker,
    )


def default_workers(device: torch.device) -> int:
    """Choose how many workers each process has.

    Where the model computes on the processor there are none: a batch takes about a thousandth of its step
    (``benchmarks/data_wait.py``), and workers would take the cores from the model. For a GPU it is `GPU_WORKERS`, or
    as many as there are cores besides that of the process itself.
    """
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(0, min(GPU_WORKERS, cores // launched_local_world_size() - 1))

import os
from dataclasses import astuple

import pytest
import torch

from aam.config import RuntimeConfig
from aam.data.sampling.dataset import StepBatch
from aam.training.loading import GPU_WORKERS, default_workers, step_loader
from aam.workflows.pretrain import prepare_pretraining

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def tensors(step: StepBatch) -> list[torch.Tensor]:
    batches = [value for batch in step.micro for value in astuple(batch) if isinstance(value, torch.Tensor)]
    assert step.distance is not None
    return [step.distance, *batches]


def test_workers_make_the_same_steps(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config(epochs=2))
    sampler = run.material.sampler(run.config)
    asked = (RuntimeConfig(), RuntimeConfig(num_workers=2))
    alone, beside = (list(step_loader(run.dataset, sampler, config, CPU)) for config in asked)
    assert len(alone) == len(beside) == len(sampler)
    for one, other in zip(alone, beside, strict=True):
        assert all(torch.equal(*pair) for pair in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(1, 1, 0), (2, 1, 1), (8, 1, GPU_WORKERS), (8, 4, 1), (8, 8, 0), (2, 8, 0)]
)
def test_workers_for_a_gpu_leave_a_core_to_each_process(monkeypatch, cores: int, processes: int, expected: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_workers(GPU) == expected
    assert default_workers(CPU) == 0


def test_what_is_asked_for_goes_before_the_default(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config())
    loaders = [
        step_loader(run.dataset, run.material.sampler(run.config), RuntimeConfig(num_workers=workers), CPU)
        for workers in (None, 0, 1)
    ]
    assert [loader.num_workers for loader in loaders] == [0, 0, 1]
    assert not any(loader.pin_memory for loader in loaders)

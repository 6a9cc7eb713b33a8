"""Runs on a simulated study, alone and on many ranks, and whole tensors from models that are sharded among them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aam.config import PretrainConfig, TrainConfig
from aam.data.study import Study, load_study
from aam.training.distributed import World
from aam.training.tasks.targets import TargetTask
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

ALONE = World(torch.device("cpu"))
COMPILER = shutil.which("g++") is not None
SMALL = {
    "embedding_dim": 8,
    "attention_heads": 2,
    "attention_layers": 2,
    "batch_size": 12,
    "rarefy_depth": 150,
    "device": "cpu",
}
WEIGHTS = {"unifrac_weight": 1.3, "nucleotide_weight": 0.4, "faith_pd_weight": 0.2, "taxonomy_weight": 0.3}
PARTS = {**WEIGHTS, "nuc_asv_fraction": 0.6}
TARGET = {"metadata_column": "acidity", "count_weight": 0.3, "count_mask_ratio": 0.4, "regressor_hidden_dims": (6,)}


class Result(NamedTuple):
    """How far something is from what it should be, and how far it may be."""

    what: str
    case: str
    error: float
    bound: float


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Build and draw models of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def pretrain_config(folder: Path, **options: Any) -> PretrainConfig:
    names = {"tree": "tree.nwk", "taxonomy": "taxonomy.tsv"}
    files = {"table": (folder / "table.biom",)} | {option: folder / name for option, name in names.items()}
    return PretrainConfig.from_flat({**SMALL, **PARTS, **files, "output_dir": folder / "run", **options})


def train_config(folder: Path, **options: Any) -> TrainConfig:
    files = {"table": (folder / "table.biom",), "metadata": folder / "metadata.tsv"}
    return TrainConfig.from_flat({**SMALL, **TARGET, **files, "output_dir": folder / "run", **options})


@cache
def study_of(folder: Path, kind: str) -> Study:
    """Read the study with its tree, or with its metadata."""
    if kind == "pretrain":
        return load_pretraining_study(pretrain_config(folder))
    config = train_config(folder)
    return load_study(config.inputs, config.sampling, needs=("metadata",))


def prepare(folder: Path, task: str, world: World, dtype: torch.dtype, **options: Any) -> Run:
    """Prepare a run of a precision: ``pretrain``, ``train``, or ``frozen`` with the encoder in the folder."""
    with precision(dtype):
        if task == "pretrain":
            return prepare_pretraining(study_of(folder, task), pretrain_config(folder, **options), world)
        if task == "frozen":
            options |= {"freeze_base": True, "pretrained_encoder": folder / "encoder"}
        run = prepare_training(study_of(folder, "train"), train_config(folder, **options), world)
        task = run.objective.task(TargetTask)
        task.table = replace(task.table, value=task.table.value.to(dtype), weight=task.table.weight.to(dtype))
        return run


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be sharded among ranks, and copy it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def gradient(model: nn.Module) -> Tensor:
    """The gradient as one vector, on every rank; it stays where it is."""
    pulls = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([whole(pull).flatten() for pull in pulls])


def weights(model: nn.Module) -> Tensor:
    """The weights as one vector, on every rank."""
    return torch.cat([whole(weight).flatten() for weight in model.state_dict().values()])


def relative(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm of the other."""
    return float((one - other).norm() / other.norm())

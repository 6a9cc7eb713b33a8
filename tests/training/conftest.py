"""Small studies, runs and gradients for the tests of the objectives and the trainer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from aam.config import InputConfig, PretrainConfig, SamplingConfig, TrainConfig, UnifracConfig
from aam.data.study import Study, load_study
from aam.training.tasks.targets import TargetTask
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training

SMALL = {
    "embedding_dim": 8,
    "attention_heads": 2,
    "attention_layers": 1,
    "batch_size": 8,
    "epochs": 2,
    "log_every": 1,
    "rarefy_depth": 150,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def study(study_folder) -> Study:
    inputs = InputConfig(
        table=(study_folder / "table.biom",),
        tree=study_folder / "tree.nwk",
        metadata=study_folder / "metadata.tsv",
        taxonomy=study_folder / "taxonomy.tsv",
    )
    return load_study(inputs, SamplingConfig(rarefy_depth=150), UnifracConfig())


@pytest.fixture
def make_pretrain_config(tmp_path) -> Callable[..., PretrainConfig]:
    return lambda **options: PretrainConfig.from_flat({"output_dir": tmp_path / "run", **SMALL, **options})


@pytest.fixture
def make_train_config(tmp_path) -> Callable[..., TrainConfig]:
    # a network that learns as a whole is the matter of most tests
    whole = {"freeze_base": False, "asv_features": 0}
    base = {"output_dir": tmp_path / "run", "metadata_column": "acidity", **SMALL, **whole}
    return lambda **options: TrainConfig.from_flat({**base, **options})


@pytest.fixture
def double_run(study, make_train_config) -> Callable[..., Run]:
    """Prepare a fine-tuning run in double precision, of the study with other metadata if some are given."""

    def prepare(metadata: pd.DataFrame | None = None, **options) -> Run:
        own = study if metadata is None else replace(study, metadata=metadata)
        run = prepare_training(own, make_train_config(**options))
        run.model.double()
        task = run.objective.task(TargetTask)
        value = task.table.value if task.targets.is_classes else task.table.value.double()
        task.table = replace(task.table, value=value, weight=task.table.weight.double())
        return run

    return prepare


@pytest.fixture(scope="session")
def gradient() -> Callable[[nn.Module], torch.Tensor]:
    """Take the gradient of a model as one vector, and clear it; parameters that have none count as zero."""

    def take(model: nn.Module) -> torch.Tensor:
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()]
        model.zero_grad(set_to_none=True)
        return torch.cat(parts)

    return take


@pytest.fixture(scope="session")
def newick(study_folder) -> Path:
    return study_folder / "tree.nwk"

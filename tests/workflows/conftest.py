"""Runs of the workflows on a small simulated study, made once and not to be changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import PretrainConfig, TrainConfig, flag
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train

SMALL = {
    "embedding_dim": 8,
    "attention_heads": 2,
    "attention_layers": 1,
    "batch_size": 8,
    "epochs": 2,
    "log_every": 2,
    "lr": 0.01,
    "device": "cpu",
    "report": False,  # takes longer than such a run
}


@pytest.fixture(scope="session")
def pretrain_options(study_folder) -> Callable[..., dict]:
    """Flat options of a small pretraining into a folder."""
    files = {"table": (study_folder / "table.biom",), "tree": study_folder / "tree.nwk"}
    return lambda output_dir, **more: {**SMALL, **files, "output_dir": output_dir, **more}


@pytest.fixture(scope="session")
def train_options(study_folder) -> Callable[..., dict]:
    """Flat options of a small fine-tuning into a folder."""
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    base = {**SMALL, **files, "metadata_column": "acidity", "group_column": "subject"}
    return lambda output_dir, **more: {**base, "output_dir": output_dir, **more}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, pretrain_options) -> Path:
    """Output folder of `pretrain`."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    pretrain(PretrainConfig.from_flat(pretrain_options(folder, rarefy_depth=150, report=True)))
    return folder


@pytest.fixture(scope="session")
def regressor(tmp_path_factory, train_options, pretrained) -> Path:
    """Output folder of `train` on a number, from the pretrained encoder."""
    folder = tmp_path_factory.mktemp("runs") / "acidity"
    train(TrainConfig.from_flat(train_options(folder, pretrained_encoder=pretrained, rarefy_depth=160, report=True)))
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, train_options) -> Path:
    """Output folder of `train` on classes."""
    folder = tmp_path_factory.mktemp("runs") / "habitat"
    options = {
        "metadata_column": "habitat",
        "classifier": True,
        "class_weights": "balanced",
        "count_weight": 0.1,
        "report": True,
    }
    train(TrainConfig.from_flat(train_options(folder, **options)))
    return folder


@pytest.fixture(scope="session")
def attentive(tmp_path_factory, train_options) -> Path:
    """Output folder of `train` on a number, whose ASVs attend to two categories, one of them with a parent."""
    folder = tmp_path_factory.mktemp("runs") / "attentive"
    options = {
        "categorical_columns": "site,habitat",
        "categorical_hierarchy": "site=region",
        "categorical_fusion": "cross_attention",
        "cross_attn_heads": 2,
        "categorical_loss_weights": "auto",
        "categorical_loss_weight_column": "region",
        "target_loss": "quantile",
        "normalize_by": "habitat",
        "rarefy_depth": 150,
    }
    train(TrainConfig.from_flat(train_options(folder, **options)))
    return folder


@pytest.fixture(scope="session")
def aam() -> Callable[..., int]:
    """Run a command line of options by their names; returns the exit code."""

    def run(command: str, **options: object) -> int:
        words = [command]
        for option, value in options.items():
            for each in value if isinstance(value, tuple) else (value,):
                words += [] if each is False else [flag(option)] if each is True else [flag(option), str(each)]
        with pytest.raises(SystemExit) as left:
            main(words)
        return left.value.code

    return run

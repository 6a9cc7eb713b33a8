"""Every way to fuse categories, flat and with a hierarchy, for numbers and classes: trained, restored, predicted."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple, get_args

import pandas as pd
import pytest
import torch

from aam.config import CategoricalFusion, PredictConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.training.checkpoints.store import read_checkpoint
from aam.workflows.predict import predict
from aam.workflows.restore import restore
from aam.workflows.train import train

TINY = {
    "embedding_dim": 16,
    "attention_heads": 2,
    "attention_layers": 1,
    "nucleotide_patch": 10,
    "categorical_dim": 6,
    "batch_size": 4,
    "epochs": 8,
    "log_every": 1,
    "lr": 0.01,
    "scheduler": "constant",
    "rarefy_depth": 150,
    "device": "cpu",
    # a whole network learns, whose parts are the matter here
    "freeze_base": False,
    "asv_features": 0,
    "baselines": False,
}
TARGETS = {
    "numbers": {"metadata_column": "acidity"},
    "classes": {"metadata_column": "health", "classifier": True, "stratify": True},
}
HIERARCHIES = {"flat": {}, "hierarchy": {"categorical_hierarchy": "site=region"}}


class Trained(NamedTuple):
    """A run, and the files of its held-out samples."""

    folder: Path
    table: Path
    metadata: Path

    def predict(self, output: Path, metadata: Path | None = None) -> pd.DataFrame:
        """Predict the held-out samples: text as it is written, but for notes, of which there are none, and likeness."""
        files = {"checkpoint": self.folder, "table": (self.table,), "metadata": metadata or self.metadata}
        # batches as in training: in others the last bit may differ
        options = {"output": output, "batch_size": TINY["batch_size"], "device": "cpu"}
        predict(PredictConfig.from_flat(files | options))
        written = read_text(output)
        assert set(written.pop("note")) == {""}
        return written.drop(columns=["unlike", "why"])


def read_text(path: Path) -> pd.DataFrame:
    """Text as it is, so that two files are compared to the last digit."""
    return pd.read_csv(path, sep="\t", index_col="sample_id", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def start(study_folder: Path, tmp_path_factory) -> Callable[..., Trained]:
    """Train with options on the simulated study."""
    table = read_tables([study_folder / "table.biom"])
    counts = pd.DataFrame(table.counts.toarray(), index=table.sample_ids, columns=table.asv_ids)

    def run(**options: object) -> Trained:
        folder = tmp_path_factory.mktemp("fusion")
        files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
        train(TrainConfig.from_flat({**TINY, **files, "output_dir": folder / "run", **options}))
        held_out = list(read_text(folder / "run/val_predictions.tsv").index)
        counts.loc[held_out].T.to_csv(folder / "table.tsv", sep="\t", index_label="#OTU ID")
        return Trained(folder / "run", folder / "table.tsv", study_folder / "metadata.tsv")

    return run


@pytest.fixture(scope="module", params=product(get_args(CategoricalFusion), HIERARCHIES, TARGETS), ids="-".join)
def trained(request, start) -> Trained:
    """A run of each combination."""
    fusion, hierarchy, target = request.param
    categories = {"categorical_columns": "site,habitat", "categorical_fusion": fusion}
    categories |= {"cross_attn_heads": 2} if fusion in ("cross_attention", "perceiver") else {}
    return start(**categories, **HIERARCHIES[hierarchy], **TARGETS[target])


def test_it_trains_loads_again_and_predicts_identically(trained: Trained, tmp_path: Path) -> None:
    expected = read_text(trained.folder / "val_predictions.tsv").drop(columns="true")
    first = trained.predict(tmp_path / "first.tsv")
    pd.testing.assert_frame_equal(first, expected)
    trained.predict(tmp_path / "second.tsv")
    assert (tmp_path / "second.tsv").read_bytes() == (tmp_path / "first.tsv").read_bytes()
    weights = read_checkpoint(trained.folder).model
    restored = restore(trained.folder).model.state_dict()
    assert restored.keys() == weights.keys()
    assert all(torch.equal(restored[name], weight) for name, weight in weights.items())


def test_the_loss_falls(trained: Trained) -> None:
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    steps = len(losses) // TINY["epochs"]
    assert sum(losses[-steps:]) < 0.9 * sum(losses[:steps])


def test_predictions_depend_on_the_categories(trained: Trained, tmp_path: Path) -> None:
    trained = trained._replace(folder=trained.folder / "checkpoints/last")
    metadata = read_metadata(trained.metadata)
    metadata["habitat"] = metadata["habitat"].map({"gut": "oral", "oral": "skin", "skin": "gut"})
    metadata.to_csv(tmp_path / "turned.tsv", sep="\t", index_label="sample-id")
    given, turned = (
        trained.predict(tmp_path / f"{name}.tsv", path).iloc[:, -1].astype(float)
        for name, path in (("a", trained.metadata), ("b", tmp_path / "turned.tsv"))
    )
    assert (turned - given).abs().mean() > 1e-3

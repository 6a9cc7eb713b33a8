"""Which samples a run trains on: across pretraining and fine-tuning, and with a test side."""

import json
import re

import numpy as np
import pandas as pd

from aam.config import PretrainConfig, TrainConfig
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train


def sides(folder) -> "pd.Series[str]":
    return pd.read_csv(folder / "split.tsv", sep="\t", index_col=0, dtype=str)["split"]


def validated(folder) -> set[str]:
    return set(sides(folder).loc[lambda side: side == "val"].index)


def test_a_checkpoint_of_pretraining_names_the_samples_that_it_was_trained_on(pretrained):
    (document,) = (pretrained / "checkpoints" / "best").glob("training.json")
    side = sides(pretrained)
    assert set(json.loads(document.read_text())) == set(side.index[side == "train"])


def test_validation_samples_that_the_encoder_knows_are_counted(pretrained, train_options, tmp_path, caplog):
    train(TrainConfig.from_flat(train_options(tmp_path / "run", pretrained_encoder=pretrained, epochs=1)))
    known = set(sides(pretrained).loc[lambda side: side == "train"].index) & validated(tmp_path / "run")
    assert known, "else this tests nothing"
    said = re.search(r"without labels, on (\d+) of the (\d+) validation samples: (\S+),", caplog.text)
    assert (int(said[1]), int(said[2])) == (len(known), len(validated(tmp_path / "run")))
    assert said[3] == min(known)


def test_fine_tuning_on_the_same_samples_validates_on_those_of_pretraining(
    pretrain_options, train_options, tmp_path, caplog
):
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "pretrained", epochs=1)))
    options = {"group_column": None, "pretrained_encoder": tmp_path / "pretrained", "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    assert validated(tmp_path / "run") == validated(tmp_path / "pretrained")
    assert "without labels" not in caplog.text


def test_test_samples_of_a_split_column_are_written_and_not_used(train_options, study_folder, tmp_path):
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str)
    words = ["categorical", *np.resize(["train", "train", "val", "test"], len(metadata) - 1)]
    metadata.assign(fold=words).to_csv(tmp_path / "metadata.tsv", sep="\t", index=False)
    options = {"metadata": tmp_path / "metadata.tsv", "group_column": None, "split_column": "fold", "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    asked = pd.Series(words[1:], index=metadata["sample-id"][1:])
    assert sides(tmp_path / "run").to_dict() == asked.to_dict()
    predicted = pd.read_csv(tmp_path / "run" / "val_predictions.tsv", sep="\t", index_col=0)
    assert set(predicted.index) == set(asked.index[asked == "val"])


def test_a_depth_beside_a_matrix_is_said_to_change_the_input_alone(pretrain_options, study_folder, tmp_path, caplog):
    names = pd.read_csv(study_folder / "metadata.tsv", sep="\t", skiprows=[1])["sample-id"]
    values = np.random.default_rng(0).uniform(0.2, 0.9, (len(names), len(names)))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0)
    pd.DataFrame(values, names, names).to_csv(tmp_path / "d.tsv", sep="\t")
    options = {"tree": None, "unifrac_matrix": tmp_path / "d.tsv", "epochs": 1}
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "all", **options)))
    assert "--rarefy-depth" not in caplog.text
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "some", **options, rarefy_depth=150)))
    assert "--rarefy-depth: reads are drawn afresh, while the distances of --unifrac-matrix stay" in caplog.text

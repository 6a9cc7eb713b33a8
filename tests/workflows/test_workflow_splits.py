"""Which samples a run trains on: across pretraining and fine-tuning, and with a test side."""

import json
import logging
import re

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from aam.config import PretrainConfig, TrainConfig
from aam.training.checkpoints.store import read_checkpoint
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
    said = re.search(r"without labels, (\d+) of the (\d+) validation samples \(([^,)]+)", caplog.text)
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


def test_test_samples_of_a_split_column_are_written_and_scored(train_options, study_folder, tmp_path):
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str)
    words = ["categorical", *np.resize(["train", "train", "val", "test"], len(metadata) - 1)]
    metadata.assign(fold=words).to_csv(tmp_path / "metadata.tsv", sep="\t", index=False)
    options = {"metadata": tmp_path / "metadata.tsv", "group_column": None, "split_column": "fold", "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    asked = pd.Series(words[1:], index=metadata["sample-id"][1:])
    assert sides(tmp_path / "run").to_dict() == asked.to_dict()
    predicted = pd.read_csv(tmp_path / "run" / "val_predictions.tsv", sep="\t", index_col=0)
    assert set(predicted.index) == set(asked.index[asked == "val"])
    tested = pd.read_csv(tmp_path / "run" / "test_predictions.tsv", sep="\t", index_col=0)
    assert set(tested.index) == set(asked.index[asked == "test"])


def test_a_test_side_is_scored_once_at_the_end(aam, train_options, study_folder, tmp_path, caplog):
    run = tmp_path / "run"
    with caplog.at_level(logging.INFO, logger="aam"):
        train(TrainConfig.from_flat(train_options(run, test_fraction=0.25)))
    assert set(sides(run)) == {"train", "val", "test"}
    tested = pd.read_csv(run / "test_predictions.tsv", sep="\t", index_col=0)
    assert set(tested.index) == set(sides(run).index[sides(run) == "test"])
    metrics = json.loads((run / "test_metrics.json").read_text())
    assert np.isclose(metrics["r2"], r2_score(tested["true"], tested["prediction"]))
    assert (run / "plots" / "test_predictions.png").exists()
    assert f"test, held out from training and from the choice of the checkpoint ({len(tested)} samples)" in caplog.text
    assert "validation, which chose the checkpoint" in caplog.text
    assert aam("predict", checkpoint=run, table=study_folder / "table.biom", output=tmp_path / "p.tsv") == 0
    again = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col=0)["prediction"].loc[tested.index]
    np.testing.assert_allclose(again, tested["prediction"], rtol=1e-4)


def test_nothing_of_the_test_side_reaches_the_weights(train_options, study_folder, tmp_path):
    """Other values, categories and depths of test samples give the same model, to the bit."""
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str, keep_default_na=False)
    words = np.resize(["train", "train", "val", "test"], len(metadata) - 1)
    metadata["fold"] = ["categorical", *words]
    other = metadata.copy()
    rows = np.flatnonzero(metadata["fold"] == "test")
    other.loc[rows, "acidity"] = [str(1000.0 + row) for row in rows]
    other.loc[rows, ["site", "region", "health"]] = ["elsewhere", "abroad", "odd"]
    models = []
    for name, table in (("one", metadata), ("other", other)):
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
        options = {"metadata": tmp_path / f"{name}.tsv", "group_column": None, "split_column": "fold", "epochs": 1}
        more = {"normalize_by": "habitat", "categorical_columns": "site", "count_weight": 0.1}
        train(TrainConfig.from_flat(train_options(tmp_path / name, **options, **more)))
        models.append(read_checkpoint(tmp_path / name).model)
    assert all((models[0][weight] == models[1][weight]).all() for weight in models[0])


def test_a_class_of_test_samples_alone_is_counted_as_wrong(train_options, study_folder, tmp_path, caplog):
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str, keep_default_na=False)
    metadata["fold"] = ["categorical", *np.resize(["train", "train", "val", "test"], len(metadata) - 1)]
    metadata.loc[np.flatnonzero(metadata["fold"] == "test")[:2], "health"] = "odd"
    metadata.to_csv(tmp_path / "metadata.tsv", sep="\t", index=False)
    options = {"metadata": tmp_path / "metadata.tsv", "group_column": None, "split_column": "fold", "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", metadata_column="health", classifier=True, **options)))
    tested = pd.read_csv(tmp_path / "run" / "test_predictions.tsv", sep="\t", index_col=0)
    assert "odd" in set(tested["true"]) - set(tested["prediction"])
    metrics = json.loads((tmp_path / "run" / "test_metrics.json").read_text())
    assert np.isclose(metrics["accuracy"], (tested["true"] == tested["prediction"]).mean())
    assert "2 test samples are of classes without a training sample" in caplog.text


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

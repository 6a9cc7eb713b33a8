"""Checkpoints that earlier versions of aam wrote: they predict as they did; their runs are not resumed."""

import json
from pathlib import Path

import pandas as pd
import pytest

import aam
from aam.config import InspectConfig, TrainConfig
from aam.errors import InputError
from aam.training.checkpoints.store import read_checkpoint
from aam.workflows.inspect import inspect
from aam.workflows.old_configs import in_todays_names, in_todays_options
from aam.workflows.restore import restore
from aam.workflows.train import train

OLD = Path(__file__).parents[1] / "checkpoints" / "before_learners"
"""Written when validation was called a test, with a table and what the models gave for it."""


def expected(name):
    return pd.read_csv(OLD / name, sep="\t", index_col=0, dtype={"sample_id": str})


def test_an_old_predictor_predicts_as_it_did():
    predicted = aam.SampleRegressor.load(OLD / "train").predictions(OLD / "table.tsv")
    before = expected("predictions.tsv")
    pd.testing.assert_frame_equal(predicted[["prediction"]], before, atol=1e-6, rtol=0, check_names=False)


def test_an_old_encoder_embeds_as_it_did():
    embedded = aam.SampleEncoder.load(OLD / "pretrain").embed(OLD / "table.tsv")
    before = expected("embeddings.tsv")
    pd.testing.assert_frame_equal(embedded, before, atol=1e-6, rtol=0, check_names=False, check_dtype=False)


@pytest.mark.parametrize("kind", ["pretrain", "train"])
def test_old_checkpoints_are_described(kind):
    assert "width of embeddings: 8" in inspect(InspectConfig.from_flat({"checkpoint": OLD / kind}))


@pytest.mark.parametrize("kind", ["pretrain", "train"])
def test_old_options_keep_their_values(kind):
    stored = read_checkpoint(OLD / kind).config
    assert stored["split"]["test_size"] == 0.25
    today = in_todays_options(stored)
    assert today["split"]["val_fraction"] == 0.25
    assert "test_size" in stored["split"], "the document itself was changed"
    assert in_todays_options(today) == today


def test_the_share_of_a_split_that_a_column_gives_says_nothing():
    split = {"test_size": 0.3, "split_column": "fold"}
    assert in_todays_options({"split": split}) == {"split": {"split_column": "fold"}}


@pytest.mark.parametrize(("kind", "prefix"), [("pretrain", ""), ("train", "encoder.")])
def test_old_weights_keep_their_values_by_new_names(kind, prefix):
    stored = read_checkpoint(OLD / kind).model
    before, today = f"{prefix}log_tau", f"{prefix}scale.log_tau"
    assert before in stored
    renamed = in_todays_names(stored)
    assert renamed.keys() == stored.keys() - {before} | {today}
    assert all(renamed[name] is value for name, value in stored.items() if name != before)
    assert renamed[today] is stored[before]
    assert in_todays_names(renamed) == renamed
    assert restore(OLD / kind).model.state_dict()[today].equal(stored[before])


def test_fine_tuning_starts_from_an_old_encoder(train_options, tmp_path):
    shape = {"embedding_dim": 8, "attention_heads": 1, "attention_layers": 1}
    options = {"pretrained_encoder": OLD / "pretrain", "epochs": 1} | shape
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    assert (tmp_path / "run" / "val_metrics.json").exists()


def test_a_run_of_before_is_not_resumed(regressor, train_options, tmp_path):
    options = json.loads((regressor / "config.json").read_text())
    options["split"]["test_size"] = options["split"].pop("val_fraction")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(options))
    with pytest.raises(InputError, match=r"another version of aam.*--test-size.*: resume it with that version"):
        train(TrainConfig.from_flat(train_options(folder, resume=True)))

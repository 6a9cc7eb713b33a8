"""The network among other learners: compared by `aam evaluate`, and a member of an ensemble that is saved and read."""

import json
import logging

import pandas as pd
import pytest

from aam.config import EvaluateConfig, InspectConfig, PredictConfig, PretrainConfig, TrainConfig
from aam.errors import InputError
from aam.workflows.evaluate import evaluate
from aam.workflows.inspect import inspect
from aam.workflows.predict import predict
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train
from aam.workflows.train_command import train_command

TINY = {"embedding_dim": 8, "attention_heads": 2, "epochs": 1, "batch_size": 16, "min_steps": 0}
MEMBERS = {"ensemble_members": "clades,neural", "trees": 5}


@pytest.fixture(scope="module")
def files(study_folder):
    names = {"tree": "tree.nwk", "metadata": "metadata.tsv"}
    return {"table": (study_folder / "table.biom",)} | {name: study_folder / file for name, file in names.items()}


@pytest.fixture(scope="module")
def encoder(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "out"
    shape = {name: TINY[name] for name in ("embedding_dim", "attention_heads", "epochs", "batch_size")}
    pretrain(PretrainConfig.from_flat({**files, **shape, "attention_layers": 1, "device": "cpu", "output_dir": folder}))
    return folder


@pytest.fixture(scope="module")
def compared(files, encoder):
    given = {**files, "metadata_column": "acidity", "group_column": "subject", "folds": 2, "repeats": 1, "trees": 5}
    given |= {"learners": "neural,ensemble", "ensemble_members": "linear,neural", **TINY, "pretrained_encoder": encoder}
    return lambda output_dir, **more: EvaluateConfig.from_flat({**given, "output_dir": output_dir, **more})


def test_an_evaluation_compares_the_network(compared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    evaluate(compared(tmp_path / "out"))
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {row["learner"] for row in document["main"]["scores"]} >= {"neural", "ensemble", "forest"}
    (seen,) = [text for text in document["leakage"] if "pretrained encoder" in text]
    assert "of the 40 held-out samples" in seen
    assert seen in caplog.text
    assert "computing on" not in caplog.text
    assert document["options"]["embedding_dim"] == 8
    assert "pretrained_encoder" not in document["options"]
    evaluate(compared(tmp_path / "again", jobs=2))
    for name in ("predictions.tsv", "evaluation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_command_that_trains_the_network(compared, tmp_path, encoder):
    config = compared(tmp_path / "out", rarefy_draws=2)
    words = train_command(config, "neural", "to", rarefy_depth=150)
    assert f"--pretrained-encoder {encoder}" in words
    assert "--rarefy-draws" not in words
    assert "--trees" not in words
    assert "--epochs 1" in train_command(config, "ensemble", "to")
    assert "--epochs" not in train_command(config, "forest", "to")
    plain = compared(tmp_path / "out", ensemble_members="linear")
    assert "--epochs" not in train_command(plain, "ensemble", "to")


def test_options_of_the_network_need_the_network(compared, tmp_path):
    for members in ("linear", "clades,kernel"):  # the kernel reads the encoder, but none of the others
        with pytest.raises(InputError, match=r"--embedding-dim 8 only has an effect with neural among --learners"):
            compared(tmp_path, learners="ensemble", ensemble_members=members)


def test_an_encoder_of_another_shape_is_refused_before_the_work(compared, tmp_path):
    with pytest.raises(InputError, match="fixes --embedding-dim 16"):
        evaluate(compared(tmp_path / "out", embedding_dim=16))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classifier", [False, True])
def test_an_ensemble_with_the_network_is_saved_and_read(files, encoder, tmp_path, caplog, classifier):
    column = {"metadata_column": "habitat" if classifier else "acidity", "classifier": classifier}
    learner = {"learner": "ensemble", **MEMBERS, **TINY, "pretrained_encoder": encoder, "group_column": "subject"}
    out = tmp_path / "out"
    train(TrainConfig.from_flat({**files, **column, **learner, "output_dir": out, "device": "cpu"}))
    assert "the pretrained encoder has seen, without labels" in caplog.text
    table = tmp_path / "p.tsv"
    predict(PredictConfig.from_flat({"checkpoint": out, "table": files["table"], "output": table}))
    predicted = pd.read_csv(table, sep="\t", index_col="sample_id")
    written = pd.read_csv(out / "val_predictions.tsv", sep="\t", index_col="sample_id")
    same = written.columns.intersection(predicted.columns)
    assert len(same)
    pd.testing.assert_frame_equal(predicted.loc[written.index, same], written[same], atol=1e-5)
    assert "--embedding-dim 8" in inspect(InspectConfig.from_flat({"checkpoint": out}))

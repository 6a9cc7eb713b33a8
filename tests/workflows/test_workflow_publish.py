"""`aam publish`: what the folder holds, what it does not, and what still works with it."""

import json
import logging
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import aam as library
from aam.config import PublishConfig, TrainConfig
from aam.data.study import load_study
from aam.training.checkpoints import training_samples
from aam.training.checkpoints.store import read_checkpoint, write_checkpoint
from aam.workflows.prepare import prepare_training
from aam.workflows.publish import _command, publish
from aam.workflows.restore import seen_by

IDS = [f"S{number:04}" for number in range(1, 41)]


def _publish(run: Path, folder: Path, **more: object) -> Path:
    publish(PublishConfig.from_flat({"run": run, "output_dir": folder, **more}))
    return folder


def _texts(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md"))


def _training(folder: Path) -> list[str]:
    return read_checkpoint(folder, with_weights=False).documents["training"]


def test_the_folder_holds_no_id_no_folder_name_and_no_state(pretrained, tmp_path):
    texts = _texts(_publish(pretrained, tmp_path / "encoder"))
    known = _training(pretrained)
    assert set(known) <= set(IDS)
    assert [name for name in IDS if name in texts] == []
    assert str(pretrained.parent) not in texts
    assert "/table.biom" not in texts
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "provenance.json",
        "training.json",
    ]


def test_a_published_network_names_no_sample_either(regressor, study_folder, tmp_path):
    folder = _publish(regressor, tmp_path / "network")
    texts = _texts(folder)
    assert [name for name in IDS if name in texts] == []
    assert "# Predicts acidity" in texts
    table = study_folder / "table.biom"
    before, after = (library.SampleRegressor.from_pretrained(path).predictions(table) for path in (regressor, folder))
    pd.testing.assert_frame_equal(before, after)


def test_it_embeds_as_the_run_does(pretrained, study_folder, tmp_path):
    table, folder = study_folder / "table.biom", _publish(pretrained, tmp_path / "encoder")
    before, after = (library.SampleEncoder.from_pretrained(path).embed(table) for path in (pretrained, folder))
    pd.testing.assert_frame_equal(before, after)


def test_equal_models_are_published_alike(pretrained, tmp_path):
    one, two = (_publish(pretrained, tmp_path / name) for name in ("one", "two"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }


@pytest.mark.parametrize("how", ["hashed", "plain"])
def test_who_judges_it_on_samples_that_it_saw_is_warned_as_before(pretrained, tmp_path, how):
    folder = _publish(pretrained, tmp_path / "encoder", sample_ids=how)
    before, after = read_checkpoint(pretrained), read_checkpoint(folder)
    assert seen_by(before, IDS) is not None
    assert seen_by(after, IDS) == seen_by(before, IDS)
    others = [name for name in IDS if name not in before.documents["training"]]
    assert others
    assert seen_by(after, [*others, "S9999"]) is None


def test_an_encoder_that_does_not_tell_is_said_not_to(pretrained, train_options, tmp_path, caplog):
    folder = _publish(pretrained, tmp_path / "encoder", sample_ids="none")
    assert json.loads((folder / "training.json").read_text()) == {"samples": len(_training(pretrained))}
    with caplog.at_level(logging.WARNING):
        options = {"pretrained_encoder": folder, "rarefy_depth": 150}
        prepare_training(*_study_and_config(train_options(tmp_path / "out", **options)))
    assert any("does not tell which samples it has seen" in line for line in caplog.messages)


def _study_and_config(flat: dict) -> tuple:
    config = TrainConfig.from_flat(flat)
    return load_study(config.inputs, config.sampling), config


def test_what_was_published_with_hashes_is_published_again_with_the_same(pretrained, tmp_path):
    once = _publish(pretrained, tmp_path / "once")
    again = _publish(once, tmp_path / "again", sample_ids="plain")
    assert (once / "training.json").read_bytes() == (again / "training.json").read_bytes()
    assert "None are known" in (again / "README.md").read_text()


def test_a_hash_is_of_one_model(pretrained):
    one, two = (training_samples.concealed(["S1", "S2"], "hashed", salt) for salt in ("a", "b"))
    assert set(one["hashes"]).isdisjoint(two["hashes"])
    assert training_samples.among(one, ["S2", "S3"]) == ["S2"]


def test_the_card_says_what_is_known(pretrained, tmp_path):
    more = {"licence": "Ask us", "studies": "Soils,Lakes", "region": "16S V4", "name": "ann/microbes"}
    text = (_publish(pretrained, tmp_path / "encoder", **more) / "README.md").read_text()
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1].splitlines()
    assert 'license: "other"' in front
    assert 'license_name: "Ask us"' in front
    for said in (
        "# ann/microbes",
        "Soils and Lakes",
        "16S V4",
        "ASVs: 52;",
        "pearson",
        "Ask us",
        "SHA-256",
        "seed: 42",
    ):
        assert said in text, said
    sides = json.loads((pretrained / "provenance.json").read_text())["data"]["sides"]
    row = re.search(r"^samples +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE).groups()
    assert [int(number) for number in row] == [sides[side]["samples"] for side in ("all", "training", "validation")]


def test_without_a_licence_the_card_says_so(pretrained, tmp_path):
    text = (_publish(pretrained, tmp_path / "encoder") / "README.md").read_text()
    assert "license:" not in text
    assert "None was given" in text


def test_a_checkpoint_without_its_run_is_published_without_scores(pretrained, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree((pretrained / "checkpoints" / "best").resolve(), alone)
    assert "None are known" in (_publish(alone, tmp_path / "encoder") / "README.md").read_text()


def test_what_is_no_list_of_samples_is_refused(pretrained, tmp_path):
    whole = read_checkpoint(pretrained)
    for number, foreign in enumerate(["S1", {"hashes": 3, "samples": 2, "salt": ""}, {}, {"samples": "many"}]):
        documents = whole.documents | {"training": foreign}
        folder = tmp_path / str(number)
        write_checkpoint(type(whole)(whole.kind, whole.config, documents, whole.model), folder)
        with pytest.raises(library.InputError, match="says of its training samples what no aam writes"):
            seen_by(read_checkpoint(folder), ["S1"])


@pytest.mark.parametrize(
    ("command", "published"),
    [
        ("aam pretrain --table /home/ann/t.biom --output-dir out/", "aam pretrain --table t.biom --output-dir out"),
        ("aam train --table=/data/t.biom --where 'a/b=c'", "aam train --table=t.biom --where b=c"),
        ("aam train --embedding-cache / --lr 0.1", "aam train --embedding-cache '' --lr 0.1"),
        (None, None),
    ],
)
def test_commands_are_published_without_folders(command, published):
    assert _command(command) == published

"""Checkpoints and folders that no aam left so, hashes and all: one error each, no code run, nothing outside read."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata

from aam.cli import main as entry
from aam.errors import InputError
from aam.training.checkpoints.alike import check_alike
from aam.training.checkpoints.sharded import METADATA, _unpickled

STATE = "state/state.json"


def words_of(options: dict[str, Any], resume: bool = True) -> list[str]:
    words = ["pretrain"]
    for name, value in options.items():
        flag = f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}"
        words += [flag] if value is False else [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words + ["--resume"] * resume


@pytest.fixture
def run(tmp_path: Path, pretrained: Path, pretrain_options: Callable[..., dict[str, Any]]) -> tuple[Path, list[str]]:
    """A copy of a run, and the command that resumes it."""
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder, symlinks=True)
    options = pretrain_options(folder, rarefy_depth=150, report=False)
    return folder, words_of({**options, "quiet": None})


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    words = [word for word in words if word != "None"]
    with pytest.raises(SystemExit) as caught:
        entry(words)
    text = capsys.readouterr().err
    assert (caught.value.code, text.count("Error: "), text.count("\n")) == (2, 1, 1), text
    return text


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Put other content into the last checkpoint, and its hash into the manifest."""
    last = folder / "checkpoints" / "last"
    (last / name).write_bytes(content)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (last / "manifest.json").write_text(json.dumps(manifest))


STATES = {
    "Infinity": ('"step": ', '"step": Infinity, "x": ', "Infinity is no number"),
    "NaN": ('"step": ', '"step": NaN, "x": ', "NaN is no number"),
    "1e999": ('"step": ', '"step": 1e999, "x": ', "1e999 is no number"),
    "negative": ('"step": ', '"step": -', "says that -"),
    "beyond the run": ('"step": ', '"step": 99999', "steps are done, of a run of"),
    "half a step": ('"step": ', '"step": 0.', "steps are done|of another kind"),
    "a text": ('"step": ', '"step": "', None),
    "no progress": ('"progress"', '"regress"', "names differ: 'progress'|names differ: 'regress'"),
    "no schedule": ('"schedule"', '"fate"', "names differ"),
    "groups": ('"groups": [', '"groups": [3, ', "state.groups.0 in the checkpoint is not what aam writes"),
    "study": ('"study": {', '"study": [], "other": {', "says nothing of the study"),
    "nested": ('"progress"', '"x": ' + "[" * 100_000 + ', "progress"', "what no aam writes"),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = run
    before, after, reason = STATES[name]
    text = (folder / "checkpoints" / "last" / STATE).read_text()
    assert before in text
    rewrite(folder, STATE, text.replace(before, after, 1).encode())
    error = said(words, capsys)
    assert any(part in error for part in (reason or "what no aam writes").split("|")), error


def test_tensors_that_are_none(run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = run
    for name in ("model.safetensors", "state/optimizer.safetensors"):
        rewrite(folder, name, b"\xff" * 100)
    assert "what no aam writes" in said(words, capsys)


@pytest.mark.parametrize("config", [b"[]", b'{"inputs": 3}', b'"x"'])
def test_options_that_are_none(config: bytes, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = run
    rewrite(folder, "config.json", config)
    assert "holds no options" in said(words, capsys)


@pytest.mark.parametrize("name", ["model.safetensors", STATE, "manifest.json", "config.json"])
def test_a_folder_in_the_place_of_a_file(
    name: str, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = run
    place = folder / "checkpoints" / "last" / name
    place.unlink()
    place.mkdir()
    error = said(words, capsys)
    assert f"{place.resolve()} is no file" in error or (name == "manifest.json" and "holds no checkpoint" in error)


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "training.log", "provenance.json", "split.tsv", "left_out.tsv"]
)
def test_a_folder_in_the_place_of_a_file_of_the_run(
    name: str, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = run
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{name} in it is a folder, where a run has a file" in said(words, capsys)
    assert "is a folder" in said([word if word != "--resume" else "--overwrite" for word in words], capsys)


@pytest.mark.parametrize("name", ["tensorboard", "checkpoints", "plots"])
def test_a_file_in_the_place_of_a_folder(
    name: str, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = run
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).write_text("")
    assert f"{name} in it is a file, where a run has a folder" in said(words, capsys)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "state/../../secret", "a/b"])
def test_names_that_lead_outside(name: str, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = run
    path = folder / "checkpoints" / "last" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"]["model.safetensors"]
    path.write_text(json.dumps(manifest))
    assert "is damaged (not a manifest of aam)" in said(words, capsys)


def test_a_pipe_in_the_place_of_weights(run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = run
    place = folder / "checkpoints" / "last" / "model.safetensors"
    place.unlink()
    os.mkfifo(place)
    assert "is no file" in said(words, capsys)


def test_a_last_outside_of_the_run(
    run: tuple[Path, list[str]], pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = run
    last = folder / "checkpoints" / "last"
    last.unlink()
    last.symlink_to((pretrained / "checkpoints" / "last").resolve(), target_is_directory=True)
    assert "outside of the run" in said(words, capsys)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "gone", 3])
def test_shards_outside(name: Any, tmp_path: Path) -> None:
    (tmp_path.parent / "secret").write_text("")
    place = tmp_path / METADATA
    place.write_bytes(pickle.dumps(Metadata({}, storage_data={"x": _StorageInfo(name, 0, 1)})))
    with place.open("rb") as file, pytest.raises(InputError, match="names a file that is none of the checkpoint"):
        _unpickled(file, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"garbage", pickle.dumps(3), pickle.dumps({"a": 1}) + b"x"])
def test_metadata_of_shards_that_is_none(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / METADATA
    place.write_bytes(content)
    with place.open("rb") as file, pytest.raises(InputError, match=r"holds what no aam writes|is no metadata"):
        _unpickled(file, tmp_path)


def test_targets_that_are_none(regressor: Path, study_folder: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(regressor, folder, symlinks=True)
    for number, content in enumerate((b"[]", b'{"columns": 3}', b"{}", b'{"columns": [{"name": "acidity"}]}')):
        last = folder / "checkpoints" / "best"
        (last / "targets.json").write_bytes(content)
        manifest = json.loads((last / "manifest.json").read_text())
        manifest["files"]["targets.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (last / "manifest.json").write_text(json.dumps(manifest))
        words = ["predict", "--checkpoint", str(folder), "--table", str(study_folder / "table.biom")]
        error = said([*words, "--output", str(tmp_path / f"{number}.tsv")], capsys)
        assert "what no aam writes" in error or "other weights than its options ask for" in error


def test_alike() -> None:
    own = {"a": 1, "main": {"x": 0.5}, "list": [1.0, None], "flag": True}
    check_alike({"a": 2.5, "main": {"x": 1, "new": 3}, "list": [None, 2, 3], "flag": False}, own, "state")
    for wrong in (
        {**own, "a": "x"},
        {**own, "flag": 1},
        {**own, "b": 1},
        {**own, "list": {}},
        {**own, "main": {"x": []}},
        3,
    ):
        with pytest.raises(InputError, match=r"state.* in the checkpoint is not what aam writes"):
            check_alike(wrong, own, "state")

"""Wrong uses of `aam report`: exit code 2, one message that says what, where and what to do, and nothing written."""

import json
import re
import shutil
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import EvaluateConfig
from aam.workflows.evaluate import evaluate


@pytest.fixture(scope="module")
def compared(tmp_path_factory, study_folder) -> Path:
    """A small evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    small = {"group_column": "subject", "learners": "linear", "trees": 5, "folds": 2, "repeats": 1, "report": False}
    evaluate(EvaluateConfig.from_flat({**files, **small, "metadata_column": "acidity", "output_dir": folder}))
    return folder


@pytest.fixture
def here(compared, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the evaluation in it."""
    shutil.copytree(compared, tmp_path / "compared")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "old.html").write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(name: str, text: str):
    return lambda: Path(name).write_text(text, encoding="utf-8")


def _config(**changes: object):
    def change() -> None:
        path = Path("compared/config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


PAGE = ["--output", "page.html"]
CASES = {
    "no run": (PAGE, ("RUN",), None),
    "no output": (["compared"], ("--output",), None),
    "run not there": (["nowhere", *PAGE], ("nowhere is no folder", "aam pretrain, train, evaluate"), None),
    "run is a file": (["file", *PAGE], ("file is no folder",), None),
    "folder without a run": (["empty", *PAGE], ("empty holds no run that a report is made from",), None),
    "run named twice": (["compared", "compared", *PAGE], ("compared is named twice",), None),
    "output is no page": (
        ["compared", "--output", "page.pdf"],
        ("--output page.pdf: a report is an .html file",),
        None,
    ),
    "output is there": (["compared", "--output", "old.html"], ("old.html exists", "--overwrite"), None),
    "output in no folder": (["compared", "--output", "deep/page.html"], ("there is no folder", "make it first"), None),
    "output is a folder": (
        ["compared", "--output", "is.html"],
        ("is.html is a folder",),
        lambda: Path("is.html").mkdir(),
    ),
    "unknown column": ([*PAGE, "compared", "--errors-by", "colour"], ("--errors-by colour", "no such column"), None),
    "column twice": ([*PAGE, "compared", "--errors-by", "day,day"], ("--errors-by names day twice",), None),
    "unknown option": ([*PAGE, "compared", "--colour"], ("No such option",), None),
    "damaged options": (
        ["compared", *PAGE],
        ("config.json is damaged", "no JSON"),
        _write("compared/config.json", "{"),
    ),
    "options are no object": (["compared", *PAGE], ("damaged .no JSON object",), _write("compared/config.json", "[]")),
    "options are no sections": (["compared", *PAGE], ("not the options of a run",), _config(folds=3)),
    "damaged verdict": (["compared", *PAGE], ("evaluation.json is damaged",), _write("compared/evaluation.json", "")),
    "damaged scores": (
        ["compared", *PAGE],
        ("scores.tsv is damaged",),
        _write("compared/scores.tsv", 'learner\tmetric\n"forest\n'),
    ),
    "empty scores": (["compared", *PAGE], ("scores.tsv is damaged",), _write("compared/scores.tsv", "")),
    "not finished": (
        ["compared", *PAGE],
        ("evaluation in compared is not finished", "--resume"),
        lambda: Path("compared/evaluation.json").unlink(),
    ),
    "predictions are gone": (
        ["compared", *PAGE],
        ("lacks the predictions", "--resume"),
        lambda: Path("compared/predictions.tsv").unlink(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_uses_are_told(here, capsys, name):
    words, says, damage = CASES[name]
    if damage is not None:
        damage()
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as left:
        main(["report", *words])
    told = capsys.readouterr().err
    assert left.value.code == 2, told
    assert "Traceback" not in told
    flat = " ".join(told.replace("│", " ").split())
    for text in says:
        assert re.search(text, flat), flat
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["pretrain", "train", "evaluate"])
def test_whether_a_run_reports_is_an_option(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, "--help-all"])
    assert left.value.code == 0
    assert "--no-report" in capsys.readouterr().out

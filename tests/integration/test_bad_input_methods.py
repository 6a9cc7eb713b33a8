"""Wrong uses of `aam methods`, and damaged provenance: one message, exit code 2, nothing written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from aam.cli import main
from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study, write_study

FILES = ["--table", "table.biom", "--metadata", "metadata.tsv", "--metadata-column", "acidity"]
SMALL = ["--group-column", "subject", "--learners", "linear", "--folds", "2", "--repeats", "1", "--trees", "3"]


class Case(NamedTuple):
    words: list[str]
    says: str
    damage: Callable[[], object] = lambda: None


def _text(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content)


def _replace(name: str, old: str, new: str) -> Callable[[], object]:
    def damage() -> None:
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new))

    return damage


CASES = {
    "no run": Case(["methods"], "RUN"),
    "no folder": Case(["methods", "typo"], "typo: no such folder"),
    "a file": Case(["methods", "table.biom"], "table.biom: no such folder"),
    "an empty folder": Case(["methods", "empty"], "empty holds no run of aam"),
    "one checkpoint": Case(
        ["methods", "null/checkpoints/best"], "is one checkpoint: give the output folder of its run"
    ),
    "an unfinished evaluation": Case(
        ["methods", "compared"], "not finished; continue it with", lambda: Path("compared/evaluation.json").unlink()
    ),
    "damaged options": Case(["methods", "compared"], r"config\.json is damaged", _text("compared/config.json", "{")),
    "damaged evaluation": Case(
        ["methods", "compared"], r"evaluation\.json is damaged", _text("compared/evaluation.json", "[]")
    ),
    "options of another version": Case(
        ["methods", "compared"], "another version of aam", _replace("compared/config.json", '"gap"', '"gulf"')
    ),
    "damaged provenance": Case(
        ["methods", "null"], r"provenance\.json is damaged", _text("null/provenance.json", '{"sessions": 3}')
    ),
    "damaged provenance inspected": Case(
        ["inspect", "null"], r"provenance\.json is damaged", _text("null/provenance.json", "")
    ),
    "damaged scores inspected": Case(
        ["inspect", "null"], r"val_metrics\.json is damaged", _text("null/val_metrics.json", "{")
    ),
    "a bibliography that is there": Case(
        ["methods", "null", "--bibtex", "mine.bib"], "--bibtex mine.bib exists; replace it with --overwrite"
    ),
    "a bibliography in no folder": Case(["methods", "null", "--bibtex", "no/a.bib"], "there is no folder"),
    "a bibliography that is a folder": Case(["methods", "null", "--bibtex", "empty"], "empty is a folder"),
    "a bibliography that is a device": Case(
        ["methods", "null", "--bibtex", "/dev/null", "--overwrite"], "is a device, a pipe or a socket"
    ),
    "a bibliography in place of a file of the run": Case(
        ["methods", "null", "--bibtex", "null/config.json", "--overwrite"], "null/config.json is a file of the run"
    ),
    "a bibliography in place of a file of the evaluation": Case(
        ["methods", "compared", "--bibtex", "compared/scores.tsv", "--overwrite"], "scores.tsv is a file of the run"
    ),
    "overwrite without a file": Case(
        ["methods", "null", "--overwrite"], "--overwrite .* only has an effect with --bibtex"
    ),
    "a resumed evaluation with damaged provenance": Case(
        ["evaluate", *FILES, *SMALL, "--output-dir", "compared", "--resume"],
        r"provenance\.json is damaged .*: delete it",
        _text("compared/provenance.json", '{"sessions": [1]}'),
    ),
}


def _leave(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input-methods")
    config = SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _leave(["train", *FILES, "--learner", "null", "--output-dir", "null"]) == 0
        assert _leave(["evaluate", *FILES, *SMALL, "--output-dir", "compared"]) == 0
    (folder / "empty").mkdir()
    (folder / "mine.bib").write_text("@book{mine}")
    return folder


def _contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "study"
    shutil.copytree(study, folder, symlinks=True)
    monkeypatch.chdir(folder)
    case.damage()
    before = _contents(folder)
    assert _leave(case.words) == 2
    shown = capsys.readouterr()
    (error,) = (line for line in shown.err.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in shown.err
    assert re.search(case.says, error), error
    assert _contents(folder) == before


def test_there_are_enough_cases():
    assert len(CASES) >= 6

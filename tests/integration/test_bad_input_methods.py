"""Wrong uses of `aam methods`, and damaged provenance: one message, exit code 2, nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

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


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_small_study, leave) -> Path:
    folder = tmp_path_factory.mktemp("bad-input-methods")
    write_small_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert leave(["train", *FILES, "--learner", "null", "--output-dir", "null"]) == 0
        assert leave(["evaluate", *FILES, *SMALL, "--output-dir", "compared"]) == 0
    (folder / "empty").mkdir()
    (folder / "mine.bib").write_text("@book{mine}")
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, refuse):
    refuse(study, case.words, case.says, case.damage)


def test_there_are_enough_cases():
    assert len(CASES) >= 6

"""Bad input of `aam tune` and of trackers: exit code 2, one message, and nothing half-written."""

import re
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import SimulateConfig, flag
from aam.data.simulation.study import simulate_study, write_study

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'aam[tune]'")

FILES = {"table": "table.biom", "tree": "tree.nwk", "metadata": "metadata.tsv", "metadata_column": "acidity"}
NETWORK = {"embedding_dim": 8, "attention_heads": 2, "epochs": 1}


@dataclass(frozen=True)
class Case:
    words: list[str]
    says: tuple[str, ...]
    space: str | bytes | None = None
    """Content of space.toml."""


def command(name: str, **options: object) -> list[str]:
    words = [name]
    for option, value in options.items():
        words += [] if value is None else [flag(option)] if value is True else [flag(option), str(value)]
    return words


def tune(**changes: object) -> list[str]:
    small = {"learner": "linear", "trials": 1, "nested_trials": 0, "folds": 2, "group_column": "subject"}
    return command("tune", **{**FILES, **small, "output_dir": "out", **changes})


tune_space = partial(tune, space="space.toml")


CASES = {
    "no column": Case(tune(metadata_column=None), ("--metadata-column is needed",)),
    "two columns": Case(tune(metadata_column="acidity,habitat"), ("one column",)),
    "no folder": Case(tune(output_dir=None), ("--output-dir is needed",)),
    "no trials": Case(tune(trials=0), ("--trials",)),
    "unknown learner": Case(tune(learner="depth"), ("--learner", "linear")),
    "one nested fold": Case(tune(nested_folds=1), ("--nested-folds",)),
    "a gap": Case(tune(gap=True), ("--gap", "aam evaluate")),
    "a test that chooses": Case(
        tune(group_column=None, folds=None, test_column="side"), ("--test-column with --nested-trials 0",)
    ),
    "option of another learner": Case(tune(lr=0.1), ("--lr 0.1 only has an effect with neural",)),
    "no tree": Case(tune(learner="clades", tree=None), ("clades reads clades of the phylogeny: give --tree",)),
    "too many folds": Case(tune(folds=50), ("--folds 50", "8 groups")),
    "nothing left to try": Case(
        tune(linear_penalty="l1", min_prevalence=0.1), ("all options that are tried of linear are given", "--space")
    ),
    "options that never fit": Case(
        tune(learner="neural", attention_heads=64), ("embedding_dim = 32", "not a multiple of --attention-heads 64")
    ),
    "resume and overwrite": Case(tune(resume=True, overwrite=True), ("give one of them",)),
    "nothing to resume": Case(tune(output_dir="empty", resume=True), ("--resume", "holds no run")),
    "folder of another run": Case(tune(output_dir="photos"), ("is not empty",)),
    "no space file": Case(tune(space="none.toml"), ("--space none.toml", "No such file")),
    "space is no TOML": Case(tune_space(), ("space.toml is not TOML", "trees = {low"), "trees = {low"),
    "space is no text": Case(tune_space(), ("space.toml is not TOML",), b"\xff\xfe\x00"),
    "empty space": Case(tune_space(), ("names no option", "--show-space"), ""),
    "unknown option": Case(tune_space(), ("tres is no option of linear",), "tres = {low = 1, high = 2}"),
    "option that is no learner's": Case(tune_space(), ("folds is no option",), "folds = {low = 2, high = 5}"),
    "option that the learner does not read": Case(
        tune_space(), ("kernel_steps is no option of linear",), "kernel_steps = {low = 2, high = 5}"
    ),
    "file as an option": Case(
        tune_space(learner="neural"),
        ("pretrained_encoder is no option",),
        'pretrained_encoder = {choices = ["a", "b"]}',
    ),
    "a plain value": Case(tune_space(), ("min_prevalence = 0.1", "--min-prevalence"), "min_prevalence = 0.1"),
    "falling range": Case(tune_space(), ("low 0.5 is not below high 0.1",), "min_prevalence = {low = 0.5, high = 0.1}"),
    "logarithm of zero": Case(
        tune_space(), ("log = true needs a low above 0",), "min_prevalence = {low = 0, high = 0.1, log = true}"
    ),
    "out of range": Case(
        tune_space(), ("min_prevalence = 1.5", "less than or equal to 1"), "min_prevalence = {low = 0.1, high = 1.5}"
    ),
    "unknown choice": Case(
        tune_space(),
        ("linear_penalty = 'l3'", "'l2', 'l1' or 'elasticnet'"),
        'linear_penalty = {choices = ["l2", "l3"]}',
    ),
    "one choice": Case(tune_space(), ("linear_penalty.choices",), 'linear_penalty = {choices = ["l2"]}'),
    "a choice twice": Case(tune_space(), ("a value twice",), 'linear_penalty = {choices = ["l2", "l2"]}'),
    "range of names": Case(tune_space(), ("linear_penalty", "l2"), "linear_penalty = {low = 1, high = 2}"),
    "half a range": Case(tune_space(), ("min_prevalence.high", "low and high"), "min_prevalence = {low = 0.1}"),
    "a text as an end": Case(tune_space(), ("min_prevalence.low",), 'min_prevalence = {low = "a", high = 1}'),
    "unknown members": Case(
        tune_space(learner="ensemble"),
        ("ensemble_members = 'clades,oak'", "oak is no learner"),
        'ensemble_members = {choices = ["clades", "clades,oak"]}',
    ),
    "study is no journal": Case(tune(study="table.biom"), ("--study table.biom", "no journal")),
    "study in no folder": Case(tune(study="none/study.journal"), ("--study none/study.journal", "cannot be written")),
    "study is a folder": Case(tune(study="photos"), ("--study photos", "cannot be written")),
    "no such database": Case(tune(study="oracle9://x"), ("--study oracle9://x", "cannot be opened")),
    "database in no folder": Case(tune(study="sqlite:///none/t.db"), ("cannot be opened",)),
    "unknown tracker": Case(command("train", **FILES, **NETWORK, output_dir="out", track="comet"), ("--track",)),
    "project of no tracker": Case(
        command("train", **FILES, **NETWORK, output_dir="out", track_project="a"), ("only has an effect with --track",)
    ),
    "empty project": Case(
        command("train", **FILES, **NETWORK, output_dir="out", track="mlflow", track_project=" "),
        ("--track-project is empty",),
    ),
    "tracker of one fold": Case(
        command("evaluate", **FILES, folds=2, only_fold=1, output_dir="out", track="mlflow"), ("--collect",)
    ),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input")
    config = SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    (folder / "empty").mkdir()
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").write_bytes(b"cat")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is to be refused; returns its message."""
    before = contents(folder)
    with pytest.raises(SystemExit) as left:
        main(words)
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("Error: ")]
    assert left.value.code == 2, shown.err
    assert len(errors) == 1, shown.err
    assert "Traceback" not in shown.err
    assert len(errors[0]) < 700
    assert contents(folder) == before
    return errors[0]


@pytest.fixture
def own(study, tmp_path, monkeypatch) -> Path:
    """A copy of the study, which is the working directory."""
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, own, capsys):
    if case.space is not None:
        content = case.space.encode() if isinstance(case.space, str) else case.space
        Path("space.toml").write_bytes(content)
    message = refused(case.words, own, capsys)
    for pattern in case.says:
        assert pattern in message


def test_a_damaged_journal_is_named(own, capsys):
    with pytest.raises(SystemExit):
        main(tune())
    path = Path("out/study.journal")
    path.write_text("{\n" + path.read_text())
    assert re.search("out/study.journal: this file is damaged", refused(tune(trials=2, resume=True), own, capsys))


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_there_is_named(name, own, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as an import of what is not there
    words = command("train", **FILES, **NETWORK, output_dir="out", track=name)
    monkeypatch.setattr("aam.training.sinks.tracker.find_spec", lambda _: None)
    assert f"pip install 'aam[{name}]'" in refused(words, own, capsys)
    monkeypatch.setattr("aam.training.sinks.tracker.find_spec", lambda _: object())
    assert "cannot be loaded" in refused(words, own, capsys)


def test_without_optuna_tuning_says_what_to_install(own, capsys, monkeypatch):
    monkeypatch.setattr("aam.workflows.tune.find_spec", lambda _: None)
    assert "pip install 'aam[tune]'" in refused(tune(), own, capsys)


def test_there_are_enough_cases():
    assert len(CASES) >= 30

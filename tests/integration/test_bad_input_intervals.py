"""Wrong uses of intervals: exit code 2, one message that says what, where and what to do, and nothing half-written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.training.checkpoints.store import read_checkpoint, write_checkpoint

TABLE = ["--table", "table.biom"]
FILES = [*TABLE, "--metadata", "metadata.tsv", "--metadata-column", "acidity"]
SMALL = ["--epochs", "1", "--embedding-dim", "8", "--attention-heads", "2", "--attention-layers", "1"]


def predict(run: str, *interval: str) -> list[str]:
    return ["predict", "--checkpoint", run, *TABLE, "--output", "p.tsv", *interval]


def evaluate(*interval: str) -> list[str]:
    return ["evaluate", *FILES, "--learners", "linear", "--output-dir", "evaluated", *interval]


CASES: dict[str, tuple[list[str], str]] = {
    "a level of no certainty": (predict("linear", "--interval", "0"), "--interval.*0.0 is not in the range"),
    "a level of certainty": (predict("linear", "--interval", "1"), "--interval.*1.0 is not in the range"),
    "a level in per cent": (predict("linear", "--interval", "90"), "--interval.*90.0 is not in the range"),
    "a negative level": (predict("linear", "--interval", "-0.9"), "--interval.*-0.9 is not in the range"),
    "a level that is no number": (predict("linear", "--interval", "high"), "--interval.*'high' is not a valid float"),
    "a level of nothing": (predict("linear", "--interval", "nan"), "--interval"),
    "a level with a comma": (predict("linear", "--interval", "0,9"), "--interval.*'0,9' is not a valid float"),
    "the network": (predict("network", "--interval", "0.9"), "the network keeps none: train another learner"),
    "an older model": (predict("older", "--interval", "0.9"), "kept nothing to make intervals of: train it again"),
    "a model that was not trained": (predict("nowhere", "--interval", "0.9"), "nowhere"),
    "no sample that is known": (
        ["predict", "--checkpoint", "linear", "--table", "other.tsv", "--output", "p.tsv", "--interval", "0.9"],
        "none of the 1 ASVs of the table is known",
    ),
    "evaluate without certainty": (evaluate("--interval", "0"), "--interval.*0.0 is not in the range"),
    "evaluate in per cent": (evaluate("--interval", "95"), "--interval.*95.0 is not in the range"),
    "evaluate with a word": (evaluate("--interval", "wide"), "--interval.*'wide' is not a valid float"),
    "a level for training": (
        ["train", *FILES, "--learner", "linear", "--output-dir", "out", "--interval", "0.9"],
        "No such option.*--interval",
    ),
    "a level for embeddings": (
        ["embed", "--checkpoint", "network", *TABLE, "--output", "e.tsv", "--interval", "0.9"],
        "No such option.*--interval",
    ),
    "a level in a file": ([*predict("linear"), "--config", "options.toml"], "interval.*2"),
    "another level for an evaluation that goes on": (
        ["evaluate", *FILES, "--learners", "linear", "--output-dir", "done", "--resume", "--interval", "0.8"],
        "--resume.*interval",
    ),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, leave) -> Path:
    """A study of 24 samples, models of it, and an evaluation."""
    folder = tmp_path_factory.mktemp("intervals")
    write_study(simulate_study(SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300)), folder)
    (folder / "other.tsv").write_text(f"#OTU ID\tone\n{'T' * 30}\t5\n")
    (folder / "options.toml").write_text("interval = 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert leave(["train", *FILES, "--learner", "linear", "--output-dir", "linear"]) == 0
        assert leave(["train", *FILES, *SMALL, "--output-dir", "network"]) == 0
        small = ["--learners", "linear", "--trees", "5", "--repeats", "1"]
        assert leave(["evaluate", *FILES, *small, "--allow-random-split", "--output-dir", "done"]) == 0
        checkpoint = read_checkpoint(Path("linear"))
        arrays = {name: array for name, array in checkpoint.model.items() if "conformity/" not in name}
        write_checkpoint(replace(checkpoint, model=arrays), Path("older"))
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, refuse):
    refuse(study, *case)


def test_an_evaluation_says_which_level_it_had(study):
    assert json.loads((study / "done" / "evaluation.json").read_text())["options"]["interval"] == 0.9

"""`kill -9` of tunings that two processes share: nothing is lost, nothing is done twice, and the last one writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study, write_study

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'aam[tune]'")

TRIALS = 14
PATIENCE = 120.0
"""Seconds to wait for a process to move on."""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    config = SimulateConfig(directory=folder, samples=60, asvs=80, bp=30, depth=300, subjects=12)
    write_study(simulate_study(config), folder)
    return folder


def start(study: Path, folder: Path, *more: str) -> subprocess.Popen:
    options = {
        "--table": study / "table.biom",
        "--tree": study / "tree.nwk",
        "--metadata": study / "metadata.tsv",
        "--metadata-column": "acidity",
        "--group-column": "subject",
        "--learner": "clades",
        "--folds": 3,
        "--trials": TRIALS,
        "--nested-trials": 2,
        "--nested-folds": 2,
        "--output-dir": folder,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return subprocess.Popen(
        [sys.executable, "-m", "aam", "tune", *words, *more, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_folds(folder: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until so many folds were fitted."""
    until = time.monotonic() + PATIENCE
    while len(list(folder.glob("folds/*.json"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the tuning does not move on"
        time.sleep(0.02)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


@pytest.mark.slow
def test_two_processes_share_a_tuning_that_is_killed_twice(study, tmp_path):
    folder = tmp_path / "out"
    pair = [start(study, folder), start(study, folder)]
    wait_for_folds(folder, 4, pair[0])
    for process in pair:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    pair = [start(study, folder, "--resume"), start(study, folder, "--resume")]
    wait_for_folds(folder, 12, pair[1])
    pair[0].send_signal(signal.SIGKILL)
    pair[0].communicate()
    finish(pair[1])
    document = json.loads((folder / "tuning.json").read_text())
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    counts = table["state"].value_counts()
    assert document["trials"] == TRIALS == counts["complete"] + counts.get("given up", 0)
    assert counts.get("running", 0) == counts.get("waiting", 0) == 0
    assert len(document["nested"]["chosen"]) == 3
    assert document["best"]["score"] == table["score"][table["state"] == "complete"].max()
    again = table[table["note"].fillna("").str.startswith("trial ")]
    assert len(again) == counts.get("interrupted", 0) >= 1

"""`kill -9` at random moments: every resumed run ends as the undisturbed one, and no reader sees a broken checkpoint.

AAM_KILLS sets the number of kills (4 by default).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from aam.data.sampling.seeded import generator
from aam.errors import InputError
from aam.training.checkpoints.store import read_checkpoint

KILLS = int(os.environ.get("AAM_KILLS", "4"))
LINES_BETWEEN_KILLS = 12
EPOCHS = 2 + KILLS * LINES_BETWEEN_KILLS // 4
"""Of four steps and a validation each, more than all kills need."""
PATIENCE = 120.0
"""Seconds to wait for a run to move on."""


class Reader(threading.Thread):
    """Reads the checkpoints of a run over and over, and notes what was wrong with them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.stopped, self.faults = folder, threading.Event(), []
        self.reads = dict.fromkeys(("last", "best"), 0)
        self.steps: set[int] = set()

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            for link in self.reads:
                if self.reads[link] or os.path.lexists(self.folder / link):  # once there, it never goes
                    self._read(link)

    def _read(self, link: str) -> None:
        try:
            checkpoint = read_checkpoint(self.folder / link, with_state=True, kind="pretrain")
            self.steps.add(checkpoint.state["progress"]["step"])
        except (InputError, OSError, ValueError) as error:
            self.faults.append(f"{link}: {error!r}")
        self.reads[link] += 1


def start(study: Path, folder: Path, resume: bool = False) -> subprocess.Popen:
    options = {
        "--table": study / "table.biom",
        "--tree": study / "tree.nwk",
        "--output-dir": folder,
        "--epochs": EPOCHS,
        "--embedding-dim": 8,
        "--attention-heads": 2,
        "--attention-layers": 1,
        "--batch-size": 4,
        "--accumulation-steps": 2,
        "--rarefy-depth": 150,
        "--sample-dropout": 0.1,
        "--checkpoint-every": 2,
        "--log-every": 1,
        "--device": "cpu",
    }
    words = [str(word) for pair in options.items() for word in pair] + ["--resume"] * resume
    return subprocess.Popen(
        [sys.executable, "-m", "aam", "pretrain", *words, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen, folder: Path, lines: int) -> None:
    began = time.monotonic()
    while lines_of(folder) < lines:
        assert process.poll() is None, f"the run ended before the kill: {process.stderr.read().decode()}"
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.001)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()


def kill_at_random(process: subprocess.Popen, folder: Path, draw: np.random.Generator) -> int:
    """Kill a run some lines of metrics and some milliseconds from now, or while it starts; returns lines so far."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 3))
    else:
        # a resumed run first cuts the lines after its checkpoint: at most two steps and a validation
        wait_for_lines(process, folder, lines_of(folder) + int(draw.integers(1, LINES_BETWEEN_KILLS - 3)))
        time.sleep(draw.uniform(0, 0.04))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return lines_of(folder)


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_and_does_the_first_no_harm(study_folder, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "shared"
    finish(start(study_folder, whole))
    racers = [start(study_folder, folder), start(study_folder, folder)]
    errors = [process.communicate(timeout=PATIENCE)[1].decode() for process in racers]
    assert sorted(process.returncode for process in racers) == [0, 2], errors
    assert "Traceback" not in "".join(errors)
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_live_run_is_not_resumed_by_another(study_folder, tmp_path):
    process = start(study_folder, tmp_path / "run")
    wait_for_lines(process, tmp_path / "run", 6)
    process.send_signal(signal.SIGSTOP)
    before = lines_of(tmp_path / "run")
    late = start(study_folder, tmp_path / "run", resume=True)
    _, errors = late.communicate(timeout=PATIENCE)
    assert (late.returncode, lines_of(tmp_path / "run")) == (2, before)
    assert "another run is writing there" in errors.decode()
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(study_folder, tmp_path / "run", resume=True))


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_end(study_folder, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    finish(start(study_folder, whole))
    draw = generator(7, "kills")
    reader = Reader(folder / "checkpoints")
    reader.start()
    killed_at = [
        kill_at_random(start(study_folder, folder, resume=(folder / "config.json").exists()), folder, draw)
        for _ in range(KILLS)
    ]
    finish(start(study_folder, folder, resume=True))
    reader.stopped.set()
    reader.join()
    print(f"\nkilled after lines {killed_at}; {reader.reads} reads at {len(reader.steps)} different steps")  # noqa: T201
    assert not reader.faults
    assert min(reader.reads.values()) > 10
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/state.json"):
        for link in ("last", "best"):
            ends = [(run / "checkpoints" / link / name).read_bytes() for run in (whole, folder)]
            assert ends[0] == ends[1], f"{link}/{name}"
    for name in ("metrics.jsonl", "split.tsv", "val_distances.json"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes(), name
    assert lines_of(folder) == 5 * EPOCHS

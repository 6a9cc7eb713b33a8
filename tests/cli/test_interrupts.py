"""Ctrl-C and a terminal that is closed, sent to real processes."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aam.training.checkpoints.store import read_checkpoint
from aam.training.machine.signals import stop_signals

PATIENCE = 60.0
SMALL = [
    *("--embedding-dim", "8", "--attention-heads", "2", "--attention-layers", "1", "--batch-size", "4"),
    *("--accumulation-steps", "2", "--log-every", "1", "--epochs", "1000", "--device", "cpu"),
]


def wait_until(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not holds():
        assert process.poll() is None, "it has ended already"
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)


def pretrain(study: Path, folder: Path) -> list[str]:
    files = ["--table", study / "table.biom", "--tree", study / "tree.nwk", "--output-dir", folder]
    return [sys.executable, "-m", "aam", "pretrain", *map(str, files), *SMALL]


@contextmanager
def started(words: list[str], **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="which libraries are loaded is read from /proc")
@pytest.mark.parametrize("library", ["_pydantic_core", "_multiarray_umath", "libtorch_cpu"])
def test_an_interrupt_while_libraries_are_imported(library: str, study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(pretrain(study_folder, folder), stderr=subprocess.PIPE) as process:
        wait_until(process, lambda: library in Path(f"/proc/{process.pid}/maps").read_text())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said.decode().split("\n")[-2:]) == (130, ["Interrupted.", ""])
    assert b"Traceback" not in said
    assert not folder.exists()


def test_a_closed_terminal_stops_a_run_after_a_checkpoint(study_folder: Path, tmp_path: Path) -> None:
    """What is said to the terminal afterwards, such as the bar, is an error of the system that the run survives."""
    folder, (ours, theirs) = tmp_path / "run", pty.openpty()
    metrics = folder / "metrics.jsonl"
    with started(pretrain(study_folder, folder), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        wait_until(process, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 3)
        os.close(ours)
        process.send_signal(signal.SIGHUP)  # as the shell does, or the kernel to its session
        assert process.wait(PATIENCE) == 75
    last = read_checkpoint(folder / "checkpoints" / "last", with_state=True)
    assert last.state is not None
    assert last.state["progress"]["step"] == int((folder / "checkpoints" / "last").resolve().name[-8:])


def test_under_nohup_a_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.name is None
    finally:
        signal.signal(signal.SIGHUP, before)

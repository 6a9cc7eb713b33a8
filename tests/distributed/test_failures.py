"""A rank that fails, is stopped or is killed ends all of them soon, with a message; a killed run comes to the same end.

AAM_KILLS sets the number of kills (2 by default).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aam.data.sampling.seeded import generator

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
RANKS = 3
KILLS = int(os.environ.get("AAM_KILLS", "2"))
LONG = 10_000
"""Epochs of a run that ends otherwise."""
SOON = 30.0
"""Seconds within which every rank that still runs is to end."""
PATIENCE = 180.0
"""Seconds to wait for a run to move on, on a busy machine."""
LAUNCHER_WAITS = 30.0
"""Seconds that torchrun gives its processes between SIGTERM and SIGKILL; one that is stopped needs them all."""


def words_of(study: Path, folder: Path, **more: object) -> list[str]:
    options = {
        "table": study / "table.biom",
        "tree": study / "tree.nwk",
        "output_dir": folder,
        "embedding_dim": 8,
        "attention_heads": 2,
        "attention_layers": 1,
        "batch_size": 8,
        "rarefy_depth": 150,
        "checkpoint_every": 2,
        "log_every": 1,
        "device": "cpu",
        "epochs": LONG,
        **more,
    }
    named = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return ["pretrain", "--distributed", "--quiet", *(word for pair in named for word in pair)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Launch:
    """A run of several ranks whose output goes to files."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.began = time.monotonic()
        logs.mkdir()

    def start(self, name: str, command: list[object], **environment: object) -> subprocess.Popen[bytes]:
        more = {key: str(value) for key, value in environment.items()}
        with (self.logs / f"{name}.out").open("wb") as out, (self.logs / f"{name}.err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=out,
                stderr=err,
                env={**os.environ, "OMP_NUM_THREADS": "1", **more},
            )


class Direct(Launch):
    """Ranks started as by srun: nothing in between, and rank 0 hosts the store."""

    def __init__(self, logs: Path, command: list[object]) -> None:
        super().__init__(logs)
        place = {"WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        self.processes = [
            self.start(f"rank{rank}", command, RANK=rank, LOCAL_RANK=rank, **place) for rank in range(RANKS)
        ]

    def pid_of(self, rank: int) -> int:
        return self.processes[rank].pid

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            process.send_signal(number)

    def is_alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def end_of(self, rank: int, seconds: float) -> int:
        return self.processes[rank].wait(seconds)

    def errors_of(self, rank: int) -> str:
        return (self.logs / f"rank{rank}.err").read_text()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Torchrun(Launch):
    """Ranks started by torchrun, which hosts the store."""

    def __init__(self, logs: Path, command: list[object], restarts: int = 0) -> None:
        super().__init__(logs)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", RANKS]
        launcher += ["--max-restarts", restarts, "--log-dir", logs / "ranks", "--redirects", "3"]
        self.launcher = self.start("torchrun", [*launcher, *command])

    def pids(self) -> dict[int, int]:
        """The processes that live now, by rank."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if parent == self.launcher.pid:
                    rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", (status.parent / "environ").read_bytes())
                    found |= {int(rank[1]): int(status.parent.name)} if rank else {}
            except (OSError, ProcessLookupError):  # it ended in between
                continue
        return found

    def pid_of(self, rank: int) -> int:
        return self.pids()[rank]

    def is_alive(self) -> bool:
        return self.launcher.poll() is None

    def end_of(self, rank: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while rank in self.pids():
            assert time.monotonic() < until, f"rank {rank} still runs"
            time.sleep(0.1)

    def errors_of(self, rank: int, attempt: int = 0) -> str:
        (path,) = (self.logs / "ranks").glob(f"*/attempt_{attempt}/{rank}/stderr.log")
        return path.read_text()

    def attempts(self) -> int:
        return len(list((self.logs / "ranks").glob("*/attempt_*")))

    def end(self) -> None:
        left = list(self.pids().values())
        self.launcher.kill()
        self.launcher.wait()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., Launch]]:
    launched: list[Launch] = []

    def start(kind: type[Launch], *words: object, **more: object) -> Launch:
        launched.append(kind(tmp_path / f"logs{len(launched)}", list(words), **more))
        return launched[-1]

    yield start
    for each in launched:
        each.end()


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(run: Launch, folder: Path, lines: int) -> None:
    until = time.monotonic() + PATIENCE
    while lines_of(folder) < lines:
        assert run.is_alive(), [run.errors_of(rank) for rank in range(RANKS)]
        assert time.monotonic() < until
        time.sleep(0.005)


def told(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("Error: ")]


@pytest.mark.parametrize(("kind", "error"), [(Torchrun, "RuntimeError"), (Direct, "OSError")])
def test_an_exception_on_one_rank_ends_all_with_its_message(launch, study_folder, tmp_path, kind, error):
    run = launch(kind, HERE / "faulty_aam.py", error, *words_of(study_folder, tmp_path / "run"))
    wait_for_lines(run, tmp_path / "run", 2)
    codes = [run.end_of(rank, SOON) for rank in range(RANKS)]
    if kind is Direct:
        assert codes == [1] * RANKS
    else:
        assert run.launcher.wait(SOON) == 1
    assert "Traceback" in run.errors_of(1)
    for rank in (0, 2):
        (line,) = told(run.errors_of(rank))
        assert re.match(rf"Error: rank 1 failed at step 3 \(samples S.*\): {error}: an injected fault", line)
        assert "Traceback" not in run.errors_of(rank)


def test_a_nan_on_one_rank_ends_all_with_its_rank_step_and_samples(launch, study_folder, tmp_path):
    run = launch(Torchrun, HERE / "faulty_aam.py", "NaN", *words_of(study_folder, tmp_path / "run"))
    wait_for_lines(run, tmp_path / "run", 2)
    for rank in range(RANKS):
        run.end_of(rank, SOON)
    assert run.launcher.wait(SOON) == 1
    for rank in range(RANKS):
        (line,) = told(run.errors_of(rank))
        assert re.match(r"Error: rank 1, step 3: .* became NaN or infinite \(samples S", line)
        assert "Traceback" not in run.errors_of(rank)


@pytest.mark.parametrize(("kind", "stopped"), [(Torchrun, 1), (Direct, 0)])
def test_a_rank_that_is_stopped_ends_all_others(launch, study_folder, tmp_path, kind, stopped):
    run = launch(kind, "-m", "aam.cli", *words_of(study_folder, tmp_path / "run", rank_timeout=5))
    wait_for_lines(run, tmp_path / "run", 3)
    time.sleep(2)  # until the heartbeat tells of a step
    os.kill(run.pid_of(stopped), signal.SIGSTOP)
    others = [rank for rank in range(RANKS) if rank != stopped]
    codes = [run.end_of(rank, SOON) for rank in others]
    for rank in others:
        (line,) = told(run.errors_of(rank))
        assert re.match(rf"Error: rank {stopped}(, or its launcher,)? has not answered for \d+ s", line)
        if (kind, stopped) != (Direct, 0):  # whose store stopped with it
            assert re.search(r"\(last at step \d+ \(samples S.*\)\)", line)
        assert "Traceback" not in run.errors_of(rank)
    if kind is Direct:
        assert codes == [1, 1]
    else:
        assert run.launcher.wait(LAUNCHER_WAITS + SOON) == 1


@pytest.mark.parametrize("killed", [0, 2])
def test_a_rank_that_is_killed_ends_all_others(launch, study_folder, tmp_path, killed):
    run = launch(Direct, "-m", "aam.cli", *words_of(study_folder, tmp_path / "run"))
    wait_for_lines(run, tmp_path / "run", 3)
    os.kill(run.pid_of(killed), signal.SIGKILL)
    others = [rank for rank in range(RANKS) if rank != killed]
    assert [run.end_of(rank, SOON) for rank in others] == [1, 1]
    for rank in others:
        (line,) = told(run.errors_of(rank))
        assert f"rank {killed}" in line


def test_wrong_input_is_told_once(launch, study_folder, tmp_path):
    words = words_of(study_folder, tmp_path / "run", table=tmp_path / "missing.biom")
    run = launch(Direct, "-m", "aam.cli", *words)
    assert [run.end_of(rank, PATIENCE) for rank in range(RANKS)] == [2, 2, 2]
    (line,) = [line for rank in range(RANKS) for line in told(run.errors_of(rank))]
    assert "missing.biom" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 1)])
def test_a_signal_saves_the_step_and_leaves_with_75(launch, study_folder, tmp_path, number, workers):
    folder = tmp_path / "run"
    words = words_of(study_folder, folder, num_workers=workers, checkpoint_every=LONG)
    run = launch(Direct, "-m", "aam.cli", *words)
    wait_for_lines(run, folder, 7)  # in the second epoch
    run.signal(number)
    assert [run.end_of(rank, SOON) for rank in range(RANKS)] == [75] * RANKS, run.errors_of(0)
    step = re.search(r"stopped by a signal after step (\d+)", run.errors_of(0))
    assert (folder / "checkpoints" / "last").resolve().name == f"step-{int(step[1]):08d}"
    assert run.errors_of(1) == run.errors_of(2) == ""
    again = launch(Direct, "-m", "aam.cli", *words, "--resume")
    wait_for_lines(again, folder, lines_of(folder) + 1)


def test_a_signal_to_one_rank_stops_all(launch, study_folder, tmp_path):
    run = launch(Direct, "-m", "aam.cli", *words_of(study_folder, tmp_path / "run"))
    wait_for_lines(run, tmp_path / "run", 3)
    os.kill(run.pid_of(1), signal.SIGTERM)
    assert [run.end_of(rank, SOON) for rank in range(RANKS)] == [75] * RANKS


def test_torchrun_passes_sigterm_on_and_the_step_is_saved(launch, study_folder, tmp_path):
    """Also to the data workers, which die of it unless they are shielded."""
    folder = tmp_path / "run"
    words = words_of(study_folder, folder, num_workers=1, checkpoint_every=LONG)
    run = launch(Torchrun, "-m", "aam.cli", *words)
    wait_for_lines(run, folder, 7)
    run.launcher.send_signal(signal.SIGTERM)
    for rank in range(RANKS):
        run.end_of(rank, SOON)
    assert "stopped by a signal" in run.errors_of(0)
    run.launcher.wait(SOON)


def kill_at_random(run: Torchrun, folder: Path, draw) -> int:
    """Kill one rank some steps from now, or while the processes start; returns its number."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 6))
    else:
        wait_for_lines(run, folder, lines_of(folder) + int(draw.integers(1, 8)))
        time.sleep(draw.uniform(0, 0.1))
    attempts, pids = run.attempts(), run.pids()
    rank = int(draw.choice(list(pids)))
    os.kill(pids[rank], signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while run.attempts() == attempts or len(run.pids()) < RANKS:
        assert run.is_alive(), (run.logs / "torchrun.err").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    return rank


def test_killed_ranks_are_restarted_and_come_to_the_same_end(launch, study_folder, tmp_path):
    whole, folder, epochs = tmp_path / "whole", tmp_path / "killed", 4 + 4 * KILLS
    undisturbed = launch(Torchrun, "-m", "aam.cli", *words_of(study_folder, whole, epochs=epochs))
    assert undisturbed.launcher.wait(PATIENCE) == 0, undisturbed.errors_of(0)

    run = launch(Torchrun, "-m", "aam.cli", *words_of(study_folder, folder, epochs=epochs), restarts=KILLS)
    draw = generator(11, "kills of ranks")
    killed = [kill_at_random(run, folder, draw) for _ in range(KILLS)]
    assert run.launcher.wait(PATIENCE) == 0, run.errors_of(0, KILLS)
    assert run.attempts() == KILLS + 1  # each kill cost one start, and no start failed by itself
    print(f"\nkilled ranks {killed}")  # noqa: T201
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/state.json"):
        for link in ("last", "best"):
            ends = [(each / "checkpoints" / link / name).read_bytes() for each in (whole, folder)]
            assert ends[0] == ends[1], f"{link}/{name}"
    for name in ("metrics.jsonl", "split.tsv", "val_distances.json"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes(), name

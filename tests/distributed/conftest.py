"""Launching the scripts of this folder on several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 900
"""Seconds until a launch counts as hanging, on a busy machine."""


def run(command: list[object]) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def script() -> Callable[..., str]:
    """Run a script of this folder in one process, without a launcher; returns what it printed."""
    return lambda name, *words: run([HERE / name, *words])


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., str]:
    """Run a script of this folder on some ranks; returns what they printed, and shows it where one failed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return lambda ranks, name, *words: run([*launcher, ranks, HERE / name, *words])

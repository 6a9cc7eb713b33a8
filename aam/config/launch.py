"""How this process was started: by which command, and by which launcher (`torchrun`, `srun` in `slurm/`)."""

import os
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aam.errors import InputError


@dataclass(frozen=True)
class Invocation:
    """What the user started, and when."""

    command: str | None = None
    """The command line, with ``~`` for the home folder, which has the name of the user; None: called from Python."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))


_INVOCATION: Final[ContextVar[Invocation | None]] = ContextVar("invocation", default=None)


@contextmanager
def invoked(arguments: Sequence[str]) -> Iterator[None]:
    """Note for the time of a command which one it is.

    Args:
        arguments: the words after ``aam``.
    """
    home = str(Path.home())
    words = ["aam", *(word if home == "/" else word.replace(home, "~") for word in arguments)]
    token = _INVOCATION.set(Invocation(shlex.join(words)))
    try:
        yield
    finally:
        _INVOCATION.reset(token)


def invocation() -> Invocation:
    """What the user started; in Python, from where this is asked on."""
    return _INVOCATION.get() or Invocation()


def launched_rank() -> int:
    """Number of this process among all of the run (``RANK``); 0 without a launcher."""
    return _number("RANK", 0)


def launched_local_rank() -> int:
    """Number of this process among those on its machine (``LOCAL_RANK``); 0 without a launcher."""
    return _number("LOCAL_RANK", 0)


def launched_world_size() -> int:
    """Number of processes of the run (``WORLD_SIZE``); 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def launched_local_world_size() -> int:
    """Number of processes of the run on this machine (``LOCAL_WORLD_SIZE``); 1 without a launcher."""
    return _number("LOCAL_WORLD_SIZE", 1)


def restart_count() -> int:
    """How often `torchrun --max-restarts` has started the processes anew (``TORCHELASTIC_RESTART_COUNT``)."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def launch_name() -> str:
    """What one launch keeps over its restarts and shares with no other launch.

    It joins the launcher's own name, which users may choose and repeat, with the machine and the launcher's process.
    """
    return "/".join((os.environ.get("TORCHELASTIC_RUN_ID", ""), socket.gethostname(), str(os.getppid())))


def _number(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise InputError(f"the environment variable {name} is {value!r}, not a number: unset it, or use a launcher")
    return int(value)

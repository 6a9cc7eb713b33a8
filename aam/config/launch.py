"""What a launcher (`torchrun`, or `srun` by the scripts in `slurm/`) set in the environment of this process."""

import os
import socket

from aam.errors import InputError


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

"""How much memory a process takes and how much is free, as the system tells."""

import re
from pathlib import Path
from typing import Final, Protocol

import torch

from aam.errors import InputError

_PROC: Final = Path("/proc/self")


class Meter(Protocol):
    """Measures how much memory this process has taken at most."""

    def start(self) -> None:
        """Begin anew."""
        ...

    def peak(self) -> int:
        """The most bytes since the beginning, or since `forget`, above what was taken in the beginning."""
        ...

    def forget(self) -> None:
        """Let the peak be what is taken now."""
        ...


class ResidentMeter:
    """The resident memory of a process on Linux (proc(5): VmHWM, which ``clear_refs`` sets back)."""

    def start(self) -> None:
        """See `Meter`."""
        self.forget()
        self._before, self._files = _status("VmRSS"), _status("RssFile")

    def peak(self) -> int:
        """See `Meter`; pages of files that were read meanwhile do not count, which the system takes back at need."""
        return _status("VmHWM") - self._before - max(0, _status("RssFile") - self._files)

    def forget(self) -> None:
        """See `Meter`."""
        (_PROC / "clear_refs").write_text("5")


class DeviceMeter:
    """What PyTorch's allocator has taken of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """See `Meter`."""
        self.forget()
        self._before = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """See `Meter`."""
        return torch.cuda.max_memory_allocated(self.device) - self._before

    def forget(self) -> None:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self.device)


class NullWatch:
    """Watches nothing: where there is no budget, and on a GPU, which does not give more than it has."""

    def is_exceeded(self) -> bool:
        """Whether more was taken than the process may take, since this was asked last."""
        return False

    def forget(self) -> None:
        """Leave out what was taken since, which was not for a step."""


class Watch(NullWatch):
    """Tells of every step whether the process has taken more memory than it may, above what it has taken by now."""

    def __init__(self, meter: Meter, ceiling: float) -> None:
        self.meter, self.ceiling = meter, ceiling
        meter.start()

    def is_exceeded(self) -> bool:
        """See `NullWatch`."""
        peak = self.meter.peak()
        self.meter.forget()
        return peak > self.ceiling

    def forget(self) -> None:
        """See `NullWatch`."""
        self.meter.forget()


def meter_of(device: torch.device) -> Meter:
    """The meter of a device.

    Raises:
        InputError: the system does not tell the resident memory.
    """
    if device.type == "cuda":
        return DeviceMeter(device)
    if not (_PROC / "clear_refs").exists():
        raise InputError("--max-memory-gb and --batch-size auto on a CPU read /proc, which only Linux has: drop them")
    return ResidentMeter()


def _status(name: str, file: Path = _PROC / "status") -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def check_fits(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what would not fit into the memory that is free, before any of it is taken; where that can be told.

    Args:
        needed: bytes, an estimate from below.
        device: where.
        what: what needs them, for the message.
        remedy: what to do.

    Raises:
        InputError: it does not fit.
    """
    if device.type != "cuda" and not Path("/proc/meminfo").exists():
        return
    free = free_memory(device)
    if needed > free:
        raise InputError(
            f"{what} needs about {needed / 1e9:,.3g} GB of memory, and {free / 1e9:,.3g} are free: {remedy}"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free: of a GPU, or of the machine and of the control group that this process is in.

    Raises:
        InputError: the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").exists():
        raise InputError("--batch-size auto on a CPU reads /proc, which only Linux has: give a number of samples")
    found = re.search(r"^0::/(.*)$", (_PROC / "cgroup").read_text(), re.MULTILINE)
    root = Path("/sys/fs/cgroup")
    group = root / found[1] if found else root
    left = [_status("MemAvailable", Path("/proc/meminfo"))]
    # what the limits of control groups (version 2) leave: of this process's group, and of all above it
    for folder in (group, *group.parents):
        if folder.is_relative_to(root) and (folder / "memory.max").exists():
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                left.append(int(limit) - int((folder / "memory.current").read_text()))
    return min(left)

"""What a run depends on besides options and files: installed software, the machine, and what is checked out by git."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Self

import torch
from pydantic import BaseModel, ConfigDict

LIBRARIES: Final = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-bio",
    "biom-format",
    "pandas",
    "h5py",
    "safetensors",
    "unifrac",
    "lightgbm",
    "xgboost",
    "tabicl",
)
"""Packages that compute results, or read and write them; those that are installed are noted."""

PATIENCE: Final = 10.0
"""Seconds after which git, on a slow file system, is not waited for."""


class Stored(BaseModel):
    """A part of a document that this aam writes, and a later one may add to."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Software(Stored):
    """Versions."""

    aam: str | None
    """None where aam is not installed but run from its source."""
    python: str
    libraries: dict[str, str]

    @classmethod
    def installed(cls) -> Self:
        """Ask what is installed."""
        found = {name: _version(name) for name in LIBRARIES}
        known = {name: text for name, text in found.items() if text is not None}
        return cls(aam=_version("aam"), python=platform.python_version(), libraries=known)


class Machine(Stored):
    """Where a run computes; neither the machine's name nor the user's."""

    cpu: str
    """Model, such as the system names it."""
    cores: int
    """That this process may use."""
    gpus: tuple[str, ...]
    """Models of those that this process sees."""
    system: str
    """Operating system, its version and the kind of processor."""

    @classmethod
    def of_this_process(cls, information: Path = Path("/proc/cpuinfo")) -> Self:
        """Ask the system.

        Args:
            information: where Linux describes its processors.
        """
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(
            cpu=_processor(information),
            cores=len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1,
            gpus=tuple(torch.cuda.get_device_name(number) for number in range(count)),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
        )


class GitState(Stored):
    """What is checked out in a folder."""

    commit: str
    dirty: bool | None
    """Whether tracked files differ from the commit; None where git took too long to say."""

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Ask git; None where there is no git, no repository, or no commit in it."""
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
        if commit is None:
            return None
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return cls(commit=commit, dirty=None if changes is None else changes != "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor(information: Path) -> str:
    found = (
        re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE) if information.exists() else None
    )
    return found[1].strip() if found else platform.processor() or platform.machine()


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, or None where it does not."""
    program = shutil.which("git")
    if program is None:
        return None
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # looking changes nothing, not even git's index
    try:
        done = subprocess.run(
            [program, "-C", folder, *words], capture_output=True, timeout=PATIENCE, env=quiet, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

"""The processes that train together, with a single-process twin so that no caller asks which it has."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from aam.errors import InputError


@dataclass(frozen=True)
class World:
    """One process that trains alone.

    The collective operations are the identity here; distributed training (TICKETS.md, phase 12) adds the other twin.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def setup_distributed(device: Literal["auto", "cpu", "cuda"] = "auto") -> World:
    """Choose the device of a process that trains alone.

    Raises:
        InputError: a GPU was asked for and there is none, or a launcher started several processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InputError(
            f"{processes} processes were started (WORLD_SIZE), and aam does not train on several yet: each would do "
            "the same work again; start one"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no GPU; use --device cpu, or install a PyTorch build for your GPU"
        )
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return World(torch.device("cuda" if use_gpu else "cpu"))


def is_main_process(world: World) -> bool:
    """Whether this process writes files and logs."""
    return world.is_main

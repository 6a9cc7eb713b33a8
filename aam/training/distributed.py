"""The processes that train together, with a single-process twin so that no caller asks which it has."""

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
    """Choose the device and join the other processes, if any.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no GPU; use --device cpu, or install a PyTorch build for your GPU"
        )
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return World(torch.device("cuda" if use_gpu else "cpu"))


def is_main_process(world: World) -> bool:
    """Whether this process writes files and logs."""
    return world.is_main

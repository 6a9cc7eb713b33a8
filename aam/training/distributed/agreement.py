"""What the ranks tell each other after every step, so that all of them stop, save and fail at the same one."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aam.data.sampling.dataset import StepPlan
from aam.training.distributed import World

SOUND, FINITE, STOP, WRITTEN, EXCEEDED = range(5)


@dataclass(frozen=True)
class Verdict:
    """What all ranks know of a step."""

    plan: StepPlan
    broken: int | None
    """The first rank that computed NaN or infinity by itself, else the first whose loss was that."""
    stop: bool
    """Whether a signal has asked some rank to stop."""
    written: bool
    """Whether the asynchronous checkpoint is written on every rank."""
    exceeded: bool = False
    """Whether some rank took more memory than it may."""


class Agreement:
    """Collects one row of flags from every rank after each step.

    On a GPU the verdict comes one step late, so that nobody waits for the step that is being computed; the same on
    every rank, since all make the same calls.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: deque[Callable[[], Verdict]] = deque()

    def report(
        self, plan: StepPlan, sound: Tensor, finite: Tensor, stop: bool, written: bool, exceeded: bool = False
    ) -> None:
        """Tell the others of a step.

        Args:
            plan: the step.
            sound: bool scalar on the device, whether what this rank computed without the others is a number.
            finite: bool scalar on the device, whether its loss is.
            stop: whether a signal came to this process.
            written: whether this process has written its part of an asynchronous checkpoint.
            exceeded: whether this process took more memory than it may.
        """
        # filled on the device: a copy from here would wait for it
        flags = torch.zeros(1, 5, dtype=torch.uint8, device=self.world.device)
        flags[0, SOUND], flags[0, FINITE] = sound, finite
        flags[0, STOP].fill_(stop)
        flags[0, WRITTEN].fill_(written)
        flags[0, EXCEEDED].fill_(exceeded)
        everyone = self.world.gather(flags, [1] * self.world.size)
        if everyone.device.type == "cpu":
            self._pending.append(partial(_read, plan, everyone))
            return
        here = torch.empty(everyone.shape, dtype=everyone.dtype, pin_memory=True)
        here.copy_(everyone, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._pending.append(partial(_read_when, arrived, plan, here))

    def verdicts(self, wait: bool = False) -> list[Verdict]:
        """What is new: of the last step, or, on a GPU, of the one before unless this is to wait for the last."""
        late = 0 if wait or self.world.device.type == "cpu" else 1
        return [self._pending.popleft()() for _ in range(len(self._pending) - late)]


def _read(plan: StepPlan, flags: Tensor) -> Verdict:
    rows = flags.bool().tolist()
    broken = [rank for flag in (SOUND, FINITE) for rank, row in enumerate(rows) if not row[flag]]
    return Verdict(
        plan,
        broken[0] if broken else None,
        stop=any(row[STOP] for row in rows),
        written=all(row[WRITTEN] for row in rows),
        exceeded=any(row[EXCEEDED] for row in rows),
    )


def _read_when(arrived: torch.cuda.Event, plan: StepPlan, flags: Tensor) -> Verdict:
    arrived.synchronize()
    return _read(plan, flags)

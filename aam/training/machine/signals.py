"""Signals that ask a run to stop: the trainer saves at its next step, and a scheduler starts the run again later."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)
"""What Slurm and `torchrun` send before they kill. SIGINT stays the user's way to end a run at once."""


@dataclass
class StopRequest:
    """Whether a signal has come since `stop_signals` was entered."""

    name: str | None = None
    """The first signal that came, such as ``SIGTERM``."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 instead of dying of them; what they did before comes back at the end.

    Only the main thread of a process may set handlers, so that in any other one nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def take(number: int, _: FrameType | None) -> None:
        request.name = request.name or signal.Signals(number).name

    before = {number: signal.signal(number, take) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: set by other than Python, and not to be had back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def shield_worker(_: int = 0) -> None:
    """Keep signals that a launcher sends to the process group of a rank from its data workers; for `worker_init_fn`.

    torchrun signals whole groups. A data worker dies of SIGTERM at once, which would end the run before it can save.
    Workers end with their rank anyway.
    """
    os.setpgid(0, 0)

"""Signals that ask a run to stop: the trainer saves at its next step, and a scheduler starts the run again later."""

import errno
import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What Slurm and `torchrun` send before they kill, and a terminal that goes. SIGINT stays the user's way to end a run
at once."""


@dataclass
class StopRequest:
    """Whether a signal has come since `stop_signals` was entered."""

    name: str | None = None
    """The first signal that came, such as ``SIGTERM``."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Note the signals of `STOPPING` instead of dying of them; what they did before comes back at the end.

    A hangup that is ignored, as `nohup` has it, stays ignored. Only the main thread of a process may set handlers, so
    that in any other one nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def take(number: int, _: FrameType | None) -> None:
        request.name = request.name or signal.Signals(number).name
        if number == signal.SIGHUP:
            _leave_terminal()

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    noted = [number for number in STOPPING if number != signal.SIGHUP or not ignored]
    before = {number: signal.signal(number, take) for number in noted}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: set by other than Python, and not to be had back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _leave_terminal() -> None:
    """Say nothing more to a terminal that is gone: every word would be an error, before the run is saved."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def shield_worker(_: int = 0) -> None:
    """Keep signals that a launcher sends to the process group of a rank from its data workers; for `worker_init_fn`.

    torchrun signals whole groups. A data worker dies of SIGTERM at once, which would end the run before it can save.
    Workers end with their rank anyway.
    """
    os.setpgid(0, 0)

"""Ctrl-C while libraries are imported: at once, and without a traceback.

In the middle of an import Python's `KeyboardInterrupt` can become any other exception, since libraries written in C
turn a failed import into errors of their own.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code: 128 and the number of SIGINT, as of shells."""


@contextmanager
def at_once() -> Iterator[None]:
    """End the process at an interrupt within; for imports alone, as nothing is cleaned up.

    Where the process, or whoever started it, does otherwise with interrupts, that stays.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_: int, __: FrameType | None) -> NoReturn:
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)

"""The C library's allocator, which by itself gives large blocks back to the system after every use."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
KEPT_BLOCK: Final = 2**30
"""Bytes up to which a freed block is kept for the next tensor."""
RETURNED_BLOCK: Final = 2**20
"""Bytes from which a freed block goes back to the system, where little memory may be taken."""


_Settings = dict[int, int]
_GLIBC: Final[_Settings] = {_M_MMAP_THRESHOLD: 2**17, _M_TRIM_THRESHOLD: 2**17, _M_TOP_PAD: 0}
"""As documented; glibc raises the first two by itself until one of them is set."""
_now: list[_Settings] = [_GLIBC]


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory within this context, as of `keep_freed_memory`; afterwards what was set before is set again."""
    before = _now[0]
    keep_freed_memory()
    try:
        yield
    finally:
        _set(before)


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors, instead of taking it from the system page by page each time.

    By default glibc maps every block of more than some megabytes anew and unmaps it when it is freed, so that a step of
    training on a CPU takes hundreds of thousands of page faults (mallopt(3)). Does something on Linux with glibc; what
    was freed before is given back first.

    Returns:
        Whether the allocator took the settings.
    """
    return _set({_M_MMAP_THRESHOLD: KEPT_BLOCK, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26})


def return_freed_memory() -> bool:
    """Let the memory of freed tensors go back at once, so that holes between those in use do not add up.

    Slower than `keep_freed_memory`, whose settings this replaces; for runs that must stay within a budget.

    Returns:
        Whether the allocator took the settings.
    """
    return _set({_M_MMAP_THRESHOLD: RETURNED_BLOCK, _M_TRIM_THRESHOLD: RETURNED_BLOCK, _M_TOP_PAD: 0})


def _set(settings: _Settings) -> bool:
    _now[0] = settings
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    taken = [library.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)

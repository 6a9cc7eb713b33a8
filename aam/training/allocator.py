"""The C library's allocator, which by itself gives large blocks back to the system after every use."""

import ctypes
import platform
from functools import cache
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
KEPT_BLOCK: Final = 2**30
"""Bytes up to which a freed block is kept for the next tensor."""


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors, instead of taking it from the system page by page each time.

    By default glibc maps every block of more than some megabytes anew and unmaps it when it is freed, so that a step of
    training on a CPU takes hundreds of thousands of page faults (mallopt(3)). Does something once, on Linux with glibc;
    what was freed before is given back first.

    Returns:
        Whether the allocator took the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    settings = {_M_MMAP_THRESHOLD: KEPT_BLOCK, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
    taken = [library.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)

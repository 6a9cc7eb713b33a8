"""A guard against HDF5 files in which the HDF5 library would search for ever, in C, where no signal reaches it.

Texts lie in *global heap collections*: a header, then objects one after the other, each with its size. Where a size is
damaged, the library can come upon an object of no size, and stays there. Collections are therefore walked here first,
as the library walks them (HDF5 file format specification 3.0, III.E), which costs next to nothing. What looks like one
and does not end as it should, which bytes of counts may do by chance, is left to another process (`hdf5_walk.py`) that
reads the same parts of the file and has limited time for it.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from aam.errors import InputError

SIGNATURE: Final = b"GCOL\x01"
_SUPERBLOCK: Final = b"\x89HDF\r\n\x1a\n"
_HEADER: Final = 16
"""Bytes of the header of a collection, and of an object in it, where a size has 8 bytes, as in all files of today."""
_BLOCK: Final = 1 << 24
LEAST_SECONDS: Final = 10.0
SECONDS_PER_MEGABYTE: Final = 1.0


def check_ends(content: BinaryIO, parts: Sequence[str], source: str) -> None:
    """Refuse a file that the HDF5 library would not come to the end of, or crashes at.

    Args:
        content: the file, open; where it stands afterwards is undefined.
        parts: the datasets that are to be read.
        source: what to call the file in messages.

    Raises:
        InputError: so it is.
    """
    if _has_eight_byte_sizes(content) and all(map(_ends, _collections(content))):
        return
    size = content.seek(0, os.SEEK_END)
    limit = LEAST_SECONDS + SECONDS_PER_MEGABYTE * size / 1e6
    content.seek(0)
    fault = _fault_of_reading(content.read(), parts, limit)
    if fault is not None:
        raise InputError(f"{source}: the HDF5 file is damaged ({fault}); copy it again")


def _has_eight_byte_sizes(content: BinaryIO) -> bool:
    content.seek(0)
    start = content.read(_HEADER)
    if len(start) < _HEADER or not start.startswith(_SUPERBLOCK):
        return False
    return start[14 if start[8] < 2 else 10] == 8


def _collections(content: BinaryIO) -> Iterator[bytes]:
    """What has the signature of a global heap collection; empty where it reaches beyond the file."""
    for place in _places(content):
        content.seek(place + 8)
        (size,) = struct.unpack("<Q", content.read(8).ljust(8, b"\0"))
        content.seek(place)
        found = content.read(size) if size < 2**40 else b""
        yield found if len(found) == size else b""


def _places(content: BinaryIO) -> Iterator[int]:
    """Where the signature stands."""
    start = 0
    while True:
        content.seek(start)
        block = content.read(_BLOCK)
        at = block.find(SIGNATURE)
        while at >= 0:
            yield start + at
            at = block.find(SIGNATURE, at + 1)
        if len(block) < _BLOCK:
            return
        start += _BLOCK - len(SIGNATURE) + 1


def _ends(collection: bytes) -> bool:
    """Whether its objects follow each other to its end; an object of index 0 is the free space, header and all."""
    place = _HEADER
    while place + _HEADER <= len(collection):
        index, size = struct.unpack_from("<H6xQ", collection, place)
        needed = _HEADER + -(-size // 8) * 8 if index else size
        if not needed:
            return False
        place += needed
    return _HEADER <= place <= len(collection)


def _fault_of_reading(content: bytes, parts: Sequence[str], limit: float) -> str | None:
    """What is wrong if another process, which is given the content, does not come to its end; None if it does."""
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("hdf5_walk.py")), *parts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(content)
            process.stdin.close()
            process.stdout.readline()  # from here on it reads: a slow start counts for nothing
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"HDF5 does not come to an end with it in {limit:.0f} s"
        finally:
            process.kill()
    if code > 0:
        raise RuntimeError(f"the process that tries to read an HDF5 file failed with code {code}")
    return f"HDF5 crashes at it, by signal {-code}" if code else None

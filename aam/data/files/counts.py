"""Counts of reads as sparse rows: in memory, or, where there are many, in scratch files that are mapped into it.

A scratch file lies in the folder for temporary files (the variable TMPDIR names another) and has no name: it goes when
nothing uses it any more, however the process ends. Rows that are taken from mapped counts are copied; the rest stays on
disk, and the system keeps of it in memory what there is room for.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from aam.data.arrays import Ints
from aam.errors import InputError

Counts = sparse.csr_array[Any, tuple[int, int]]
Index = Ints

CELLS_IN_MEMORY: Final = 20_000_000
"""Counts above zero from which a table stays on disk (12 bytes each in memory)."""
BLOCK: Final = 2_000_000
"""Counts above zero that are worked on at once, of whole samples."""


def canonical(counts: Counts) -> Counts:
    """The same counts as int64 with sorted indices, equal places summed, and no explicit zeros."""
    summed: Counts = counts.astype(np.int64)
    summed.sum_duplicates()
    summed.eliminate_zeros()
    return summed


def blocks_of(sizes: Index) -> Iterator[slice]:
    """Cut rows with so many cells each into blocks of up to `BLOCK` cells, but one row at least."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + BLOCK, side="right")))
        yield slice(start, stop)
        start = stop


def row_sizes(counts: Counts) -> Index:
    """Cells of each row, int64 [rows]."""
    return np.diff(counts.indptr).astype(np.int64)


def scratch(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array in a scratch file.

    Raises:
        InputError: the disk has no room for it.
    """
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    with tempfile.TemporaryFile() as file:
        try:
            # a disk that runs full while a mapped file grows would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise InputError(
                f"no room for {size / 1e9:.1f} GB in {tempfile.gettempdir()}, where a large table is unpacked "
                f"({error.strerror}): set the variable TMPDIR to a folder on another disk"
            ) from None
        return np.memmap(file, dtype, mode="r+", shape=shape)


def release(array: NDArray[Any]) -> None:
    """Let the pages of a scratch file leave the memory of this process; they stay in the file, and come back when read.

    Arrays in memory stay as they are, and files mapped so that changes are not written.
    """
    base: object = array
    shared = False
    while isinstance(base, np.ndarray):
        shared = shared or (isinstance(base, np.memmap) and base.mode == "r+")
        base = base.base
    if shared and isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


class CountsBuilder:
    """Puts counts together from blocks of rows, in memory or on disk."""

    def __init__(self, columns: int, most: int) -> None:
        """Begin without rows; no more cells will come than are said."""
        self.columns, self.most = columns, most
        self.on_disk = most > CELLS_IN_MEMORY
        self.sizes: list[Index] = []
        self.filled = 0
        # 32 bits for the places, which scipy chooses too where they suffice
        places = np.int32 if max(most, columns) < 2**31 else np.int64
        self.indices = self._empty(places)
        self.data = self._empty(np.int32 if self.on_disk else np.int64)

    def _empty(self, dtype: DTypeLike) -> NDArray[Any]:
        return scratch(self.most, dtype) if self.on_disk else np.empty(self.most, dtype)

    def append(self, block: Counts) -> None:
        """Add rows, in the form of `canonical`."""
        if block.data.max(initial=0) > np.iinfo(self.data.dtype).max:
            wider = self._empty(np.int64)
            for start in range(0, self.filled, BLOCK):
                part = slice(start, min(start + BLOCK, self.filled))
                wider[part] = self.data[part]
                release(wider)
            self.data = wider
        place = slice(self.filled, self.filled + block.nnz)
        self.indices[place], self.data[place] = block.indices, block.data
        self.filled = place.stop
        self.sizes.append(row_sizes(block))
        release(self.indices)
        release(self.data)

    def finish(self) -> Counts:
        """The counts of all rows that came."""
        indptr = np.concatenate([[0], *self.sizes]).cumsum().astype(self.indices.dtype)
        parts = (self.data[: self.filled], self.indices[: self.filled], indptr)
        built: Counts = sparse.csr_array(parts, shape=(len(indptr) - 1, self.columns), copy=False)
        built.has_canonical_format = True
        return built


class Source(NamedTuple):
    """Counts, and where they go."""

    counts: Counts
    row: Index
    """For each row of the result, the row that is added to it; negative for none."""
    column: Index
    """For each column, its column in the result; negative where it is dropped."""


def gather(sources: Sequence[Source], columns: int) -> Counts:
    """Choose, reorder and add up rows and columns, a block of rows at a time; in the form of `canonical`.

    In every source `row` has as many entries as the result has rows.
    """
    sizes = [np.where(source.row >= 0, row_sizes(source.counts)[source.row], 0) for source in sources]
    of_rows: Index = np.stack(sizes).sum(axis=0)
    builder = CountsBuilder(columns, int(of_rows.sum()))
    for block in blocks_of(of_rows):
        parts = [_cells(source, block) for source in sources]
        rows, places, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        shape = (block.stop - block.start, columns)
        builder.append(canonical(sparse.coo_array((values, (rows, places)), shape=shape).tocsr()))
        for source in sources:
            release(source.counts.indices)
            release(source.counts.data)
    return builder.finish()


def _cells(source: Source, block: slice) -> tuple[Index, Index, NDArray[Any]]:
    """Rows within a block of the result, columns and values of what a source gives to it."""
    here = np.flatnonzero(source.row[block] >= 0)
    picked = source.counts[source.row[block][here]]
    rows, places = np.repeat(here, row_sizes(picked)), source.column[picked.indices]
    kept = places >= 0
    return rows[kept], places[kept], picked.data[kept]


def column_sums(counts: Counts) -> Index:
    """Reads of each ASV over all samples, int64 [ASVs]."""
    sums = np.zeros(counts.shape[1], dtype=np.int64)
    for block in blocks_of(row_sizes(counts)):
        span = slice(int(counts.indptr[block.start]), int(counts.indptr[block.stop]))
        # exact, as sums of whole numbers below 2^53
        sums += np.bincount(counts.indices[span], counts.data[span], len(sums)).astype(np.int64)
    return sums


def held_by(counts: Counts, rows: Index) -> Index:
    """How many of some samples hold each ASV, int64 [ASVs]."""
    times = np.zeros(counts.shape[1], dtype=np.int64)
    for block in blocks_of(row_sizes(counts)[rows]):
        times += np.bincount(counts[rows[block]].indices, minlength=len(times))
    return times


def row_sums(counts: Counts) -> Index:
    """Reads of each sample, int64 [samples]."""
    sums = [np.asarray(counts[block].sum(axis=1), np.int64) for block in blocks_of(row_sizes(counts))]
    return np.concatenate([np.zeros(0, np.int64), *sums])

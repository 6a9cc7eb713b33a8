"""Embeddings of ASVs on disk, for runs to come: the files of one encoder in one folder.

Each file holds some ASVs, a record for each: key, checksum and embedding. A file is written whole under a name of its
own and never changed, so that any number of processes add at once; the worst that can happen is an ASV in two files.

Shapes: U ASVs, L nucleotides, D width.
"""

import logging
import uuid
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aam.data.arrays import Bools, Ints
from aam.data.files.sequences import PAD
from aam.data.files.whole_files import check_new_folder, whole_file
from aam.errors import InputError

logger = logging.getLogger(__name__)

UNKNOWN: Final = -1
"""In the place of a file, of an ASV that no file has."""
ROWS: Final = 65_536
"""Records that are checked together."""

Keys = NDArray[np.uint64]
"""128-bit hashes, uint64 [U, 2]."""


class Places(NamedTuple):
    """Where embeddings are."""

    files: tuple[str, ...]
    """Names in the folder."""
    file: Ints
    """Which of them has each ASV, int64 [U]; `UNKNOWN` for none."""
    record: Ints
    """Its number there, int64 [U]."""


def token_keys(tokens: NDArray[np.uint8]) -> Keys:
    """Hash ASVs as a model reads them: token rows, uint8 [U, L]; padding does not count.

    128 bits of BLAKE2b: among a billion ASVs, the chance that two share a key is about 1e-21.
    """
    lengths = (tokens != PAD).sum(axis=1)
    rows = zip(np.ascontiguousarray(tokens), lengths, strict=True)
    digests = b"".join(blake2b(row[:length].tobytes(), digest_size=16).digest() for row, length in rows)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).astype(np.uint64)


def check_cache_folder(folder: Path | None) -> None:
    """Refuse a folder that embeddings cannot be kept in, before any work is done; nothing is written.

    Raises:
        InputError: it is a file, or cannot be written.
    """
    if folder is not None:
        check_new_folder(folder, "--embedding-cache")


class EmbeddingFiles:
    """The embeddings of one encoder, memory-mapped.

    Args:
        folder: of this encoder and precision alone; made when something is added.
        width: D.
        dtype: of the embeddings.
    """

    def __init__(self, folder: Path, width: int, dtype: np.dtype[np.floating]) -> None:
        self.folder, self.width = folder, width
        self.record = np.dtype([("key", "<u8", (2,)), ("check", "<u4"), ("row", dtype.newbyteorder("<"), (width,))])
        self._open: dict[str, np.memmap] = {}

    def find(self, keys: Keys) -> Places:
        """Look ASVs up in all files; what is damaged is not found, and warned of."""
        files = tuple(sorted(path.name for path in self.folder.glob("*.npy")))
        file, record = np.full(len(keys), UNKNOWN), np.full(len(keys), UNKNOWN)
        for number, name in enumerate(files):
            records = self._mapped(name)
            wanted = np.flatnonzero(file == UNKNOWN)
            if records is None or not len(wanted):
                continue
            at = _look_up(np.array(records["key"]), keys[wanted])
            wanted, at = wanted[at >= 0], at[at >= 0]
            whole = self._are_whole(name, records, at)
            file[wanted[whole]], record[wanted[whole]] = number, at[whole]
        return Places(files, file, record)

    def read(self, places: Places) -> NDArray[np.floating]:
        """Read embeddings, [U, D]; all are known.

        Raises:
            InputError: a file has gone since it was found.
        """
        rows = np.empty((len(places.file), self.width), self.record["row"].base)
        for number in np.unique(places.file):
            chosen = places.file == number
            records = self._mapped(places.files[number])
            if records is None:
                raise InputError(
                    f"{self.folder / places.files[number]} is gone or damaged since it was found: run again"
                )
            rows[chosen] = records["row"][places.record[chosen]]
        return rows

    def add(self, keys: Keys, rows: NDArray[np.floating]) -> None:
        """Write embeddings [U, D] to a new file.

        Raises:
            InputError: it cannot be written.
        """
        records = np.empty(len(keys), self.record)
        records["key"], records["row"] = keys, rows
        records["check"] = _checksums(records)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{uuid.uuid4().hex}.npy") as draft, draft.open("wb") as file:
                np.save(file, records, allow_pickle=False)
        except OSError as error:
            raise InputError(
                f"--embedding-cache: {self.folder} cannot be written ({error.strerror or error})"
            ) from None

    def _mapped(self, name: str) -> np.memmap | None:
        """Map a file; None, with a warning, where it is not one of these."""
        if name in self._open:
            return self._open[name]
        path = self.folder / name
        try:
            records = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged (%s) and not used; delete it", path, error)
            return None
        if records.dtype != self.record or records.ndim != 1:
            logger.warning("%s holds no embeddings of this encoder and is not used; delete it", path)
            return None
        self._open[name] = records
        return records

    def _are_whole(self, name: str, records: np.memmap, at: Ints) -> Bools:
        """Compare records with their checksums, some at a time: bool, one for each of `at`."""
        whole = np.ones(len(at), dtype=bool)
        for start in range(0, len(at), ROWS):
            some = np.array(records[at[start : start + ROWS]])
            whole[start : start + ROWS] = some["check"] == _checksums(some)
        if not whole.all():
            logger.warning(
                "%s: %d of %d embeddings are damaged and computed anew; delete the file",
                self.folder / name,
                (~whole).sum(),
                len(whole),
            )
        return whole


def _look_up(known: Keys, wanted: Keys) -> Ints:
    """Number of the record that has each key, int64; `UNKNOWN` for none."""
    if not len(known):
        return np.full(len(wanted), UNKNOWN)
    order = np.argsort(known[:, 0], kind="stable")
    place = np.minimum(np.searchsorted(known[order, 0], wanted[:, 0]), len(known) - 1)
    at = order[place]
    # of two keys with one beginning the second is not found, and computed anew
    return np.where((known[at] == wanted).all(axis=1), at, UNKNOWN)


def _checksums(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """CRC-32 of key and embedding of each record, uint32 [U]."""
    keys, rows = np.ascontiguousarray(records["key"]), np.ascontiguousarray(records["row"])
    pairs: Sequence[int] = [zlib.crc32(row, zlib.crc32(key)) for key, row in zip(keys, rows, strict=True)]
    return np.array(pairs, dtype=np.uint32)

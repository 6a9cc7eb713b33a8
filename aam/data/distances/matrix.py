"""Precomputed distances between samples: square matrices with sample ids, checked when read, written whole or never.

Shape letters: n samples.
"""

import csv
import io
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from aam.data.arrays import Ints
from aam.data.files.artifacts import first_bytes, read_text
from aam.data.files.hdf5_guard import check_ends
from aam.data.files.whole_files import check_parent, whole_file
from aam.errors import InputError, first_ids, shown

Values = NDArray[np.floating[Any]]

_TOLERANCE = {"float32": 1e-5, "float64": 1e-8}
"""How far rounding may take a matrix from symmetry, as a fraction of its largest distance."""
_ROWS = 1024
"""Rows that are checked together; bounds the memory."""
_DAMAGE: Final = (ValueError, EOFError, OverflowError, MemoryError, tokenize.TokenError)
"""What NumPy raises for a header that is none, or that declares more than there is memory for."""
_H5_DAMAGE: Final = (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError, OverflowError)
"""What h5py raises for links, types, filters and sizes that are damaged."""


@dataclass(frozen=True, eq=False)
class DistanceMatrix:
    """Distances between samples, found by sample id."""

    ids: tuple[str, ...]
    """Sample of every row and column [n]."""
    values: Values
    """Distances [n, n]: symmetric, zero on the diagonal, finite, not negative."""

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def index(self, sample_ids: Sequence[str]) -> Ints:
        """Rows of samples, int64 [samples].

        Raises:
            InputError: the matrix lacks a sample.
        """
        missing = [name for name in sample_ids if name not in self._row]
        if missing:
            raise InputError(
                f"the distance matrix lacks {len(missing)} of {len(sample_ids)} samples: {first_ids(missing)}; its ids "
                f"are like {first_ids(self.ids, 2)}. Compute it for the whole table, or leave these samples out"
            )
        return np.array([self._row[name] for name in sample_ids], dtype=np.int64)

    def block(self, rows: Ints, columns: Ints) -> Tensor:
        """Distances between two sets of rows, float64 [rows, columns]."""
        return torch.from_numpy(self.values[np.ix_(rows, columns)].astype(np.float64))


def read_distance_matrix(path: Path | str, ids_path: Path | str | None = None, bounded: bool = False) -> DistanceMatrix:
    """Read a square matrix of distances; the ending of its name says how.

    - ``.npy``: an array; the sample ids are in a text file, one a line (`ids_path`);
    - ``.npz``: arrays ``ids`` (text) and ``values``;
    - ``.h5``: datasets ``order`` (sample ids) and ``matrix``, as `ssu` writes them;
    - ``.tsv``, ``.csv``: sample ids in the first row and the first column, as scikit-bio's format ``lsmat``;
    - ``.qza``: a QIIME 2 artifact of type DistanceMatrix.

    Args:
        path: the matrix.
        ids_path: sample ids of a ``.npy`` matrix.
        bounded: refuse distances above 1, which only weighted UniFrac has where it is not normalized.

    Raises:
        InputError: the file cannot be read, or is no matrix of distances.
    """
    path = Path(path)
    source = f"distance matrix {path}"
    if path.suffix in {".npy", *_READERS}:
        first_bytes(path, "distance matrix", 64)  # it is there, and no pointer of Git LFS
    if path.suffix == ".npy":
        if ids_path is None:
            raise InputError(f"{source}: a .npy file holds no sample ids; give them by --matrix-ids, one a line")
        lines = (line.strip() for line in read_text(ids_path, "sample ids").splitlines())
        return _checked([line for line in lines if line], _read_npy(path, source), source, bounded)
    if ids_path is not None:
        raise InputError(f"{source}: --matrix-ids is for .npy files; this format holds its own ids: leave it out")
    if path.suffix not in _READERS:
        raise InputError(f"{source}: the name should end in .npy, {', '.join(_READERS)}")
    ids, values = _READERS[path.suffix](path, source)
    return _checked(ids, values, source, bounded)


def write_distance_matrix(matrix: DistanceMatrix, path: Path | str) -> None:
    """Write a matrix as ``.tsv``, ``.csv``, ``.npz`` or ``.h5``, as `read_distance_matrix` reads it.

    The file appears complete or not at all, and replaces one of the same name.

    Raises:
        InputError: the name ends otherwise, or the file cannot be written.
    """
    path = Path(path)
    check_writable(path)
    try:
        with whole_file(path) as draft:
            _WRITERS[path.suffix](matrix, draft)
    except OSError as error:
        raise InputError(f"distance matrix {path}: cannot be written ({error.strerror or error})") from None


def check_writable(path: Path) -> None:
    """Refuse a name that `write_distance_matrix` could not write, before a long computation.

    Raises:
        InputError: the ending is unknown, or the folder is missing or cannot be written to.
    """
    if path.suffix not in _WRITERS:
        raise InputError(f"distance matrix {path}: the name should end in {', '.join(_WRITERS)}")
    if path.is_dir():
        raise InputError(f"distance matrix {path}: this is a folder; name a file in it")
    check_parent(path, f"distance matrix {path}")


def _checked(ids: Sequence[str], values: Values, source: str, bounded: bool) -> DistanceMatrix:
    """Refuse what is not a matrix of distances."""
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise InputError(f"{source}: shape {values.shape}; a square matrix of distances is wanted")
    if len(ids) != len(values):
        raise InputError(f"{source}: {len(values)} rows, but {len(ids)} sample ids")
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if repeated:
        raise InputError(f"{source}: sample ids occur more than once: {first_ids(repeated)}")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    for first in range(0, len(values), _ROWS):
        _check_rows(ids, values, slice(first, first + _ROWS), source)
    largest = values.max()
    if bounded and largest > 1 + _TOLERANCE[values.dtype.name]:
        row, column = divmod(int(values.argmax()), len(values))
        raise InputError(
            f"{source}: the distance {largest:g} of {ids[row]} and {ids[column]} is above 1, as only those of "
            "--unifrac-metric weighted_unifrac may be; give that metric, or a matrix of the one that was given"
        )
    return DistanceMatrix(tuple(ids), values)


def _check_rows(ids: Sequence[str], values: Values, rows: slice, source: str) -> None:
    block = values[rows]
    tolerance = _TOLERANCE[values.dtype.name] * max(1.0, float(np.abs(block).max()))
    diagonal = np.arange(len(block))
    off_zero = np.zeros(block.shape, dtype=bool)
    off_zero[diagonal, diagonal + rows.start] = np.abs(np.diagonal(block, rows.start)) > tolerance
    with np.errstate(invalid="ignore"):
        faults = {
            "not a finite number": ~np.isfinite(block),
            "negative": block < 0,
            "not zero, but the distance of a sample to itself": off_zero,
            "not the same in both directions": np.abs(block - values[:, rows].T) > tolerance,
        }
    for fault, where in faults.items():
        if where.any():
            row, column = (int(place[0]) for place in np.nonzero(where))
            raise InputError(
                f"{source}: the value {block[row, column]:g} in row {ids[rows.start + row]}, column {ids[column]} is "
                f"{fault}; compute the matrix again"
            )


def _read_npy(path: Path, source: str) -> Values:
    try:
        with path.open("rb") as file:
            values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except _DAMAGE as error:
        raise InputError(f"{source}: not a .npy array of numbers ({shown(error)})") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None
    return _numbers(values, source)


def _read_npz(path: Path, source: str) -> tuple[list[str], Values]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile) or not {"ids", "values"} <= set(arrays):
                raise InputError(f"{source}: a .npz file with arrays ids and values is wanted")
            return [str(name) for name in arrays["ids"]], _numbers(arrays["values"], source)
    except InputError:
        raise
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        # RuntimeError is encryption, and its kind NotImplementedError an unknown compression
        raise InputError(f"{source}: not a .npz file of text and numbers ({shown(error)})") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None


def _read_h5(path: Path, source: str) -> tuple[list[str], Values]:
    try:
        with path.open("rb") as content:
            check_ends(content, ("order", "matrix"), source)
        with h5py.File(path) as file:
            if not {"order", "matrix"} <= set(file):
                raise InputError(f"{source}: datasets order and matrix are wanted, as ssu writes them")
            return _h5_ids(file, source), _numbers(_h5_array(file, "matrix", source), source)
    except InputError:
        raise
    except _H5_DAMAGE as error:
        raise InputError(f"{source}: cannot be read as HDF5 ({shown(error)}); is it missing or cut short?") from None


def _h5_ids(file: h5py.File, source: str) -> list[str]:
    names = _h5_array(file, "order", source)
    if names.ndim != 1 or not all(isinstance(name, bytes) for name in names):
        raise InputError(f"{source}: the dataset order should hold sample ids, a text each")
    try:
        return [name.decode() for name in names]
    except UnicodeDecodeError:
        raise InputError(f"{source}: sample ids that are not UTF-8 text") from None


def _h5_array(file: h5py.File, name: str, source: str) -> NDArray[Any]:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape:
        raise InputError(f"{source}: {name} should be a dataset, as ssu writes it")
    return np.asarray(dataset[()])


def _read_delimited(path: Path, source: str) -> tuple[list[str], Values]:
    text = read_text(path, "distance matrix", ("DistanceMatrix",))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="," if path.suffix == ".csv" else "\t")
    try:
        filled = (line for line in lines if any(cell.strip() for cell in line))
        header: list[str] = next((line for line in filled if not _is_comment(line)), [])
        ids = [name.strip() for name in header[1:]]
        values = np.empty((len(ids), len(ids)))
        rows = 0
        for rows, line in enumerate(filled, start=1):
            values[rows - 1] = _row_values(line, rows - 1, ids, f"{source}, line {lines.line_num}")
    except csv.Error as error:
        raise InputError(f"{source}, line {lines.line_num}: not a table of distances ({shown(error)})") from None
    if rows < len(ids) or not ids:
        raise InputError(f"{source}: {len(ids)} columns of distances, but {rows} rows; is the file cut short?")
    return ids, values


def _is_comment(line: Sequence[str]) -> bool:
    """Whether scikit-bio takes a line before the header for a comment; a header may begin with # as well."""
    return len(line) == 1 and line[0].lstrip().startswith("#")


def _row_values(line: Sequence[str], row: int, ids: Sequence[str], where: str) -> Values:
    if row >= len(ids) or line[0].strip() != ids[row] or len(line) != len(ids) + 1:
        raise InputError(
            f"{where}: {first_ids(line[:1])} with {len(line) - 1} values; the rows should be the {len(ids)} samples of "
            "the first line, in the same order, with a value for each"
        )
    try:
        return np.array(line[1:], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}, row {line[0]}: not a number ({shown(error)})") from None


def _numbers(values: NDArray[Any], source: str) -> Values:
    if values.dtype.kind not in "fiu":
        raise InputError(f"{source}: values of type {values.dtype}; numbers are wanted")
    return values


def _write_delimited(matrix: DistanceMatrix, path: Path) -> None:
    ids = list(matrix.ids)
    frame = pd.DataFrame(matrix.values, index=pd.Index(ids), columns=pd.Index(ids))
    frame.to_csv(path, sep="," if path.suffix == ".csv" else "\t")


def _write_npz(matrix: DistanceMatrix, path: Path) -> None:
    np.savez(path, ids=np.array(matrix.ids, dtype=np.str_), values=matrix.values)


def _write_h5(matrix: DistanceMatrix, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["order"] = [name.encode() for name in matrix.ids]
        file["matrix"] = matrix.values


_READERS: dict[str, Callable[[Path, str], tuple[list[str], Values]]] = {
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".tsv": _read_delimited,
    ".csv": _read_delimited,
    ".qza": _read_delimited,
}
_WRITERS: dict[str, Callable[[DistanceMatrix, Path], None]] = {
    ".tsv": _write_delimited,
    ".csv": _write_delimited,
    ".npz": _write_npz,
    ".h5": _write_h5,
}

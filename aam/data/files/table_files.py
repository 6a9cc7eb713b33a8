"""File formats of feature tables: BIOM HDF5 (2.0, 2.1), BIOM JSON (1.0) and tab-separated text ("BIOM classic").

What is read here is only well-formed; `aam.data.files.tables` checks ids and counts.
"""

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Strict, ValidationError
from scipy import sparse

from aam.data.arrays import Floats, Ints
from aam.data.files.artifacts import first_bytes, read_bytes
from aam.data.files.counts import Counts, blocks_of
from aam.data.files.hdf5_guard import check_ends
from aam.errors import InputError

KIND = "feature table"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_PARTS = (
    "sample/ids",
    "observation/ids",
    "sample/matrix/data",
    "sample/matrix/indices",
    "sample/matrix/indptr",
)
_HDF5_FLAT = tuple(name.replace("/matrix", "") for name in _HDF5_PARTS)
"""The same in BIOM 2.0, which keeps the arrays of the matrix beside the ids."""
_LARGEST_PLACE = 2**53
_TAXONOMY_HEADERS = {"taxonomy", "consensus lineage", "consensuslineage"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RawTable:
    """Cells and ids of one source, not yet checked.

    Attributes:
        blocks: gives the cells, float64, a block of samples after the other.
        size: number of cells that are given.
        sample_ids: one a row.
        asv_ids: one a column.
        source: what to call the table in messages.
    """

    blocks: Callable[[], Iterable[Counts]]
    size: int
    sample_ids: tuple[str, ...]
    asv_ids: tuple[str, ...]
    source: str

    @classmethod
    def of(cls, cells: Counts, sample_ids: tuple[str, ...], asv_ids: tuple[str, ...], source: str) -> Self:
        """A table whose cells, float64 [samples, ASVs], are in memory already."""
        return cls(lambda: [cells], cells.nnz, sample_ids, asv_ids, source)


def read_table_file(path: Path | str) -> RawTable:
    """Read one feature table; its content decides the format, not its ending.

    Args:
        path: BIOM HDF5, BIOM JSON or tab-separated text, plain or gzipped, or a QIIME 2 artifact of type
            ``FeatureTable[Frequency]``.

    Raises:
        InputError: the file cannot be read, is damaged, or is no feature table.
    """
    source = f"{KIND} {path}"
    if first_bytes(path, KIND, len(_HDF5)) == _HDF5:
        return _read_hdf5(lambda: Path(path).open("rb"), source)
    content = read_bytes(path, KIND, ("FeatureTable[Frequency]",))
    if content.startswith(_HDF5):
        return _read_hdf5(lambda: io.BytesIO(content), source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{source}: neither BIOM (HDF5, JSON) nor tab-separated text in UTF-8") from None
    return _read_json(text, source) if text.lstrip().startswith("{") else _read_tsv(text, source)


def _read_hdf5(place: Callable[[], BinaryIO], source: str) -> RawTable:
    """Read ids and structure; the cells are read block by block when they are wanted."""
    with place() as content:
        check_ends(content, (*_HDF5_PARTS, *_HDF5_FLAT), source)
    with _opened(place, source) as found:
        missing = [name for name in _HDF5_PARTS if name not in found]
        if missing:
            raise InputError(
                f"{source}: an HDF5 file, but not BIOM (it has no {missing[0]}); give a BIOM table of counts"
            )
        sample_ids, asv_ids = (_hdf5_ids(found, f"{axis}/ids", source) for axis in ("sample", "observation"))
        indptr = _whole(found["sample/matrix/indptr"], slice(None), source)
        lengths = [len(found[f"sample/matrix/{name}"]) for name in ("data", "indices")]
    shape = (len(sample_ids), len(asv_ids))
    rises = len(indptr) == shape[0] + 1 and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
    if not rises or lengths != [indptr[-1]] * 2:
        raise _inconsistent(source, shape)
    return RawTable(lambda: _hdf5_blocks(place, indptr, shape, source), lengths[0], sample_ids, asv_ids, source)


def _hdf5_blocks(place: Callable[[], BinaryIO], indptr: Ints, shape: tuple[int, int], source: str) -> Iterator[Counts]:
    with _opened(place, source) as found:
        for block in blocks_of(np.diff(indptr)):
            span = slice(int(indptr[block.start]), int(indptr[block.stop]))
            data = _numbers(found["sample/matrix/data"], span, source)
            indices = _whole(found["sample/matrix/indices"], span, source)
            if len(indices) and (indices.min() < 0 or indices.max() >= shape[1]):
                raise _inconsistent(source, shape)
            parts = (data.astype(np.float64), indices, indptr[block.start : block.stop + 1] - indptr[block.start])
            yield sparse.csr_array(parts, shape=(block.stop - block.start, shape[1]))


@contextmanager
def _opened(place: Callable[[], BinaryIO], source: str) -> Iterator[dict[str, h5py.Dataset]]:
    """Those of `_HDF5_PARTS` that the file has."""
    try:
        # opened here: HDF5 locks the files that it opens, which some network disks refuse
        with place() as content, h5py.File(content, "r") as file:
            names = _HDF5_PARTS if "sample/matrix" in file else _HDF5_FLAT
            found = {name: file.get(own) for name, own in zip(_HDF5_PARTS, names, strict=True)}
            yield {name: part for name, part in found.items() if isinstance(part, h5py.Dataset) and part.ndim == 1}
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, OverflowError, ValueError) as error:
        # What h5py raises where the structure, a compressed block, a type or an address in the file is broken.
        raise InputError(f"{source}: the HDF5 file is damaged or cut short ({error}); copy it again") from None


def _numbers(values: h5py.Dataset, span: slice, source: str) -> NDArray[Any]:
    """Values of a dataset of real numbers, in its own type."""
    kind = _type_of(values, source)
    if kind.kind not in "iuf":
        raise InputError(f"{source}: {values.name} holds {kind} values, not numbers; write a table of counts")
    numbers: NDArray[Any] = values[span]
    return numbers


def _whole(values: h5py.Dataset, span: slice, source: str) -> Ints:
    """Places in the matrix, int64: unsigned ones would wrap around when they are subtracted."""
    numbers = _numbers(values, span, source)
    exact = numbers.astype(np.float64)
    if not ((np.abs(exact) <= _LARGEST_PLACE) & (exact == np.floor(exact))).all():  # NaN fails too
        raise InputError(f"{source}: {values.name} holds values that are no places in the matrix; write the table anew")
    return numbers.astype(np.int64)


def _type_of(values: h5py.Dataset, source: str) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = values.dtype
    except TypeError as error:  # a type of HDF5 that numpy does not have
        raise InputError(f"{source}: {values.name} cannot be read ({error}); write the table anew") from None
    return found


def _inconsistent(source: str, shape: tuple[int, int]) -> InputError:
    return InputError(f"{source}: the matrix does not fit its {shape[0]} sample and {shape[1]} ASV ids; write it anew")


def _hdf5_ids(found: dict[str, h5py.Dataset], name: str, source: str) -> tuple[str, ...]:
    kind = _type_of(found[name], source)
    if kind.kind != "S" and h5py.check_string_dtype(kind) is None:
        raise InputError(f"{source}: {name} holds {kind} values, not text; write the ids as text")
    ids = found[name][:].tolist()
    try:
        return tuple(text.decode() for text in ids)
    except UnicodeDecodeError:
        raise InputError(f"{source}: {name} is not UTF-8 text") from None


class _JsonAxisEntry(BaseModel):
    id: str


class _BiomJson(BaseModel):
    """The fields of BIOM 1.0 that matter here; ``data`` is rows of a dense matrix or (ASV, sample, value) triples.

    Without a ``matrix_type`` biom-format takes them for triples. Text and truth values are no numbers.
    """

    rows: list[_JsonAxisEntry]
    columns: list[_JsonAxisEntry]
    shape: tuple[Annotated[int, Strict()], Annotated[int, Strict()]]
    matrix_type: Literal["sparse", "dense"] = "sparse"
    data: list[list[Annotated[float, Strict()]]]


def _read_json(text: str, source: str) -> RawTable:
    try:
        table = _BiomJson.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{source}: not a BIOM JSON table: {place}{': ' if place else ''}{first['msg']}") from None
    n_asvs, n_samples = table.shape
    if (len(table.rows), len(table.columns)) != (n_asvs, n_samples):
        raise InputError(f"{source}: shape is {n_asvs} x {n_samples}, ids are {len(table.rows)} x {len(table.columns)}")
    cells = _sparse_json(table, source) if table.matrix_type == "sparse" else _dense_json(table, source)
    sample_ids, asv_ids = (tuple(entry.id for entry in axis) for axis in (table.columns, table.rows))
    return RawTable.of(cells, sample_ids, asv_ids, source)


def _sparse_json(table: _BiomJson, source: str) -> sparse.csr_array[Any, tuple[int, int]]:
    if any(len(triple) != 3 for triple in table.data):
        raise InputError(f"{source}: an entry of the sparse 'data' is not [ASV, sample, value]")
    triples = np.array(table.data, dtype=np.float64).reshape(-1, 3)
    outside = ~((triples[:, :2] >= 0) & (triples[:, :2] < table.shape))  # NaN is outside too
    if outside.any():
        raise InputError(f"{source}: an entry of 'data' lies outside the {table.shape[0]} x {table.shape[1]} cells")
    places = triples[:, :2].astype(np.int64)
    if (places != triples[:, :2]).any():
        first = int(np.flatnonzero((places != triples[:, :2]).any(axis=1))[0])
        raise InputError(f"{source}: entry {first + 1} of 'data' lies between two cells: {table.data[first]}")
    coo = sparse.coo_array((triples[:, 2], (places[:, 1], places[:, 0])), shape=table.shape[::-1])
    return coo.tocsr()


def _dense_json(table: _BiomJson, source: str) -> sparse.csr_array[Any, tuple[int, int]]:
    n_asvs, n_samples = table.shape
    if len(table.data) != n_asvs or any(len(row) != n_samples for row in table.data):
        raise InputError(f"{source}: the dense 'data' is not {n_asvs} rows of {n_samples} values")
    return sparse.csr_array(np.array(table.data, dtype=np.float64).reshape(n_asvs, n_samples).T)


def _read_tsv(text: str, source: str) -> RawTable:
    unix = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [(number, line) for number, line in enumerate(unix.split("\n"), start=1) if line.strip()]
    start = next((at for at, (_, line) in enumerate(lines) if "\t" in line), None)
    if start is None:
        raise InputError(f"{source}: neither BIOM (HDF5, JSON) nor tab-separated text")
    header = [cell.strip() for cell in lines[start][1].split("\t")]
    sample_ids = tuple(header[1:])
    if sample_ids and sample_ids[-1].lower() in _TAXONOMY_HEADERS:
        logger.info("%s: the last column, %s, is not read", source, sample_ids[-1])
        sample_ids = sample_ids[:-1]
    rows = [_tsv_row(number, line, len(header), sample_ids, source) for number, line in lines[start + 1 :]]
    asv_ids = tuple(asv_id for asv_id, _, _ in rows)
    places = np.concatenate([places for _, places, _ in rows] or [np.zeros(0, np.int64)])
    values = np.concatenate([values for _, _, values in rows] or [np.zeros(0)])
    asv = np.repeat(np.arange(len(rows)), [len(places) for _, places, _ in rows])
    shape = (len(sample_ids), len(asv_ids))
    return RawTable.of(sparse.coo_array((values, (places, asv)), shape=shape).tocsr(), sample_ids, asv_ids, source)


def _tsv_row(number: int, line: str, width: int, sample_ids: Sequence[str], source: str) -> tuple[str, Ints, Floats]:
    """ASV id, places of the cells that are not zero, and their values."""
    asv_id, *cells = line.split("\t")
    if len(cells) + 1 != width:
        raise InputError(f"{source}: line {number} has {len(cells) + 1} cells, the header has {width}")
    try:
        values = np.array(cells[: len(sample_ids)], dtype=np.float64)
    except ValueError:
        _refuse_cell(number, cells, sample_ids, source)
    places = np.flatnonzero(values)
    return asv_id.strip(), places, values[places]


def _refuse_cell(number: int, cells: Sequence[str], sample_ids: Sequence[str], source: str) -> NoReturn:
    for sample_id, cell in zip(sample_ids, cells, strict=False):
        try:
            float(cell)
        except ValueError:
            raise InputError(
                f"{source}: line {number}, sample {sample_id}: {cell.strip()!r} is not a number; "
                "a tab-separated feature table has a row for each ASV, a column for each sample, and counts"
            ) from None
    raise AssertionError("every cell is a number")

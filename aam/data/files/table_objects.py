"""Feature tables that are in memory: of biom-format, pandas, anndata, NumPy and SciPy.

What is read here is only well-formed; `aam.data.files.tables` checks ids and counts.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import biom
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from aam.data.files.table_files import RawTable, read_table_file
from aam.errors import InputError, first_ids

if TYPE_CHECKING:
    from anndata import AnnData

ArrayLike: TypeAlias = NDArray[Any] | sparse.sparray | sparse.spmatrix
"""Counts without ids, samples x ASVs."""
TableObject: TypeAlias = "biom.Table | pd.DataFrame | AnnData | Path | str"
"""A table that knows its ids; of an AnnData the counts are in `X`."""

SEQUENCE = "sequence"
"""The column of an AnnData's `var` that holds DNA."""


def is_anndata(source: object) -> TypeGuard["AnnData"]:
    """Whether an object is an AnnData; where nobody has imported anndata there is none."""
    module = sys.modules.get("anndata")
    return module is not None and isinstance(source, module.AnnData)


def is_array(source: object) -> TypeGuard[ArrayLike]:
    """Whether an object holds counts, but no ids."""
    return isinstance(source, np.ndarray) or sparse.issparse(source)


def raw_table(source: TableObject) -> RawTable:
    """Take a table from an object or a file.

    Raises:
        InputError: the object is of no kind that holds ids and counts, or the file is wrong.
    """
    if isinstance(source, biom.Table):
        return _from_biom(source)
    if isinstance(source, pd.DataFrame):
        return _from_frame(source)
    if is_anndata(source):
        return from_anndata(source)
    if isinstance(source, Path | str):
        return read_table_file(source)
    kind = type(source).__name__
    if is_array(source):
        raise InputError(
            f"table: a {kind} has no ids, by which aam joins samples to their metadata and ASVs to their sequences: "
            "give aam.read(counts, sample_ids=..., asv_ids=...), a DataFrame, or a biom.Table"
        )
    raise InputError(f"table: a {kind} is no feature table; give a biom.Table, a DataFrame, an AnnData, or a path")


def from_anndata(source: "AnnData", layer: str | None = None) -> RawTable:
    """Take the counts of an AnnData from its `X`, or from a layer.

    Raises:
        InputError: there is no such layer, or no `X`, or its cells are no numbers.
    """
    name = "X of the AnnData" if layer is None else f"layer {layer!r} of the AnnData"
    if source.isbacked:
        source = source.to_memory()
    if layer is not None and layer not in source.layers:
        raise InputError(f"the AnnData has no layer {layer!r}; its layers: {first_ids(source.layers) or 'none'}")
    cells = source.X if layer is None else source.layers[layer]
    if cells is None:
        raise InputError("the AnnData has no X; name the layer of the counts: aam.read(adata, layer=...)")
    return raw_of_array(cells, source.obs_names, source.var_names, name)


def own_sequences(source: object) -> dict[str, str]:
    """DNA by ASV id that an AnnData holds in the column `SEQUENCE` of its `var`; nothing of other tables.

    Raises:
        InputError: the column holds something else.
    """
    if not is_anndata(source) or SEQUENCE not in source.var:
        return {}
    given = source.var[SEQUENCE].dropna()
    wrong = [name for name, value in given.items() if not isinstance(value, str)]
    if wrong:
        raise InputError(f"the AnnData: its var column {SEQUENCE!r} should hold DNA; no text for {first_ids(wrong)}")
    return dict(zip(map(str, given.index), given, strict=True))


def raw_of_array(cells: Any, sample_ids: Iterable[Any], asv_ids: Iterable[Any], source: str = "the array") -> RawTable:
    """Give counts their ids.

    Args:
        cells: counts, an `ArrayLike`, [samples, ASVs].
        sample_ids: one a row.
        asv_ids: one a column.
        source: what to call the table in messages.

    Raises:
        InputError: cells are no numbers, ids are no text, or they are not as many as rows and columns.
    """
    if cells.ndim != 2:
        raise InputError(f"{source}: {cells.ndim} dimensions; counts are samples x ASVs, so two")
    if cells.dtype.kind not in "biuf":
        raise InputError(f"{source}: values of the type {cells.dtype}; give counts of reads")
    ids = _texts(sample_ids, f"{source}: sample ids"), _texts(asv_ids, f"{source}: ASV ids")
    if cells.shape != tuple(map(len, ids)):
        shape = " x ".join(map(str, cells.shape))
        raise InputError(f"{source}: {shape} cells, but {len(ids[0])} sample ids and {len(ids[1])} ASV ids")
    return RawTable.of(sparse.csr_array(cells, dtype=np.float64), *ids, source)


def _texts(ids: Iterable[Any], what: str) -> tuple[str, ...]:
    if isinstance(ids, str):
        raise InputError(f"{what}: one text, {ids[:40]!r}; give a list of ids")
    names = tuple(ids)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(f"{what} must be text; these are not: {first_ids(wrong)}")
    return tuple(map(str, names))


def _from_biom(table: biom.Table) -> RawTable:
    sample_ids, asv_ids = ([str(name) for name in table.ids(axis)] for axis in ("sample", "observation"))
    return raw_of_array(table.matrix_data.T, sample_ids, asv_ids, "the biom.Table")


def _from_frame(frame: pd.DataFrame) -> RawTable:
    for axis, labels in (("index (sample ids)", frame.index), ("columns (ASV ids)", frame.columns)):
        if not all(isinstance(label, str) for label in labels):
            raise InputError(f"the table's {axis} must be text, not {labels.dtype}: set the ids, or use .astype(str)")
    types = pd.api.types
    real = {name: types.is_numeric_dtype(d) and not types.is_complex_dtype(d) for name, d in frame.dtypes.items()}
    textual = [name for name, is_real in real.items() if not is_real]
    if textual:
        raise InputError(f"the table's columns must be ASVs with counts; not numeric: {first_ids(textual)}")
    cells = sparse.csr_array(frame.to_numpy(dtype=np.float64, na_value=np.nan))
    return RawTable.of(cells, tuple(frame.index), tuple(frame.columns), "the DataFrame")


def asv_ids_of(source: object) -> Sequence[str] | None:
    """Ids of the columns of a table in memory, in their order; None where it is a file."""
    if isinstance(source, pd.DataFrame):
        return list(source.columns)
    if isinstance(source, biom.Table):
        return [str(name) for name in source.ids("observation")]
    return list(source.var_names) if is_anndata(source) else None


def sample_ids_of(source: object) -> Sequence[str] | None:
    """Ids of the rows of a table in memory, in their order; None where it is a file."""
    if isinstance(source, pd.DataFrame):
        return list(source.index)
    if isinstance(source, biom.Table):
        return [str(name) for name in source.ids("sample")]
    return list(source.obs_names) if is_anndata(source) else None

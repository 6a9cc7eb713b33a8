"""Feature tables: counts of reads by sample and ASV, with the sequence of every ASV."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aam.data.arrays import Ints
from aam.data.files.counts import Counts, CountsBuilder, Source, canonical, column_sums, gather, row_sums
from aam.data.files.fasta import read_fasta
from aam.data.files.sequences import check_letters, is_dna, normalize
from aam.data.files.table_files import RawTable, read_table_file
from aam.data.files.table_objects import TableObject, own_sequences, raw_table
from aam.errors import InputError, first_ids

MIN_SEQUENCE_ID = 20
"""Nucleotides from which an id made of IUPAC letters counts as the ASV's sequence; shorter ones may be names."""

_LARGEST_COUNT = 2**53 - 1
"""The next whole number, as float64, may be another one that was rounded."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Counts of reads; each ASV has a sequence of its own.

    Attributes:
        counts: int64 [samples, ASVs], indices sorted, no explicit zeros; of a large table int32, in scratch files.
        sample_ids: one a row.
        asv_ids: one a column; the id first seen for the sequence.
        sequences: DNA of each ASV, upper case, T for U; its id, where ids suffice for what is computed.
    """

    counts: Counts
    sample_ids: tuple[str, ...]
    asv_ids: tuple[str, ...]
    sequences: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.sample_ids), len(self.asv_ids)) or len(self.asv_ids) != len(self.sequences):
            raise ValueError(
                f"counts {self.counts.shape} do not fit {len(self.sample_ids)} sample ids, {len(self.asv_ids)} ASV ids "
                f"and {len(self.sequences)} sequences"
            )

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.sample_ids)

    @property
    def n_asvs(self) -> int:
        """Number of ASVs."""
        return len(self.asv_ids)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and ASVs, as scikit-learn asks for it."""
        return self.n_samples, self.n_asvs

    def __getitem__(self, rows: Any) -> "FeatureTable":
        """Samples by number, slice or mask, as scikit-learn takes those of a fold: also ``table[rows, ...]``."""
        chosen = rows[0] if isinstance(rows, tuple) and rows[1:] in ((...,), (slice(None),)) else rows
        return self.select_samples(np.atleast_1d(np.arange(self.n_samples)[chosen]))

    @property
    def depth(self) -> Ints:
        """Reads of each sample, int64 [samples]."""
        return row_sums(self.counts)

    @property
    def asv_reads(self) -> Ints:
        """Reads of each ASV over all samples, int64 [ASVs]."""
        return column_sums(self.counts)

    def select_samples(self, index: NDArray[np.integer]) -> "FeatureTable":
        """The samples at these rows, in this order; the ASVs stay."""
        sample_ids = tuple(self.sample_ids[row] for row in index)
        source = Source(self.counts, np.asarray(index, np.int64), np.arange(self.n_asvs))
        return FeatureTable(gather([source], self.n_asvs), sample_ids, self.asv_ids, self.sequences)

    def select_asvs(self, index: NDArray[np.integer]) -> "FeatureTable":
        """The ASVs at these columns, in this order; the samples stay, also those that are left without reads."""
        asv_ids = tuple(self.asv_ids[column] for column in index)
        sequences = tuple(self.sequences[column] for column in index)
        source = Source(self.counts, np.arange(self.n_samples), _inverse(index, self.n_asvs))
        return FeatureTable(gather([source], len(index)), self.sample_ids, asv_ids, sequences)


def read_tables(
    paths: Sequence[Path | str],
    rep_seqs: Path | str | None = None,
    drop_missing_sequences: bool = False,
    ids_suffice: bool = False,
) -> FeatureTable:
    """Read feature tables and merge them by sample id and sequence, summing the counts of equal cells.

    Args:
        paths: BIOM (HDF5 or JSON), tab-separated text, or QIIME 2 artifacts of type ``FeatureTable[Frequency]``.
        rep_seqs: FASTA or artifact with the sequences; goes before an id that is a sequence itself.
        drop_missing_sequences: drop ASVs without a sequence and log the loss, instead of raising.
        ids_suffice: nobody reads sequences: an ASV without one is known by its id.

    Raises:
        InputError: a file is unreadable or malformed; ids are repeated; a cell is no count; ASVs lack a sequence.
    """
    if not paths:
        raise InputError("no feature table: give --table")
    sequences = None if rep_seqs is None else read_fasta(rep_seqs)
    choices = (drop_missing_sequences, ids_suffice and not drop_missing_sequences)
    return _merge([_resolve(read_table_file(path), sequences, *choices) for path in paths])


def feature_table(
    source: "TableObject | FeatureTable",
    sequences: Mapping[str, str] | None = None,
    drop_missing_sequences: bool = False,
) -> FeatureTable:
    """Make a feature table of an object or a file.

    Args:
        source: a `biom.Table`, a DataFrame of samples x ASVs whose index and columns are ids, an AnnData whose `X`
            holds the counts, or a path; or a `FeatureTable`, which is returned as it is.
        sequences: DNA by ASV id, needed where the ids are not sequences, and an AnnData has no column ``sequence`` of
            its `var`.
        drop_missing_sequences: drop ASVs without a sequence and log the loss, instead of raising.

    Raises:
        InputError: as `read_tables`.
    """
    if isinstance(source, FeatureTable):
        return source
    return with_sequences(raw_table(source), own_sequences(source) | dict(sequences or {}), drop_missing_sequences)


def with_sequences(
    raw: RawTable, sequences: Mapping[str, str] | None = None, drop_missing_sequences: bool = False
) -> FeatureTable:
    """Check a table and give every ASV its sequence; arguments and errors as of `feature_table`."""
    return _merge([_resolve(raw, sequences, drop_missing_sequences)])


def _resolve(
    raw: RawTable, sequences: Mapping[str, str] | None, drop_missing: bool, ids_suffice: bool = False
) -> FeatureTable:
    """Check one source and give every ASV its sequence; a sequence may still stand under two ids."""
    _check_ids(raw)
    counts = _checked_counts(raw)
    given = sequences or {}
    found = [given.get(asv_id, asv_id if _is_sequence(asv_id) else None) for asv_id in raw.asv_ids]
    if ids_suffice and None in found:
        return _known_by_id(raw, counts, found)
    kept = np.array([column for column, sequence in enumerate(found) if sequence is not None], dtype=np.int64)
    if len(kept) < len(found):
        _report_missing(raw, column_sums(counts), kept, drop_missing)
    asv_ids = tuple(raw.asv_ids[column] for column in kept)
    texts = [sequence for sequence in found if sequence is not None]
    check_letters(texts, asv_ids, raw.source)
    table = FeatureTable(counts, raw.sample_ids, raw.asv_ids, tuple(sequence or "" for sequence in found))
    if len(kept) < len(found):
        table = table.select_asvs(kept)
    return replace(table, asv_ids=asv_ids, sequences=tuple(map(normalize, texts)))


def _known_by_id(raw: RawTable, counts: Counts, found: Sequence[str | None]) -> FeatureTable:
    """A table whose ASVs stand under their ids where they have no sequence."""
    own = {asv_id: sequence for asv_id, sequence in zip(raw.asv_ids, found, strict=True) if sequence is not None}
    check_letters(list(own.values()), list(own), raw.source)
    names = tuple(normalize(own[asv_id]) if asv_id in own else asv_id for asv_id in raw.asv_ids)
    return FeatureTable(counts, raw.sample_ids, raw.asv_ids, names)


def _is_sequence(name: str) -> bool:
    return len(name) >= MIN_SEQUENCE_ID and is_dna(name)


def _check_ids(raw: RawTable) -> None:
    for axis, ids in (("sample", raw.sample_ids), ("ASV", raw.asv_ids)):
        if not ids:
            raise InputError(f"{raw.source}: the table has no {axis}s")
        if not all(ids):
            raise InputError(f"{raw.source}: {axis} {ids.index('') + 1} of {len(ids)} has an empty id")
        if len(set(ids)) < len(ids):
            repeated = [name for name, times in Counter(ids).items() if times > 1]
            raise InputError(
                f"{raw.source}: {axis} ids given more than once: {first_ids(repeated)}; rename or merge them"
            )


def _checked_counts(raw: RawTable) -> Counts:
    builder = CountsBuilder(len(raw.asv_ids), raw.size)
    first = 0
    for cells in raw.blocks():
        _check_cells(cells, raw, first)
        builder.append(canonical(cells))
        first += cells.shape[0]
    return builder.finish()


def _check_cells(cells: Counts, raw: RawTable, first: int) -> None:
    """Check a block of samples, the first of which is of this number."""
    values = cells.data
    faults = (
        (~np.isfinite(values), "not a number of reads; fill or remove such cells"),
        (values < 0, "negative; give the table of counts"),
        (values != np.floor(values), "not a whole number; give the table of counts, not of relative abundances"),
        (values > _LARGEST_COUNT, "too large for a count"),
    )
    for wrong, fault in faults:
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            sample_id = raw.sample_ids[first + int(np.searchsorted(cells.indptr, place, side="right")) - 1]
            asv_id = first_ids([raw.asv_ids[cells.indices[place]]])
            raise InputError(f"{raw.source}: sample {sample_id}, ASV {asv_id}: {values[place]:g} is {fault}")


def _report_missing(raw: RawTable, reads: Ints, kept: Ints, drop_missing: bool) -> None:
    missing = np.setdiff1d(np.arange(len(raw.asv_ids)), kept)
    names = [raw.asv_ids[column] for column in missing]
    # an id that is nearly DNA is a sequence with a wrong letter; the digits of an md5 id keep it far from that
    misspelt = [name for name in names if len(name) >= MIN_SEQUENCE_ID and sum(map(is_dna, name)) >= 0.9 * len(name)]
    check_letters(misspelt, misspelt, raw.source)
    lost = (
        f"{len(missing):,} of {len(raw.asv_ids):,} ASVs ({reads[missing].sum():,} of {reads.sum():,} reads) "
        f"without a sequence: {first_ids(names)}"
    )
    if not len(kept) and all(map(_is_sequence, raw.sample_ids)):
        raise InputError(
            f"{raw.source}: the sample ids are DNA: the table is transposed; ASVs belong where samples are"
        )
    if not len(kept):
        raise InputError(f"{raw.source}: {lost}; give the FASTA file that belongs to this table with --rep-seqs")
    if not drop_missing:
        raise InputError(
            f"{raw.source}: {lost}; give their sequences with --rep-seqs, or drop them with --drop-missing-sequences"
        )
    logger.warning("%s: dropped %s", raw.source, lost)


def _merge(tables: Sequence[FeatureTable]) -> FeatureTable:
    """One table with a row for each sample id and a column for each sequence, in the order first seen."""
    row_of = {name: row for row, name in enumerate(dict.fromkeys(name for t in tables for name in t.sample_ids))}
    id_of: dict[str, str] = {}
    for table in tables:
        for sequence, asv_id in zip(table.sequences, table.asv_ids, strict=True):
            id_of.setdefault(sequence, asv_id)
    column_of = {sequence: column for column, sequence in enumerate(id_of)}
    _log_merge(tables, len(row_of), len(column_of))
    if len(tables) == 1 and len(column_of) == tables[0].n_asvs:
        return tables[0]
    rows = [_inverse(_positions(table.sample_ids, row_of), len(row_of)) for table in tables]
    columns = [_positions(table.sequences, column_of) for table in tables]
    sources = [Source(table.counts, *places) for table, *places in zip(tables, rows, columns, strict=True)]
    return FeatureTable(gather(sources, len(column_of)), tuple(row_of), tuple(id_of.values()), tuple(id_of))


def _inverse(positions: NDArray[np.integer], size: int) -> Ints:
    """Which entry has each position; negative for none."""
    inverse = np.full(size, -1)
    inverse[positions] = np.arange(len(positions))
    return inverse


def _positions(names: Sequence[str], position_of: Mapping[str, int]) -> Ints:
    return np.array([position_of[name] for name in names], dtype=np.int64)


def _log_merge(tables: Sequence[FeatureTable], n_samples: int, n_asvs: int) -> None:
    repeated_sequences = sum(len(table.sequences) - len(set(table.sequences)) for table in tables)
    if repeated_sequences:
        logger.info("ASVs that repeat the sequence of another in their table: %d (counts summed)", repeated_sequences)
    if len(tables) > 1:
        shared = sum(table.n_samples for table in tables) - n_samples
        logger.info(
            "merged %d tables: %d samples, %d ASVs; samples that repeat the id of an earlier table: %d (counts summed)",
            *(len(tables), n_samples, n_asvs, shared),
        )

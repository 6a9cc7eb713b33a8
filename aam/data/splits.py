"""Which samples train the model and which validate it: drawn at random, by group or by class, or given by a column.

Samples, or groups of them, are held out in the order of a hash of seed and id. So the order of the table does not
matter, and most samples keep their side where others join or leave the study.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import SplitConfig
from aam.data.addressed import address_hash, generator
from aam.data.metadata import categorical_column
from aam.errors import InputError, first_ids

logger = logging.getLogger(__name__)

HEADER = ["sample_id", "split"]
SIDES = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# Group splits that compete when classes should be balanced too; the draw that balances them best is taken.
GROUP_DRAWS = 200

TextArray = NDArray[np.str_]
IndexArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the sides, each sorted; a sample may be on none.

    Attributes:
        train: rows that train the model, int64.
        val: rows that validate it, int64.
        test: rows that the run does not use, kept for the user to judge by, int64.
    """

    train: IndexArray
    val: IndexArray
    test: IndexArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def split_samples(
    sample_ids: Sequence[str],
    metadata: pd.DataFrame | None,
    config: SplitConfig,
    seed: int,
    strata: Sequence[str] | None = None,
) -> Split:
    """Decide for every sample whether it trains or validates.

    Args:
        sample_ids: distinct ids; the rows of the result count along them.
        metadata: sample metadata by id, needed for ``split_column`` and ``group_column``.
        config: share to hold out, and the columns that constrain it.
        seed: seed of the draw.
        strata: class of each sample, where the same share of every class is to be held out.

    Raises:
        InputError: a column is missing or incomplete, a class or group is too small to divide, or a side is empty.
    """
    ids = np.asarray(sample_ids, dtype=np.str_)
    if config.split_column is not None:
        return _given_split(ids, _column(metadata, config.split_column, "--split-column"), config.split_column)
    classes = np.asarray(strata, dtype=np.str_) if strata is not None else None
    if config.group_column is not None:
        groups = _groups(ids, _column(metadata, config.group_column, "--group-column"), config.group_column)
        held_out = _draw_groups(ids, groups, classes, config, seed)
    elif classes is not None:
        held_out = _draw_stratified(ids, classes, config.test_size, seed)
    else:
        held_out = _first(ids, _held_out(ids.size, config.test_size, "samples"), seed)
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def write_split(path: Path, split: Split, sample_ids: Sequence[str]) -> None:
    """Write the side of every sample that has one: a tab-separated table ``sample_id``, ``split``."""
    side = {row: name for name in ("train", "val", "test") for row in getattr(split, name).tolist()}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((sample_ids[row], side[row]) for row in sorted(side))


def read_split(path: Path, sample_ids: Sequence[str]) -> Split:
    """Read what `write_split` wrote, as rows of ``sample_ids`` (in any order).

    Raises:
        InputError: the file is missing or not such a table, or names a sample twice or one that is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of a split")
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file, delimiter="\t")) or [[]]
    if header != HEADER:
        raise InputError(f"{path}: the first line is not '{' '.join(HEADER)}' (tab-separated)")
    wrong = [number for number, row in enumerate(rows, 2) if len(row) != 2 or row[1] not in SIDES]
    if wrong:
        raise InputError(f"{path}: not a sample id and train, val or test in line {first_ids(wrong)}")
    side: dict[str, str] = dict(rows)
    if len(side) < len(rows):
        raise InputError(f"{path}: {len(rows) - len(side)} lines repeat a sample id")
    absent = sorted(side.keys() - set(sample_ids))
    if absent:
        raise InputError(f"{path}: samples that are not in the study: {first_ids(absent)}")
    return _split_of_sides(np.array([side.get(sample, "") for sample in sample_ids]), str(path))


def _column(metadata: pd.DataFrame | None, column: str, option: str) -> pd.Series:
    if metadata is None:
        raise InputError(f"{option} {column} is a column of the sample metadata: give --metadata too")
    return categorical_column(metadata, column)


def _values_of(ids: TextArray, values: pd.Series, column: str) -> "pd.Series[str]":
    absent = [sample for sample in ids.tolist() if sample not in values.index]
    if absent:
        raise InputError(f"column '{column}': the metadata lack samples {first_ids(absent)}")
    return values.reindex(ids.tolist())


def _given_split(ids: TextArray, values: pd.Series, column: str) -> Split:
    words = _values_of(ids, values, column).fillna("").astype(str).str.strip().str.lower()
    unknown = words[~words.isin([*SIDES, ""])]
    if len(unknown):
        raise InputError(
            f"column '{column}' should say train, val or test; it says {first_ids(sorted(set(unknown)))}"
            f" for samples {first_ids(unknown.index)}"
        )
    return _split_of_sides(words.map(SIDES).fillna("").to_numpy(dtype=np.str_), f"column '{column}'")


def _split_of_sides(side: TextArray, source: str) -> Split:
    split = Split(*(np.flatnonzero(side == name) for name in ("train", "val", "test")))
    for name, rows in (("train", split.train), ("val", split.val)):
        if rows.size == 0:
            raise InputError(f"{source} gives no sample to '{name}': give each side at least one")
    if split.test.size:
        logger.info("%d samples are for a test by %s: the run does not use them", split.test.size, source)
    left_out = side.size - split.train.size - split.val.size - split.test.size
    if left_out:
        logger.info("%d samples are on no side by %s", left_out, source)
    return split


def _groups(ids: TextArray, values: pd.Series, column: str) -> TextArray:
    groups = _values_of(ids, values, column)
    missing = groups.index[groups.isna()]
    if len(missing):
        raise InputError(f"--group-column '{column}' is empty for samples {first_ids(missing)}: fill in or leave out")
    if groups.nunique() < 2:
        raise InputError(f"--group-column '{column}' has one group, '{groups.iloc[0]}': two or more can be divided")
    return groups.to_numpy(dtype=np.str_)


def _held_out(total: int, share: float, what: str) -> int:
    count = max(1, round(share * total))
    if count >= total:
        raise InputError(f"--test-size {share} of {total} {what} leaves none to train on: use less or add {what}")
    return count


def _first(names: TextArray, count: int, seed: int) -> BoolArray:
    """Mark the first names in the order of their hashes: bool [names]."""
    hashes = np.array([address_hash(seed, "split", name) for name in names.tolist()], dtype=np.uint64)
    first = np.zeros(names.size, dtype=np.bool_)
    first[np.argsort(hashes)[:count]] = True
    return first


def _draw_stratified(ids: TextArray, classes: TextArray, share: float, seed: int) -> BoolArray:
    """Hold out a share of every class, one sample at least."""
    held_out = np.zeros(ids.size, dtype=np.bool_)
    names, sizes = np.unique(classes, return_counts=True)
    _refuse_small(names[sizes < 2], "samples", ids, classes)
    for name, size in zip(names, sizes.tolist(), strict=True):
        rows = np.flatnonzero(classes == name)
        held_out[rows] = _first(ids[rows], min(max(1, round(share * size)), size - 1), seed)
    return held_out


def _draw_groups(
    ids: TextArray, groups: TextArray, classes: TextArray | None, config: SplitConfig, seed: int
) -> BoolArray:
    """Hold out a share of the groups; where there are classes, by the draw of many that divides them best."""
    names, members = np.unique(groups, return_inverse=True)
    count = _held_out(names.size, config.test_size, "groups")
    if classes is None:
        return _first(names, count, seed)[members]
    kinds, codes, totals = np.unique(classes, return_inverse=True, return_counts=True)
    in_groups = np.array([np.unique(members[codes == kind]).size for kind in range(kinds.size)])
    _refuse_small(kinds[in_groups < 2], "groups", ids, classes)

    def imbalance(held_out: BoolArray) -> tuple[int, float]:
        shares = np.bincount(codes[held_out], minlength=kinds.size) / totals
        one_sided = int(((shares == 0) | (shares == 1)).sum())
        return one_sided, float(np.square(shares - config.test_size).sum())

    orders = (generator(seed, "split", draw).permutation(names.size) for draw in range(GROUP_DRAWS))
    return min(((order < count)[members] for order in orders), key=imbalance)


def _refuse_small(small: TextArray, what: str, ids: TextArray, classes: TextArray) -> None:
    """Refuse classes that cannot be on both sides, naming their samples."""
    if small.size:
        samples = ids[np.isin(classes, small)]
        raise InputError(
            f"--stratify needs every class in at least two {what}; too small: {first_ids(small.tolist())} (samples "
            f"{first_ids(sorted(samples.tolist()))}): leave these out with --where, which lists the classes to keep"
        )

"""Which samples train the model and which validate it: drawn at random, by group or by class, or given by a column.

A drawn split is a function of the seed and of the set of sample ids: the order of rows in the table does not matter.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

from aam.config import SplitConfig
from aam.data.addressed import generator
from aam.data.metadata import categorical_column
from aam.errors import InputError, first_ids

logger = logging.getLogger(__name__)

HEADER = ["sample_id", "split"]
SIDES = {"train": "train", "val": "val", "validation": "val"}
# Group splits that compete when classes should be balanced too; the draw that balances them best is taken.
GROUP_DRAWS = 200

TextArray = NDArray[np.str_]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the two sides, each sorted; a sample may be on neither.

    Attributes:
        train: rows that train the model, int64.
        val: rows that validate it, int64.
    """

    train: IndexArray
    val: IndexArray


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
        strata: class of each sample, needed for ``stratify``.

    Raises:
        InputError: a column is missing or incomplete, a class or group is too small to divide, or a side is empty.
    """
    ids = np.asarray(sample_ids, dtype=np.str_)
    if config.split_column is not None:
        return _given_split(ids, _column(metadata, config.split_column, "--split-column"), config.split_column)
    if config.stratify and strata is None:
        raise InputError("--stratify divides the classes of --metadata-column: it needs a classifier")
    order = np.argsort(ids)
    random = np.random.RandomState(generator(seed, "split").bit_generator)  # scikit-learn takes no Generator
    classes = np.asarray(strata, dtype=np.str_)[order] if config.stratify else None
    if config.group_column is not None:
        groups = _groups(ids[order], _column(metadata, config.group_column, "--group-column"), config.group_column)
        train, val = _draw_groups(groups, classes, config, random)
    elif classes is not None:
        train, val = _draw_stratified(classes, config.test_size, random)
    else:
        held_out = _held_out(ids.size, config.test_size, "samples")
        train, val = next(ShuffleSplit(1, test_size=held_out, random_state=random).split(order))
    return Split(np.sort(order[train]), np.sort(order[val]))


def write_split(path: Path, split: Split, sample_ids: Sequence[str]) -> None:
    """Write the side of every sample that has one: a tab-separated table ``sample_id``, ``split`` (train or val)."""
    side = dict.fromkeys(split.train.tolist(), "train") | dict.fromkeys(split.val.tolist(), "val")
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
    wrong = [number for number, row in enumerate(rows, 2) if len(row) != 2 or row[1] not in ("train", "val")]
    if wrong:
        raise InputError(f"{path}: not a sample id and train or val in line {first_ids(wrong)}")
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
    unknown = words[~words.isin([*SIDES, "test", ""])]
    if len(unknown):
        raise InputError(
            f"column '{column}' should say train, val or test; it says {first_ids(sorted(set(unknown)))}"
            f" for samples {first_ids(unknown.index)}"
        )
    return _split_of_sides(words.map(SIDES).fillna("").to_numpy(dtype=np.str_), f"column '{column}'")


def _split_of_sides(side: TextArray, source: str) -> Split:
    split = Split(np.flatnonzero(side == "train"), np.flatnonzero(side == "val"))
    for name, rows in (("train", split.train), ("val", split.val)):
        if rows.size == 0:
            raise InputError(f"{source} gives no sample to '{name}': give each side at least one")
    left_out = side.size - split.train.size - split.val.size
    if left_out:
        logger.info("%d samples are in neither train nor val by %s", left_out, source)
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


def _refuse_small(counts: "pd.Series[int]", what: str) -> None:
    small = counts[counts < 2]
    if len(small):
        raise InputError(
            f"--stratify needs every class in at least two {what}; too small: {first_ids(sorted(small.index))}"
        )


def _draw_stratified(classes: TextArray, share: float, random: np.random.RandomState) -> tuple[IndexArray, IndexArray]:
    counts = pd.Series(classes).value_counts()
    _refuse_small(counts, "samples")
    held_out = _held_out(classes.size, share, "samples")
    if min(held_out, classes.size - held_out) < len(counts):
        raise InputError(
            f"--stratify: {held_out} of {classes.size} samples held out, but each side needs one of each of the"
            f" {len(counts)} classes: change --test-size"
        )
    train, val = next(StratifiedShuffleSplit(1, test_size=held_out, random_state=random).split(classes, classes))
    return train, val


def _draw_groups(
    groups: TextArray, classes: TextArray | None, config: SplitConfig, random: np.random.RandomState
) -> tuple[IndexArray, IndexArray]:
    held_out = _held_out(np.unique(groups).size, config.test_size, "groups")
    draws = 1 if classes is None else GROUP_DRAWS
    splits = GroupShuffleSplit(draws, test_size=held_out, random_state=random).split(groups, groups=groups)
    if classes is None:
        train, val = next(splits)
        return train, val
    _refuse_small(pd.DataFrame({"class": classes, "group": groups}).groupby("class")["group"].nunique(), "groups")
    names, codes = np.unique(classes, return_inverse=True)
    totals = np.bincount(codes)

    def imbalance(draw: tuple[IndexArray, IndexArray]) -> tuple[int, float]:
        shares = np.bincount(codes[draw[1]], minlength=names.size) / totals
        one_sided = int(((shares == 0) | (shares == 1)).sum())
        return one_sided, float(np.square(shares - config.test_size).sum())

    train, val = min(splits, key=imbalance)
    return train, val

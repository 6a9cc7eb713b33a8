"""Which samples train, which choose the checkpoint, which test it: drawn, by group or by class, or given by a column.

Samples, or groups of them, are taken in the order of a hash of seed and id: first for the test, then, of the rest, for
validation. So the order of the table does not matter, and most samples keep their side where others join or leave the
study. Where groups are to divide the classes evenly, the best of many draws is taken, which another group may change.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from aam.config import SplitConfig, TargetSplitConfig
from aam.data.arrays import Bools, Ints, Texts
from aam.data.files.metadata import categorical_column
from aam.data.sampling.seeded import derived_seed, generator
from aam.errors import InputError, first_ids

logger = logging.getLogger(__name__)

SIDES = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# Group splits that compete when classes should be balanced too; the draw that balances them best is taken.
GROUP_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the sides, each sorted; a sample may be on none.

    Attributes:
        train: rows that train the model, int64.
        val: rows that choose the checkpoint, int64.
        test: rows that neither train nor choose it, scored once at the end of `aam train`, int64.
    """

    train: Ints
    val: Ints
    test: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class Draw(NamedTuple):
    """How one side is drawn."""

    label: str
    """Sets the draw apart from others of the same seed."""
    fraction: float
    option: str
    seed: int


def split_samples(
    sample_ids: Sequence[str],
    metadata: pd.DataFrame | None,
    config: SplitConfig,
    seed: int,
    strata: Sequence[str] | None = None,
) -> Split:
    """Decide for every sample whether it trains, validates or tests.

    Args:
        sample_ids: distinct ids; the rows of the result count along them.
        metadata: sample metadata by id, needed for ``split_column`` and ``group_column``.
        config: the fractions, and the columns that constrain them.
        seed: seed of the draw.
        strata: class of each sample, where every side is to have the same fraction of every class. A class too small
            for that is refused if ``stratify`` was asked for; else its samples train, as far as groups allow.

    Raises:
        InputError: a column is missing or incomplete, a class or group is too small to divide, or a side is empty.
    """
    ids = np.asarray(sample_ids, dtype=np.str_)
    groups = None
    if config.group_column is not None:
        groups = _groups(ids, _column(metadata, config.group_column, "--group-column"), config.group_column)
    if config.split_column is not None:
        return _given_split(ids, _column(metadata, config.split_column, "--split-column"), config.split_column)
    classes = np.asarray(strata, dtype=np.str_) if strata is not None else None
    draws = _draws(config, seed)
    if classes is not None and isinstance(config, TargetSplitConfig) and config.stratify:
        _refuse_small_classes(ids, groups, classes, sides=1 + len(draws))
    left, sides = np.arange(ids.size), {"val": np.zeros(0, dtype=np.int64), "test": np.zeros(0, dtype=np.int64)}
    for name, draw in draws.items():
        drawn = _draw(
            ids[left], None if groups is None else groups[left], None if classes is None else classes[left], draw
        )
        sides[name], left = left[drawn], left[~drawn]
    return Split(left, sides["val"], sides["test"])


def _draws(config: SplitConfig, seed: int) -> dict[str, Draw]:
    """The sides besides training, in the order in which they are drawn."""
    draws = {}
    if isinstance(config, TargetSplitConfig) and config.test_fraction > 0:
        draws["test"] = Draw("test", config.test_fraction, "--test-fraction", seed)
    if config.val_fraction > 0:
        draws["val"] = Draw("split", config.val_fraction, "--val-fraction", seed)
    return draws


def _draw(ids: Texts, groups: Texts | None, classes: Texts | None, draw: Draw) -> Bools:
    """Draw one side of samples that are on none yet: bool [samples]."""
    if groups is not None:
        return _draw_groups(groups, classes, draw)
    if classes is not None:
        return _draw_stratified(ids, classes, draw)
    return _first(ids, _held_out(ids.size, draw, "samples"), draw)


def write_split(path: Path, split: Split, sample_ids: Sequence[str]) -> None:
    """Write the side of every sample that has one: a tab-separated table ``sample_id``, ``split``."""
    side = {row: name for name in ("train", "val", "test") for row in getattr(split, name).tolist()}
    rows = [(sample_ids[row], side[row]) for row in sorted(side)]
    pd.DataFrame(rows, columns=["sample_id", "split"]).to_csv(path, sep="\t", index=False)


def _column(metadata: pd.DataFrame | None, column: str, option: str) -> pd.Series:
    if metadata is None:
        raise InputError(f"{option} {column} is a column of the sample metadata: give --metadata too")
    return categorical_column(metadata, column)


def _values_of(ids: Texts, values: pd.Series, column: str) -> "pd.Series[str]":
    absent = [sample for sample in ids.tolist() if sample not in values.index]
    if absent:
        raise InputError(f"column '{column}': the metadata lack samples {first_ids(absent)}")
    return values.reindex(ids.tolist())


def _given_split(ids: Texts, values: pd.Series, column: str) -> Split:
    source = f"column '{column}'"
    words = _values_of(ids, values, column).fillna("").astype(str).str.strip().str.lower()
    unknown = words[~words.isin([*SIDES, ""])]
    if len(unknown):
        raise InputError(
            f"{source} should say train, val or test; it says {first_ids(sorted(set(unknown)))}"
            f" for samples {first_ids(unknown.index)}"
        )
    side = words.map(SIDES).fillna("").to_numpy(dtype=np.str_)
    split = Split(*(np.flatnonzero(side == name) for name in ("train", "val", "test")))
    for name, rows in (("train", split.train), ("val", split.val)):
        if rows.size == 0:
            raise InputError(f"{source} gives no sample to '{name}': give each side at least one")
    left_out = side.size - split.train.size - split.val.size - split.test.size
    if left_out:
        logger.info("%d samples are on no side by %s", left_out, source)
    return split


def _groups(ids: Texts, values: pd.Series, column: str) -> Texts:
    groups = _values_of(ids, values, column)
    missing = groups.index[groups.isna()]
    if len(missing):
        raise InputError(f"--group-column '{column}' is empty for samples {first_ids(missing)}: fill in or leave out")
    if groups.nunique() < 2:
        raise InputError(f"--group-column '{column}' has one group, '{groups.iloc[0]}': two or more can be divided")
    return groups.to_numpy(dtype=np.str_)


def _held_out(total: int, draw: Draw, what: str) -> int:
    count = max(1, round(draw.fraction * total))
    if count >= total:
        raise InputError(
            f"{draw.option} {draw.fraction} of {total} {what} leaves none to train on: use less or add {what}"
        )
    return count


def _first(names: Texts, count: int, draw: Draw) -> Bools:
    """Mark the first names in the order of their hashes: bool [names]."""
    hashes = np.array([derived_seed(draw.seed, draw.label, name) for name in names.tolist()], dtype=np.uint64)
    first = np.zeros(names.size, dtype=np.bool_)
    first[np.argsort(hashes)[:count]] = True
    return first


def _draw_stratified(ids: Texts, classes: Texts, draw: Draw) -> Bools:
    """Draw a fraction of every class, one sample at least where it has two."""
    drawn = np.zeros(ids.size, dtype=np.bool_)
    for name, size in zip(*np.unique(classes, return_counts=True), strict=True):
        rows = np.flatnonzero(classes == name)
        drawn[rows] = _first(ids[rows], min(max(1, round(draw.fraction * int(size))), int(size) - 1), draw)
    if not drawn.any():
        raise InputError(f"every class has one sample: none is left for {draw.option}; is this column one of classes?")
    return drawn


def _draw_groups(groups: Texts, classes: Texts | None, draw: Draw) -> Bools:
    """Draw a fraction of the groups; where there are classes, by the draw of many that divides them best."""
    names, members = np.unique(groups, return_inverse=True)
    count = _held_out(names.size, draw, "groups")
    if classes is None:
        return _first(names, count, draw)[members]
    kinds, codes, totals = np.unique(classes, return_inverse=True, return_counts=True)

    def imbalance(drawn: Bools) -> tuple[int, int, float]:
        fractions = np.bincount(codes[drawn], minlength=kinds.size) / totals
        return (
            int((fractions == 1).sum()),
            int((fractions == 0).sum()),
            float(np.square(fractions - draw.fraction).sum()),
        )

    orders = (generator(draw.seed, draw.label, number).permutation(names.size) for number in range(GROUP_DRAWS))
    return min(((order < count)[members] for order in orders), key=imbalance)


def _refuse_small_classes(ids: Texts, groups: Texts | None, classes: Texts, sides: int) -> None:
    """Refuse classes that cannot be on every side, naming their samples."""
    what, units = ("samples", ids) if groups is None else ("groups", groups)
    small = [name for name in np.unique(classes).tolist() if np.unique(units[classes == name]).size < sides]
    if small:
        number = {2: "two", 3: "three"}[sides]
        samples = sorted(ids[np.isin(classes, small)].tolist())
        raise InputError(
            f"--stratify needs every class in at least {number} {what}; too small: {first_ids(small)} (samples "
            f"{first_ids(samples)}): leave these out with --where, which lists the classes to keep"
        )

"""Which samples an evaluation holds out together.

Folds are those of scikit-learn's splitters over the samples in the order of their ids, so that the order of the table
changes nothing. Shapes: n samples of the study.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from aam.config.evaluate import FoldsConfig, Scheme
from aam.data.files.metadata import categorical_column
from aam.errors import InputError, first_ids

Rows = NDArray[np.int64]
TextArray = NDArray[np.str_]
SIDES = ("train", "test")
BY_SAMPLE = ("kfold", "stratified")
"""Schemes that know no groups."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the samples; rows are in the order of sample ids."""

    repeat: int
    """From 1."""
    number: int
    """From 1 within the repeat."""
    train: Rows
    held_out: Rows

    @property
    def name(self) -> str:
        """``REPEAT.FOLD``."""
        return f"{self.repeat}.{self.number}"

    def within(self, kept: NDArray[np.bool_]) -> "Fold":
        """The fold of some of the samples, counted among them, by whether each is one of them [n]."""
        place = np.cumsum(kept) - 1
        train, held_out = (place[rows[kept[rows]]] for rows in (self.train, self.held_out))
        return Fold(self.repeat, self.number, train, held_out)


@dataclass(frozen=True, eq=False)
class Samples:
    """What folds depend on, of each sample [n]."""

    ids: Sequence[str]
    classes: TextArray | None
    """None where numbers are predicted."""
    groups: TextArray | None

    @property
    def order(self) -> Rows:
        """Rows by sample id."""
        return np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), dtype=np.int64)


def group_values(metadata: pd.DataFrame, column: str, option: str) -> TextArray:
    """Values of a column that divides the samples, none of them missing [n].

    Raises:
        InputError: the column is not there, has missing values, or has one value alone.
    """
    values = categorical_column(metadata, column)
    missing = values.index[values.isna()]
    if len(missing):
        raise InputError(f"{option} '{column}' is empty for samples {first_ids(missing)}: fill in or leave out")
    if values.nunique() < 2:
        raise InputError(f"{option} '{column}' has one value, '{values.iloc[0]}': two or more can be divided")
    return values.to_numpy(dtype=np.str_)


def plan_folds(samples: Samples, metadata: pd.DataFrame, config: FoldsConfig, seed: int) -> list[Fold]:
    """Divide the samples as the options say.

    Args:
        samples: what is divided.
        metadata: a row for each sample, in their order.
        config: how.
        seed: of the draws; each repeat has its own.

    Raises:
        InputError: a column cannot be used, or there are too few groups or samples of a class.
    """
    if config.test_column is not None:
        folds = _by_side(samples, metadata, config.test_column)
    elif config.fold_column is not None:
        folds = _by_column(samples, metadata, config.fold_column)
    else:
        folds = draw_folds(samples, config.scheme(samples.classes is not None), config, seed)
    for fold in folds:
        check_classes(fold, samples)
    return folds


def draw_folds(samples: Samples, scheme: Scheme, config: FoldsConfig, seed: int) -> list[Fold]:
    """Draw folds by one of the schemes, in every repeat anew.

    Raises:
        InputError: there are too few groups or samples of a class.
    """
    _check_sizes(samples, scheme, config.folds)
    order = samples.order
    classes = None if samples.classes is None else samples.classes[order]
    groups = None if samples.groups is None else samples.groups[order]
    folds = []
    for repeat in range(1, config.rounds + 1):
        splitter = _splitter(scheme, config.folds, (seed + repeat) % 2**32)
        parts = splitter.split(np.zeros((len(order), 1)), classes, None if scheme in BY_SAMPLE else groups)
        folds += [Fold(repeat, number, order[train], order[test]) for number, (train, test) in enumerate(parts, 1)]
    return folds


def _splitter(scheme: Scheme, folds: int, state: int) -> Any:
    if scheme == "leave-one-group-out":
        return LeaveOneGroupOut()
    kinds = {
        "group": GroupKFold,
        "stratified-group": StratifiedGroupKFold,
        "kfold": KFold,
        "stratified": StratifiedKFold,
    }
    return kinds[scheme](folds, shuffle=True, random_state=state)


def _check_sizes(samples: Samples, scheme: Scheme, folds: int) -> None:
    """Refuse more folds than there are things to divide."""
    by_group = samples.groups is not None and scheme in ("group", "stratified-group")
    units = samples.groups if by_group and samples.groups is not None else np.array(samples.ids, dtype=np.str_)
    what = "groups" if by_group else "samples"
    count = len(np.unique(units))
    if scheme != "leave-one-group-out" and count < folds:
        raise InputError(f"--folds {folds}: there are {count} {what} to divide; give --folds {max(2, count)} or fewer")
    if scheme not in ("stratified", "stratified-group") or samples.classes is None:
        return
    small = {name: len(np.unique(units[samples.classes == name])) for name in np.unique(samples.classes)}
    small = {name: count for name, count in small.items() if count < folds}
    if small:
        least = min(small.values())
        fewer = f"give --folds {least}, or " if least >= 2 else ""
        named = first_ids(f"{name} ({count})" for name, count in small.items())
        raise InputError(
            f"--folds {folds}: every class should be in as many {what}, and these are in fewer: {named}; {fewer}leave "
            "them out with --where, which lists the classes to keep"
        )


def _by_column(samples: Samples, metadata: pd.DataFrame, column: str) -> list[Fold]:
    names = group_values(metadata, column, "--fold-column")
    _check_groups(samples, names, f"--fold-column '{column}'")
    order = samples.order
    held_out = [np.isin(order, np.flatnonzero(names == name)) for name in _in_order(names)]
    return [Fold(1, number, order[~out], order[out]) for number, out in enumerate(held_out, 1)]


def _in_order(names: TextArray) -> list[str]:
    """Distinct values, numbers by size."""
    distinct: list[str] = np.unique(names).tolist()
    if all(name.isdigit() for name in distinct):
        return sorted(distinct, key=int)
    return distinct


def _by_side(samples: Samples, metadata: pd.DataFrame, column: str) -> list[Fold]:
    values = categorical_column(metadata, column).fillna("").astype(str).str.strip().str.lower()
    unknown = values[~values.isin([*SIDES, ""])]
    if len(unknown):
        said = first_ids(sorted(set(unknown)))
        raise InputError(
            f"--test-column '{column}' should say train or test (or nothing: not used); it says {said} for samples "
            f"{first_ids(unknown.index)}"
        )
    side = values.to_numpy(dtype=np.str_)
    for name in SIDES:
        if not (side == name).any():
            raise InputError(f"--test-column '{column}' says {name} for no sample that has a value of the target")
    used = side != ""
    _check_groups(samples, side, f"--test-column '{column}'", used)
    order = samples.order
    return [Fold(1, 1, *(order[side[order] == name] for name in SIDES))]


def _check_groups(samples: Samples, side: TextArray, option: str, used: NDArray[np.bool_] | None = None) -> None:
    """Refuse a group that lies on several sides."""
    if samples.groups is None:
        return
    used = np.ones(len(side), dtype=bool) if used is None else used
    pairs = pd.DataFrame({"group": samples.groups[used], "side": side[used]}).drop_duplicates()
    split = sorted(pairs["group"][pairs["group"].duplicated()].unique())
    if split:
        raise InputError(
            f"{option} puts groups on several sides: {first_ids(split)}; keep each together, or drop --group-column"
        )


def check_classes(fold: Fold, samples: Samples) -> None:
    """Refuse a fold with a class that no training sample has."""
    if samples.classes is None:
        return
    unseen = sorted(set(samples.classes[fold.held_out]) - set(samples.classes[fold.train]))
    if unseen:
        raise InputError(
            f"fold {fold.name} holds out all samples of class {first_ids(unseen)}: a class must be in two groups or "
            "folds at least; leave it out with --where, which lists the classes to keep, or divide otherwise"
        )


def fold_table(folds: Sequence[Fold], samples: Samples) -> pd.DataFrame:
    """Which sample is held out where: columns sample_id, repeat, fold, group."""
    return pd.DataFrame(list(_held_out(folds, samples)), columns=["sample_id", "repeat", "fold", "group"])


def _held_out(folds: Sequence[Fold], samples: Samples) -> Iterator[tuple[str, int, int, str]]:
    for fold in folds:
        for row in fold.held_out.tolist():
            group = samples.ids[row] if samples.groups is None else str(samples.groups[row])
            yield samples.ids[row], fold.repeat, fold.number, group

"""The fitted folds of an evaluation, each with its held-out samples, asked side by side.

Shapes: n samples of the study, G groups, F folds of all repeats, R permutations, C classes (1 for a number).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aam.data.study import Study
from aam.evaluation.fold_fits import Variant, held_out_studies, of_rows, sendable
from aam.interpret.exchange import Columns
from aam.interpret.held_out import Effect, HeldOut
from aam.learners.base import Fitted, Floats, Rows

Reader = Callable[[Path], Fitted]
"""Reads what a learner has learned."""


@dataclass(frozen=True, eq=False)
class KeptFold:
    """Where the model of a fold is, and the samples that it has not seen."""

    name: str
    rows: Rows
    """Of the study: the held-out samples."""
    study: Study
    truth: "pd.Series[Any]"
    model: Path

    @classmethod
    def all_of(cls, variant: Variant, model_of: Callable[[str], Path]) -> list[Self]:
        """The folds of a variant; rarefied reads are those of the first draw.

        Args:
            variant: the samples and folds.
            model_of: checkpoint of a fold, by its name.
        """
        variant = sendable(variant, with_branches=False)
        (target,) = variant.labels.values.columns
        folds = []
        for fold in variant.folds:
            (_, drawn, *_), empty = held_out_studies(variant, fold)
            kept = np.flatnonzero(~empty)
            rows = fold.held_out[kept]
            truth = variant.labels.values[target].iloc[rows]
            folds.append(cls(fold.name, rows, of_rows(drawn, kept), truth, model_of(fold.name)))
        return folds

    def open(self, read: Reader) -> HeldOut:
        """Read the model."""
        fitted = read(self.model)
        return HeldOut(self.name, self.study, fitted.targets, fitted.solutions[0], self.truth)


class Baseline(NamedTuple):
    """What a fold's model does with its samples as they are."""

    loss: Floats
    """[m]."""
    classes: tuple[str, ...]


class Measured(NamedTuple):
    """What exchanging some ASVs did in all folds."""

    importance: float
    """Mean rise of the loss, as a fraction of the loss of a constant guess: by how much R2, or the Brier skill score
    of classes, falls."""
    sums: Floats
    """Sum of the rises of each group, mean of the repeats [G]."""
    by_fold: Floats
    """Importance in each fold [F]."""
    by_permutation: Floats
    """Importance in each fold, by permutation [F, R]."""
    slope: Floats
    """See `Effect` [F, C]."""


_OPEN: Final[dict[tuple[str, str], HeldOut]] = {}
"""Folds that this process has opened, by who asks and their name."""


def _effects(
    fold: KeptFold, read: Reader, asker: str, sets: Sequence[Columns], permutations: int, seed: int
) -> tuple[Baseline, list[Effect]]:
    """Ask one fold; what was opened for others is forgotten."""
    for key in [key for key in _OPEN if key[0] != asker]:
        del _OPEN[key]
    key = (asker, fold.name)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            if key not in _OPEN:
                _OPEN[key] = fold.open(read)
            opened = _OPEN[key]
            return Baseline(opened.base, opened.classes), opened.effects(sets, permutations, seed)
    finally:
        torch.set_num_threads(before)


@dataclass(eq=False)
class KeptFolds:
    """All folds of an evaluation, for one learner."""

    folds: Sequence[KeptFold]
    groups: NDArray[np.int64]
    """Number of the group of each sample of the study [n]."""
    read: Reader
    permutations: int
    seed: int
    jobs: int = 1
    _asker: str = field(default_factory=lambda: uuid4().hex)
    _known: dict[bytes, Measured] = field(default_factory=dict)
    _classes: tuple[str, ...] = ()

    @cached_property
    def repeats(self) -> int:
        """How often the samples are divided."""
        return len({fold.name.split(".")[0] for fold in self.folds})

    @cached_property
    def null(self) -> float:
        """Mean loss of a constant guess of the held-out samples: variance of numbers, Brier score of classes."""
        truth = pd.concat([fold.truth for fold in self.folds])
        truth = truth[~truth.index.duplicated()]
        if pd.api.types.is_numeric_dtype(truth):
            return float(truth.to_numpy(np.float64).var())
        return float(1 - np.square(truth.value_counts(normalize=True)).sum())

    def classes(self) -> list[str]:
        """All classes, sorted; none for a number."""
        return sorted(self._classes)

    def measure(self, sets: Sequence[Columns]) -> list[Measured]:
        """Exchange each of several sets of ASVs in all folds; what was measured before is not measured again."""
        keys = [columns.tobytes() for columns in sets]
        new = {key: columns for key, columns in zip(keys, sets, strict=True) if key not in self._known}
        if new:
            asked = self._ask(list(new.values()))
            for place, key in enumerate(new):
                self._known[key] = self._joined([(base, effects[place]) for base, effects in asked])
        return [self._known[key] for key in keys]

    def _ask(self, sets: Sequence[Columns]) -> list[tuple[Baseline, list[Effect]]]:
        calls = [
            delayed(_effects)(fold, self.read, self._asker, sets, self.permutations, self.seed) for fold in self.folds
        ]
        if min(self.jobs, len(calls)) <= 1:
            found = [function(*arguments, **options) for function, arguments, options in calls]
        else:
            with parallel_config("loky", inner_max_num_threads=1):
                found = Parallel(self.jobs)(calls)
        self._classes = tuple(sorted({name for base, _ in found for name in base.classes}))
        return found

    def close(self) -> None:
        """Forget what this process has opened."""
        for key in [key for key in _OPEN if key[0] == self._asker]:
            del _OPEN[key]

    def _joined(self, parts: Sequence[tuple[Baseline, Effect]]) -> Measured:
        sums = np.zeros(int(self.groups.max()) + 1)
        slopes = np.zeros((len(parts), max(1, len(self._classes))))
        for place, (fold, (base, effect)) in enumerate(zip(self.folds, parts, strict=True)):
            np.add.at(sums, self.groups[fold.rows], effect.rise / self.repeats)
            at = [self._classes.index(name) for name in base.classes] or [0]
            slopes[place, at] = effect.slope
        held = [len(fold.rows) for fold in self.folds]
        by_permutation = np.stack([effect.by_permutation for _, effect in parts]) / self.null
        by_fold = by_permutation.mean(axis=1)
        return Measured(float(np.average(by_fold, weights=held)), sums, by_fold, by_permutation, slopes)

"""What every learner is: a config that fits some samples of a study, and what then predicts others.

A learner sees one column of the metadata at a time, a `Problem`: numbers on the scale of ``--target-transform``, or the
places of classes. `Learner.fit` makes problems of the columns, each from the rows that have a value of it, and a
`Fitted` of their solutions. Everything that is learned from data is learned from the rows given to `fit`.

Shapes: n training samples, m samples to predict, T target columns, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import TargetConfig
from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.data.study import Study
from aam.learners.conformal import Conformity, spelled

Rows: TypeAlias = NDArray[np.int64]
"""Rows of the table of a study."""
Floats: TypeAlias = NDArray[np.float64]
Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Arrays by name, as a checkpoint keeps them."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What is to be predicted, and what is known of the samples of a study besides; a row for each."""

    values: pd.DataFrame
    """[samples, T] by sample id, in the order of the table; missing ones are NaN (numbers) or None (classes)."""
    config: TargetConfig
    groups: NDArray[np.str_] | None = None
    """Subject, site or study of each sample, which every inner choice respects; None: every sample is its own."""
    weight: Floats | None = None
    """How much each sample counts; None: all alike."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One column to learn from some samples."""

    study: Study
    rows: Rows
    """The training samples, in the order of their ids [n]."""
    y: Floats
    """Numbers on the learned scale, or places of classes [n]."""
    classes: int
    """How many there are; 0 where numbers are predicted. Some may have no sample here."""
    groups: Rows
    """Number of the group of each sample [n]."""
    weight: Floats
    """[n], with mean 1."""
    seed: int

    def take(self, index: NDArray[np.integer]) -> "Problem":
        """The problem of some of the samples, by their places here."""
        return replace(
            self, rows=self.rows[index], y=self.y[index], groups=self.groups[index], weight=self.weight[index]
        )

    @property
    def codes(self) -> Rows:
        """Place of each sample's class [n]."""
        return self.y.astype(np.int64)


class Output(NamedTuple):
    """Predictions of one column."""

    value: Floats
    """Numbers on the learned scale [m], or probabilities [m, C]."""
    spread: Floats | None = None
    """Standard deviation of the numbers [m], where the learner has one."""


class Solution(ABC):
    """One column as a learner has learned it."""

    left_out: Output | None = None
    """Predictions of the training samples, each from samples of other groups alone, where there are such [n]."""
    conformity: Conformity | None = None
    """How far off these are, of which intervals are made; see `aam.learners.unseen`."""

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata that new samples must have."""
        return ()

    def meet(self, study: Study) -> None:  # noqa: B027  # most read nothing that could be unusual
        """Say what is unusual about the metadata of new samples, once, before they are predicted.

        Raises:
            InputError: it lacks a column, or a value cannot be.
        """

    @property
    def reads_branches(self) -> bool:
        """Whether predictions depend on reads below branches of the tree."""
        return False

    @abstractmethod
    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict samples of a study whose ASVs and tree are those of the training study, column for column.

        More columns may follow, of ASVs that only the tree knows (`Reference.extended`). They are reads of a sample,
        also in its depth, and lie below branches; as ASVs they are no features.
        """

    @abstractmethod
    def arrays(self) -> Arrays:
        """What `restore` needs, as arrays."""

    def settings(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        return {}

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild the solution; it predicts the same to the last bit."""


class ComparedSolution(Solution):
    """A solution that is fitted to be compared with, and never kept."""

    def arrays(self) -> Arrays:
        """Nothing: it is fitted to be compared with, never to be kept."""
        raise NotImplementedError

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Not possible; see `arrays`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of all columns, on the learned scales; `table` gives them in the columns' own units."""

    targets: Targets
    outputs: tuple[Output, ...]
    """One for each column."""
    conformities: tuple[Conformity | None, ...] = ()
    """What intervals are made of, one for each column; empty where nobody asks for intervals."""

    def table(self, metadata: pd.DataFrame, level: float | None = None) -> pd.DataFrame:
        """Predictions by sample id, as `Targets.decode`, with a column ``spread`` (``spread_NAME``) where there is one.

        Args:
            metadata: a row for each sample, in their order.
            level: probability with which intervals (columns ``low`` and ``high``, or with ``_NAME``), or for classes
                sets (column ``set``), hold the true value of a sample of a new group. None: none are written.
        """
        decoded = self.targets.decode(np.concatenate([_scores(part.value) for part in self.outputs], axis=1), metadata)
        several = len(self.outputs) > 1
        for column, part in zip(self.targets.columns, self.outputs, strict=True):
            if part.spread is not None:
                name = f"spread_{column.name}" if several else "spread"
                decoded[name] = column.spread(part.value, part.spread, metadata)
        if level is not None:
            for column, part, conformity in zip(self.targets.columns, self.outputs, self.conformities, strict=True):
                end = f"_{column.name}" if several else ""
                if conformity is not None:
                    held = _intervals(column, part, conformity, level, metadata)
                    decoded = decoded.assign(**{f"{name}{end}": values for name, values in held.items()})
        return decoded


def _intervals(
    column: TargetColumn, part: Output, conformity: Conformity, level: float, metadata: pd.DataFrame
) -> dict[str, Any]:
    """The columns ``low`` and ``high``, or ``set``; empty (NaN, or no text) where there is no prediction."""
    if column.classes is None:
        low, high = column.around(part.value, conformity.reach(part.spread, level), metadata)
        return {"low": low, "high": high}
    names = column.classes.classes
    order = np.argsort(-part.value, axis=1, kind="stable")
    held = np.take_along_axis(conformity.classes(part.value, level), order, axis=1)
    return {"set": [spelled([names[place] for place in row[inside]]) for row, inside in zip(order, held, strict=True)]}


def _scores(value: Floats) -> Floats:
    """What `Targets.decode` takes: numbers as they are, probabilities as logarithms [m, K]."""
    if value.ndim == 1:
        return value[:, None]
    with np.errstate(divide="ignore"):  # a class without a training sample has probability 0
        return np.log(value)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a learner has learned."""

    learner: str
    targets: Targets
    solutions: tuple[Solution, ...]
    """One for each column."""

    def predict(self, study: Study, rows: Rows) -> Predictions:
        """Predict samples of a study with the ASVs and the tree of the training study."""
        outputs = tuple(solution.predict(study, rows) for solution in self.solutions)
        return Predictions(self.targets, outputs, tuple(solution.conformity for solution in self.solutions))


class Learner(ABC):
    """A way to learn, with its options."""

    name: ClassVar[str]
    needs_tree: ClassVar[bool] = False
    refits: ClassVar[bool] = False
    """Whether it is cheap enough to be fitted again, without some groups each time, where intervals are asked for."""

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """Learn one column.

        Raises:
            InputError: the column cannot be learned this way.
        """

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata that are learned from."""
        return ()

    def check(self, study: Study) -> None:  # noqa: B027  # most learn from what every study has
        """Look at what is learned from besides reads, before any work.

        Raises:
            InputError: a column is not there, or cannot be used.
        """

    def frugal(self) -> "Learner":
        """The same learner, cheaper where that hardly changes its predictions: for folds within folds."""
        return self

    def fit(self, study: Study, rows: Rows, labels: Labels, seed: int) -> Fitted:
        """Learn the columns from some samples of a study.

        Args:
            study: the study; nothing is learned from its other samples.
            rows: the training samples; their order does not matter.
            labels: what is to be predicted.
            seed: of every draw.

        Raises:
            InputError: a column has no values to learn, or cannot be learned this way.
        """
        targets, problems = pose(study, rows, labels, seed)
        return Fitted(self.name, targets, tuple(self.solve(problem) for problem in problems))


def pose(study: Study, rows: Rows, labels: Labels, seed: int) -> tuple[Targets, list[Problem]]:
    """Make a problem of every column, from the samples that have a value of it.

    Raises:
        InputError: a column has no values, one value alone, or values that the transform does not take.
    """
    ids = study.table.sample_ids
    rows = np.array(sorted(rows.tolist(), key=ids.__getitem__), dtype=np.int64)
    metadata = study.metadata if study.metadata is not None else pd.DataFrame(index=list(ids))
    targets = Targets.fit(labels.values, metadata, rows, labels.config)
    encoded = targets.encode(labels.values.iloc[rows], metadata)
    problems = []
    for column, y in zip(targets.columns, encoded.T, strict=True):
        known = np.flatnonzero(~np.isnan(y))
        at = rows[known]
        weight = np.ones(len(at)) if labels.weight is None else labels.weight[at]
        groups = np.arange(len(at)) if labels.groups is None else np.unique(labels.groups[at], return_inverse=True)[1]
        classes = 0 if column.classes is None else column.outputs
        problems.append(Problem(study, at, y[known], classes, groups, weight / weight.mean(), seed))
    return targets, problems


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """The same arrays, their names below a prefix: ``PREFIX/NAME``."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def below(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names lie below a prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}

"""The two that every comparison holds: a prediction without samples, and one from sequencing depth alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from aam.data.study import Study
from aam.learners.base import Arrays, Floats, Learner, Output, Problem, Rows, Solution
from aam.learners.trees import Forest, TreesOf, forest_of

DEPTH_TREES = 100
DEPTH_LEAF = 5


@dataclass(eq=False)
class NullSolution(Solution):
    """The same prediction for every sample."""

    value: Floats
    """[] or [C]."""

    def predict(self, study: Study, rows: Rows) -> Output:
        """Repeat it: [m] or [m, C]."""
        return Output(np.broadcast_to(self.value, (len(rows), *self.value.shape)).copy())

    def arrays(self) -> Arrays:
        """The prediction."""
        return {"value": np.atleast_1d(self.value)}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild."""
        value = arrays["value"]
        return cls(value if settings["classes"] else value[0])

    def settings(self) -> dict[str, Any]:
        """Whether there are classes."""
        return {"classes": self.value.ndim == 1}


@dataclass(frozen=True)
class NullLearner(Learner):
    """The median, or the frequencies of the classes."""

    name: ClassVar[str] = "null"
    refits: ClassVar[bool] = True

    def solve(self, problem: Problem) -> NullSolution:
        """Take the weighted median of the numbers, or the weighted fraction of each class."""
        if problem.classes:
            frequencies = np.bincount(problem.codes, problem.weight, problem.classes)
            return NullSolution(frequencies / frequencies.sum())
        order = np.argsort(problem.y, kind="stable")
        below = np.cumsum(problem.weight[order])
        y, half = problem.y[order], below[-1] / 2
        low, high = np.searchsorted(below, half * (1 - 1e-12)), np.searchsorted(below, half * (1 + 1e-12))
        return NullSolution(np.array((y[low] + y[min(high, len(y) - 1)]) / 2))


@dataclass(eq=False)
class DepthSolution(Solution):
    """A small forest on the logarithm of the sequencing depth."""

    forest: Forest

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict from the depth alone."""
        return Output(self.forest.predict(log_depth(study, rows)))

    def arrays(self) -> Arrays:
        """The trees."""
        return self.forest.arrays()

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild."""
        return cls(Forest.restore(arrays))


@dataclass(frozen=True)
class DepthLearner(Learner):
    """What sequencing depth alone tells: where it predicts the target, the target is confounded with it."""

    name: ClassVar[str] = "depth"
    refits: ClassVar[bool] = True

    def solve(self, problem: Problem) -> DepthSolution:
        """Fit a small forest."""
        kind = TreesOf(DEPTH_TREES, min_samples_leaf=DEPTH_LEAF)
        return DepthSolution(forest_of(kind, log_depth(problem.study, problem.rows), problem))


def log_depth(study: Study, rows: Rows) -> Floats:
    """Natural logarithm of the reads of each sample [m, 1]."""
    depth: Floats = np.log(study.table.depth[rows].astype(np.float64))
    return depth[:, None]

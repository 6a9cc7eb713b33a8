"""What the kernel learner has learned: reads of a basis of samples, and what is multiplied with kernels between them.

The mean is linear in the kernels between a sample and those of the basis, and the variance is quadratic in them,
whether the basis is all training samples or landmarks.

Shapes: b samples of the basis, m samples to predict, C columns that are learned with the same weights: one of numbers,
or an indicator of every class that has samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from aam.data.distances.unifrac import StudyTree
from aam.data.study import Study
from aam.learners.base import Arrays, Floats, Output, Rows, Solution
from aam.learners.class_scores import ClassScores
from aam.learners.kernels import Basis
from aam.learners.left_out import Weights

_BLOCK = 1000
"""Samples that are predicted at a time."""


class Regression(NamedTuple):
    """Mean and variance of any sample by its kernels with the basis, in units of the target's standard deviation."""

    alpha: Floats
    """[b, C]."""
    offset: Floats
    """[C]."""
    square: Floats
    """Symmetric [b, b]."""
    line: Floats
    """[b]."""
    level: float

    @classmethod
    def of(cls, alpha: Floats, offset: Floats, square: Floats, line: Floats, level: float) -> "Regression":
        """Lay the arrays out as they are once stored, since the last bits of products depend on it."""
        alpha, offset, square, line = (np.array(part, order="C") for part in (alpha, offset, square, line))
        return cls(alpha, offset, square, line, level)

    def mean(self, cross: Floats) -> Floats:
        """Mean [m, C] by kernels [m, b]."""
        return cross @ self.alpha + self.offset

    def variance(self, cross: Floats, own: Floats) -> Floats:
        """Variance without noise [m] by kernels with the basis [m, b] and of the samples with themselves [m]."""
        known = ((cross @ self.square) * cross).sum(axis=1)
        variance: Floats = np.maximum(own - known + 2 * (cross @ self.line) + self.level, 0.0)
        return variance


@dataclass(eq=False)
class KernelSolution(Solution):
    """One column, as the kernel learner has learned it."""

    basis: Basis
    weights: Weights
    unit: float
    """Standard deviation of the target."""
    regression: Regression
    scores: ClassScores | None = None
    """How indicators become probabilities, where classes are learned."""
    left_out: Output | None = None

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Solution`."""
        return tuple(dict.fromkeys(name for one in self.basis.described for name in one.metadata_columns))

    def meet(self, study: Study) -> None:
        """See `Solution`."""
        for one in self.basis.described:
            one.meet(study)

    @property
    def reads_branches(self) -> bool:
        """Whether one of its kernels does."""
        return self.basis.reads_branches

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict samples, a block at a time.

        Raises:
            InputError: the study lacks a column of the metadata.
        """
        starts = range(0, max(1, len(rows)), _BLOCK)
        parts = [self._block(study, rows[start : start + _BLOCK]) for start in starts]
        value = np.concatenate([part.value for part in parts])
        spreads = [part.spread for part in parts if part.spread is not None]
        return Output(value, np.concatenate(spreads) if spreads else None)

    def _block(self, study: Study, rows: Rows) -> Output:
        basis = self.basis_in(study.tree)
        cross, own = basis.weighted(basis.view(study, rows), self.weights.kernels)
        value = self.regression.mean(cross) * self.unit
        if self.scores is not None:
            return Output(self.scores.probabilities(value))
        variance = self.regression.variance(cross, own) + self.weights.noise
        return Output(value[:, 0], np.sqrt(variance) * self.unit)

    def basis_in(self, tree: StudyTree | None) -> Basis:
        """The basis with its features, which are computed once; a restored solution meets its tree here."""
        if self.basis.samples.tree is not tree:
            self.basis = self.basis.in_tree(tree)
        return self.basis

    def arrays(self) -> Arrays:
        """Reads of the basis and what is multiplied with kernels; of symmetric matrices one half."""
        regression, scores = self.regression, self.scores
        arrays = self.basis.arrays() | {"alpha": regression.alpha, "offset": regression.offset}
        arrays["weights"] = self.weights.kernels
        if scores is not None:
            return arrays | {"present": scores.present, "prior": scores.prior}
        half = regression.square[np.tril_indices(len(regression.square))]
        return arrays | {"square": half, "line": regression.line}

    def settings(self) -> dict[str, Any]:
        """Names of the kernels, what is known besides reads, and single numbers."""
        return {
            **self.basis.settings(),
            "noise": self.weights.noise,
            "unit": self.unit,
            "level": self.regression.level,
            "classes": None if self.scores is None else [self.scores.temperature, self.scores.classes],
        }

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild the solution, without the predictions of its training samples."""
        basis = Basis.restore(settings, arrays)
        classes = settings["classes"]
        scores = None if classes is None else ClassScores(arrays["present"], arrays["prior"], *classes)
        square = np.empty((0, 0)) if scores is not None else _whole(arrays["square"], len(arrays["alpha"]))
        line = np.empty(0) if scores is not None else arrays["line"]
        regression = Regression.of(arrays["alpha"], arrays["offset"], square, line, settings["level"])
        return cls(basis, Weights(arrays["weights"], settings["noise"]), settings["unit"], regression, scores)


def _whole(half: Floats, size: int) -> Floats:
    """A symmetric matrix of its lower half, row by row."""
    square = np.empty((size, size))
    row, column = np.tril_indices(size)
    square[row, column] = half
    square[column, row] = half
    return square

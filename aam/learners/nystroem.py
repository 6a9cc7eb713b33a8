"""Kernel regression on landmarks: samples are compared with some of them, in time and memory linear in their number.

The features of a sample are L^-1 k, with k its kernels with the landmarks and L L^T those of the landmarks with each
other, and a constant for the free mean. What landmarks do not explain of a sample, k(x, x) - |L^-1 k|^2, is noise of
its own: without it the values of landmarks would be bent to fit what others have by themselves, and landmarks that are
left out would be predicted badly (measured: R2 of left-out groups -2 instead of .5 where kernels are narrow). With z
the features of all samples, p the inverses of their noise and S the inverse of z^T p z + 1 (0 for the constant), the
hat matrix is z S z^T p, and the error of group b, left out, is (I - H_bb)^-1 r_b: as in `left_out` with
Q_bb = p - p z_b S z_b^T p and Q y = p r.

Sources: Williams and Seeger 2001, Using the Nystroem method to speed up kernel machines; Snelson and Ghahramani 2006,
Sparse Gaussian processes using pseudo-inputs; Quinonero-Candela and Rasmussen 2005, A unifying view of sparse
approximate Gaussian process regression.

Shapes: n training samples, m of a block, b landmarks, D = b + 1 features, C columns.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from aam.learners.base import Floats, Rows
from aam.learners.kernel_solution import Regression
from aam.learners.left_out import blocks_of, left_out

Kernels: TypeAlias = Callable[[Rows], tuple[Floats, Floats]]
"""Of samples, by their places, with the landmarks [m, b] and with themselves [m]."""
Features: TypeAlias = Callable[[Rows], tuple[Floats, Floats]]
"""Of samples, by their places [m, D], and the inverses of their noise [m]."""

_BLOCK = 1000
"""Samples whose kernels are in memory at a time."""
_JITTER = 1e-6
"""Fraction of the mean variance of landmarks that is added to each, as some may be copies of others."""


class Data(NamedTuple):
    """What is learned."""

    y: Floats
    """In units of its standard deviation [n, C]."""
    weight: Floats
    """How much each sample counts [n]."""
    groups: Rows
    """Group of each sample; there are two at least [n]."""

    def of(self, places: Rows) -> "Data":
        """Of some samples."""
        return Data(self.y[places], self.weight[places], self.groups[places])


class Errors(NamedTuple):
    """Predictions of the training samples, each from other groups alone."""

    error: Floats
    """Truth minus prediction [n, C]."""
    variance: Floats
    """With the noise of the sample [n]."""


class _Ridge(NamedTuple):
    """A ridge regression on features."""

    inverse: Floats
    """[D, D]."""
    beta: Floats
    """[D, C]."""


def by_landmarks(kernels: Kernels, inner: Floats, data: Data, noise: float) -> tuple[Regression, Errors]:
    """Learn from all samples by their kernels with landmarks.

    Args:
        kernels: of samples with the landmarks.
        inner: of the landmarks with each other [b, b].
        data: what is learned.
        noise: variance of a sample of weight 1.
    """
    root = np.linalg.cholesky(inner + np.eye(len(inner)) * _JITTER * np.diagonal(inner).mean())

    def features(places: Rows) -> tuple[Floats, Floats]:
        cross, own = kernels(places)
        scaled = solve_triangular(root, cross.T, lower=True).T
        unexplained = np.maximum(own - (scaled**2).sum(axis=1), 0.0)
        return np.c_[scaled, np.ones(len(scaled))], 1 / (noise / data.weight[places] + unexplained)

    sums = _sums(features, data, np.arange(len(data.y)))
    ridge = _ridge(*sums)
    errors = Errors(np.empty_like(data.y), np.empty(len(data.y)))
    for places in _batches(data.groups):
        if len(places) <= _BLOCK:
            parts = _few_left_out(*features(places), ridge, data.of(places))
            errors.error[places], errors.variance[places] = parts
            continue
        less = _sums(features, data, places)
        without = _ridge(sums[0] - less[0], sums[1] - less[1])
        for block in _cut(places):
            z, precision = features(block)
            errors.error[block] = data.y[block] - z @ without.beta
            errors.variance[block] = 1 / precision + ((z @ without.inverse) * z).sum(axis=1)
    return _regression(root, ridge), errors


def _sums(features: Features, data: Data, places: Rows) -> tuple[Floats, Floats]:
    """z^T p z [D, D] and z^T p y [D, C] of some samples."""
    square, line = np.zeros(()), np.zeros(())
    for block in _cut(places):
        z, precision = features(block)
        weighted = z.T * precision
        square, line = square + weighted @ z, line + weighted @ data.y[block]
    return square, line


def _ridge(square: Floats, line: Floats) -> _Ridge:
    """Solve for the features, all but the constant with prior variance 1."""
    size = len(square)
    factor = cho_factor(square + np.diag(np.r_[np.ones(size - 1), 0.0]), lower=True)
    inverse = cho_solve(factor, np.eye(size))
    return _Ridge((inverse + inverse.T) / 2, cho_solve(factor, line))


def _few_left_out(z: Floats, precision: Floats, ridge: _Ridge, data: Data) -> tuple[Floats, Floats]:
    """Errors and variances of whole groups in closed form."""
    weighted = z * precision[:, None]
    q = np.diag(precision) - weighted @ ridge.inverse @ weighted.T
    residual = data.y - z @ ridge.beta
    return left_out(q, precision[:, None] * residual, blocks_of(data.groups))


def _regression(root: Floats, ridge: _Ridge) -> Regression:
    """Mean and variance in terms of kernels instead of features."""

    def back(columns: Floats) -> Floats:
        result: Floats = solve_triangular(root, columns, lower=True, trans="T")
        return result

    square = back(back(np.eye(len(root)) - ridge.inverse[:-1, :-1]).T)
    level = float(ridge.inverse[-1, -1])
    line = back(ridge.inverse[:-1, -1])
    return Regression.of(back(ridge.beta[:-1]), ridge.beta[-1], (square + square.T) / 2, line, level)


def _batches(groups: Rows) -> Iterator[Rows]:
    """Places of whole groups, up to `_BLOCK` samples together; a group that is larger comes by itself."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    start = 0
    bounds = np.r_[ends, len(order)].tolist()
    for end, following in zip(bounds, [*bounds[1:], np.inf], strict=True):
        if following - start > _BLOCK:
            yield order[start:end]
            start = end


def _cut(places: Rows) -> list[Rows]:
    return [places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK)]

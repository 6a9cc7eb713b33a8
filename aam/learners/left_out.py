"""Predictions of groups of samples from all others in closed form, and weights of kernels that make them good.

With K the covariance of the samples, noise included, A = K^-1 and Q = A - A 1 1^T A / (1^T A 1), which has a free mean:
from all samples outside of group b, its own have the predictive mean y_b - (Q_bb)^-1 (Q y)_b and the covariance
(Q_bb)^-1. So one factorisation gives the predictions of all groups. The weights of the kernels are those for which the
sum over samples of the logarithms of the marginal predictive densities is largest: chosen for new groups, not for new
samples of known ones, as the marginal likelihood would.

Sources: Dubrule 1983, Cross validation of kriging in a unique neighborhood; Rasmussen and Williams 2006, Gaussian
processes for machine learning, 5.4.2; Sundararajan and Keerthi 2001, Predictive approaches for choosing
hyperparameters.

Shapes: n samples, C columns that are learned with the same weights, k kernels, g groups of s samples each.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from aam.learners.base import Floats

Blocks: TypeAlias = Sequence[NDArray[np.int64]]
"""Places of the samples of groups, those of one size together: [g, s] each."""

_SPREAD = 3.0
"""Standard deviation of the prior of the logarithms of weights."""
_EXPLAINED, _NOISE = 0.7, 0.3
"""Fraction of the variance that kernels (together) and noise have before data are seen."""
_BOUNDS, _NOISE_BOUNDS = (-12.0, 5.0), (-7.0, 3.0)


class Weights(NamedTuple):
    """Variances, in units of that of the target."""

    kernels: Floats
    """[k]."""
    noise: float
    """Of a sample of weight 1."""


class Projected(NamedTuple):
    """The inverse of a covariance where the mean is free."""

    q: Floats
    """Q [n, n]."""
    pull: Floats
    """A 1 / (1^T A 1): the weights of samples in the estimate of the mean [n]."""
    uncertainty: float
    """Variance of that estimate."""


def blocks_of(groups: NDArray[np.int64]) -> Blocks:
    """Places of the samples of every group."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    start = np.cumsum(sizes) - sizes
    return [order[start[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def project(covariance: Floats) -> Projected:
    """Invert a covariance with a free mean.

    Raises:
        LinAlgError: the covariance is not positive definite.
    """
    factor, broken = lapack.dpotrf(covariance, lower=1, overwrite_a=0)
    if broken:
        raise np.linalg.LinAlgError("the covariance of the samples is not positive definite")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse)
    inverse += np.tril(inverse, -1).T
    towards = inverse.sum(axis=1)
    total = float(towards.sum())
    halved = towards / np.sqrt(total)  # so that Q is symmetric to the last bit
    return Projected(inverse - np.outer(halved, halved), towards / total, 1 / total)


def left_out(q: Floats, projected_y: Floats, blocks: Blocks) -> tuple[Floats, Floats]:
    """Errors of the predictions of every sample from other groups alone [n, C], and their variances, with noise [n].

    Args:
        q: the projected inverse [n, n].
        projected_y: Q y [n, C].
        blocks: the groups.
    """
    error, variance = np.empty_like(projected_y), np.empty(len(q))
    for block in blocks:
        inverse = _inverse(q, block)
        error[block] = inverse @ projected_y[block]
        variance[block] = np.diagonal(inverse, axis1=1, axis2=2)
    return error, variance


def _inverse(q: Floats, block: NDArray[np.int64]) -> Floats:
    """(Q_bb)^-1 of groups of one size [g, s, s]."""
    inside = q[block[:, :, None], block[:, None, :]]
    return 1 / inside if block.shape[1] == 1 else np.asarray(np.linalg.inv(inside), np.float64)


def loss_and_slope(covariance: Floats, y: Floats, counts: Floats, blocks: Blocks) -> tuple[float, Floats]:
    """Negative log density of left-out samples, and its gradient to the covariance [n, n].

    As dQ = -Q dK Q, and the errors are e = V u with V = (Q_bb)^-1 and u = Q y, the gradient is
    Q M Q - sym(Q g u^T), where g = V h, M_bb = V diag(a) V + sym(g_b e_b^T), and a and h are the gradients to diag(V)
    and to e.

    Args:
        covariance: of the samples with noise [n, n].
        y: what they are [n, C].
        counts: how much each sample counts [n].
        blocks: the groups.
    """
    q = project(covariance).q
    u = q @ y
    columns = y.shape[1]
    error, variance = left_out(q, u, blocks)
    squares = (error**2).sum(axis=1)
    loss = 0.5 * float(counts @ (columns * np.log(2 * np.pi * variance) + squares / variance))
    a = 0.5 * counts * (columns / variance - squares / variance**2)
    h = counts[:, None] * error / variance[:, None]
    g, middle = np.empty_like(u), np.empty_like(q)
    for block in blocks:
        inverse = _inverse(q, block)
        g[block] = inverse @ h[block]
        outer = g[block] @ error[block].swapaxes(1, 2)
        inside = (inverse * a[block][:, None, :]) @ inverse + (outer + outer.swapaxes(1, 2)) / 2
        middle[block.ravel()] = (inside @ q[block]).reshape(block.size, -1)
    across = (q @ g) @ u.T
    return loss, q @ middle - (across + across.T) / 2


def choose_weights(stack: Floats, y: Floats, sample_weight: Floats, blocks: Blocks, steps: int) -> Weights:
    """Choose the weights of kernels and of the noise for groups that are left out, by L-BFGS-B on their logarithms.

    Args:
        stack: kernels between the samples [k, n, n].
        y: what they are, in units of its standard deviation [n, C].
        sample_weight: how much each sample counts [n]; its noise has the variance of the noise over it.
        blocks: the groups.
        steps: most iterations.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  # takes long, and what is fitted predicts without

    size = len(stack)
    if len(y) < 2:  # nothing can be left out
        return Weights(np.full(size, _EXPLAINED / size), _NOISE)
    start = np.log(np.r_[np.full(size, _EXPLAINED / size), _NOISE])

    def objective(logs: Floats) -> tuple[float, Floats]:
        loss, slope = _objective(np.exp(logs), stack, y, sample_weight, blocks)
        away = (logs - start) / _SPREAD
        return loss + 0.5 * float(away @ away), slope * np.exp(logs) + away / _SPREAD

    bounds = [_BOUNDS] * size + [_NOISE_BOUNDS]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    best = np.exp(found.x)
    return Weights(best[:-1], float(best[-1]))


def covariance_of(stack: Floats, weights: Weights, sample_weight: Floats) -> Floats:
    """Covariance of samples with noise [n, n], of kernels [k, n, n]."""
    covariance: Floats = np.tensordot(weights.kernels, stack, axes=1)
    covariance[np.diag_indices(len(covariance))] += weights.noise / sample_weight
    return covariance


def _objective(values: Floats, stack: Floats, y: Floats, sample_weight: Floats, blocks: Blocks) -> tuple[float, Floats]:
    """Loss, and its gradient to the weights of kernels and noise."""
    covariance = covariance_of(stack, Weights(values[:-1], float(values[-1])), sample_weight)
    loss, slope = loss_and_slope(covariance, y, sample_weight, blocks)
    kernels = stack.reshape(len(stack), -1) @ slope.ravel()
    return loss, np.r_[kernels, np.diagonal(slope) @ (1 / sample_weight)]

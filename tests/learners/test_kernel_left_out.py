"""Closed forms against learning again without the group, and gradients against differences."""

import numpy as np
import pytest

from aam.learners import nystroem
from aam.learners.kernel import Aim, exact, known_groups
from aam.learners.left_out import (
    Weights,
    _objective,
    blocks_of,
    choose_weights,
    covariance_of,
    loss_and_slope,
    project,
)
from aam.learners.nystroem import Data, by_landmarks

GROUPS = np.array([3, 0, 0, 1, 2, 2, 2, 1, 4, 5, 5, 6, 6, 6, 7, 8, 0, 3, 9, 10])


def random_stack(seed: int, kernels: int = 3, size: int = 20) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(kernels, size, 6))
    squared = ((x[:, :, None] - x[:, None]) ** 2).sum(axis=3)
    return np.exp(-squared / np.array([2.0, 8.0, 30.0])[:kernels, None, None])


def random_data(seed: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(20, columns)), random.uniform(0.5, 2, 20)


@pytest.mark.parametrize("columns", [1, 3])
def test_the_exact_way_equals_learning_without_the_group(columns):
    y, weight = random_data(0, columns)
    kernel = np.tensordot([0.5, 0.3, 0.2], random_stack(0), axes=1)
    aim = Aim(y, weight, 1.0, np.empty(0, np.int64))
    _, errors = exact(kernel + np.diag(0.2 / weight), aim, GROUPS)
    for group in np.unique(GROUPS):
        inside, rest = np.flatnonzero(group == GROUPS), np.flatnonzero(group != GROUPS)
        less = Aim(y[rest], weight[rest], 1.0, np.empty(0, np.int64))
        again, _ = exact(kernel[np.ix_(rest, rest)] + np.diag(0.2 / weight[rest]), less, GROUPS[rest])
        cross, own = kernel[np.ix_(inside, rest)], np.diagonal(kernel)[inside]
        np.testing.assert_allclose(y[inside] - errors.error[inside], again.mean(cross), rtol=0, atol=1e-8)
        expected = again.variance(cross, own) + 0.2 / weight[inside]
        np.testing.assert_allclose(errors.variance[inside], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("block", [2, 5, 1000])
@pytest.mark.parametrize("columns", [1, 3])
def test_landmarks_equal_learning_without_the_group(monkeypatch, block, columns):
    monkeypatch.setattr(nystroem, "_BLOCK", block)
    y, weight = random_data(1, columns)
    kernel = np.tensordot([0.5, 0.3, 0.2], random_stack(1), axes=1)
    marks = np.arange(0, 20, 2)
    inner = kernel[np.ix_(marks, marks)]

    def of(rows):
        return lambda places: (kernel[np.ix_(rows[places], marks)], np.diagonal(kernel)[rows[places]])

    _, errors = by_landmarks(of(np.arange(20)), inner, Data(y, weight, GROUPS), 0.2)
    for group in np.unique(GROUPS):
        inside, rest = np.flatnonzero(group == GROUPS), np.flatnonzero(group != GROUPS)
        again, _ = by_landmarks(of(rest), inner, Data(y[rest], weight[rest], GROUPS[rest]), 0.2)
        cross, own = of(inside)(np.arange(len(inside)))
        np.testing.assert_allclose(y[inside] - errors.error[inside], again.mean(cross), rtol=0, atol=1e-8)
        expected = again.variance(cross, own) + 0.2 / weight[inside]
        np.testing.assert_allclose(errors.variance[inside], expected, rtol=0, atol=1e-8)


def test_landmarks_that_are_all_samples_are_the_exact_way(monkeypatch):
    monkeypatch.setattr(nystroem, "_JITTER", 0.0)
    y, weight = random_data(2, 2)
    kernel = np.tensordot([0.5, 0.3, 0.2], random_stack(2), axes=1)
    aim = Aim(y, weight, 1.0, np.empty(0, np.int64))
    regression, errors = exact(kernel + np.diag(0.2 / weight), aim, GROUPS)
    close, others = by_landmarks(
        lambda places: (kernel[places], np.diagonal(kernel)[places]), kernel, Data(y, weight, GROUPS), 0.2
    )
    np.testing.assert_allclose(others.error, errors.error, rtol=0, atol=1e-8)
    np.testing.assert_allclose(others.variance, errors.variance, rtol=0, atol=1e-8)
    np.testing.assert_allclose(close.mean(kernel[:5]), regression.mean(kernel[:5]), rtol=0, atol=1e-8)
    own = np.diagonal(kernel)[:5]
    np.testing.assert_allclose(close.variance(kernel[:5], own), regression.variance(kernel[:5], own), rtol=0, atol=1e-8)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("groups", [GROUPS, np.arange(20), np.repeat([0, 1], 10)])
def test_the_gradient(columns, groups):
    y, weight = random_data(3, columns)
    stack, blocks = random_stack(3), blocks_of(groups)
    values = np.array([0.4, 0.2, 0.7, 0.3])
    _, slope = _objective(values, stack, y, weight, blocks)
    for number, step in enumerate(np.eye(4) * 1e-5):
        above, below = (_objective(values + sign * step, stack, y, weight, blocks)[0] for sign in (1, -1))
        assert slope[number] == pytest.approx((above - below) / 2e-5, rel=1e-5)


def test_the_loss_is_that_of_normal_densities():
    y, weight = random_data(4, 1)
    covariance = covariance_of(random_stack(4), Weights(np.full(3, 0.3), 0.2), weight)
    aim = Aim(y, weight, 1.0, np.empty(0, np.int64))
    _, errors = exact(covariance, aim, GROUPS)
    density = -0.5 * (np.log(2 * np.pi * errors.variance) + errors.error[:, 0] ** 2 / errors.variance)
    loss, slope = loss_and_slope(covariance, y, weight, blocks_of(GROUPS))
    assert loss == pytest.approx(-weight @ density)
    assert np.allclose(slope, slope.T)


def test_the_kernel_that_tells_of_new_groups_is_chosen():
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(12), 5)
    x, own, effect = random.normal(size=(60, 1)), random.normal(size=(60, 1)), random.normal(size=(12, 1))
    y = x + effect[groups] + 0.1 * random.normal(size=(60, 1))
    features = [x, effect[groups] + np.arange(12)[groups][:, None] * 10, own]
    stack = np.stack([np.exp(-((f - f.T) ** 2)) for f in features])
    y, blocks = y / y.std(), blocks_of(groups)
    weights = choose_weights(stack, y, np.ones(60), blocks, 60)
    assert weights.kernels[0] > 10 * weights.kernels[2]
    best = np.r_[weights.kernels, weights.noise]
    even = np.array([0.3, 0.3, 0.3, 0.3])
    assert _objective(best, stack, y, np.ones(60), blocks)[0] < _objective(even, stack, y, np.ones(60), blocks)[0]


def test_blocks_hold_every_sample_once():
    blocks = blocks_of(GROUPS)
    assert sorted(np.concatenate([block.ravel() for block in blocks])) == list(range(20))
    for block in blocks:
        assert (GROUPS[block] == GROUPS[block][:, :1]).all()
    assert known_groups(np.zeros(3, np.int64)).tolist() == [0, 1, 2]


def test_a_covariance_that_is_none():
    with pytest.raises(np.linalg.LinAlgError):
        project(-np.eye(3))

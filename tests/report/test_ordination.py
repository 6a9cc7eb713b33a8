"""Principal coordinates, and how well two sets of distances agree."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from aam.report.ordination import agreement, ordinate


@pytest.fixture
def points():
    return np.random.default_rng(5).normal(size=(40, 2))


def test_distances_in_a_plane_are_given_back(points):
    matrix = squareform(pdist(points))
    found = ordinate(matrix)
    assert found is not None
    assert squareform(pdist(found.points)) == pytest.approx(matrix, abs=1e-8)
    assert sum(found.explained) == pytest.approx(1)


def test_samples_that_do_not_differ_in_two_ways_have_no_ordination():
    assert ordinate(np.zeros((5, 5))) is None
    assert ordinate(squareform(pdist([[0.0], [1.0]]))) is None


def test_agreement_is_full_for_the_same_distances_and_none_for_others(points):
    true = squareform(pdist(points))
    turned = squareform(pdist(points @ np.array([[0.6, -0.8], [0.8, 0.6]])))
    same = agreement(true, turned, ordinate(true), ordinate(turned), seed=1)
    assert same.mantel == pytest.approx(1)
    assert same.procrustes == pytest.approx(1)
    assert same.mantel_p == same.procrustes_p == 0.001
    others = squareform(pdist(np.random.default_rng(6).normal(size=(40, 2))))
    other = agreement(true, others, ordinate(true), ordinate(others), seed=1)
    assert abs(other.mantel) < 0.3
    assert min(other.mantel_p, other.procrustes_p) > 0.01
    assert agreement(true, others, ordinate(true), ordinate(others), seed=1) == other

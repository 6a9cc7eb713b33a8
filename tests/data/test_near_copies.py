"""Replicates are found among thousands, and nothing else."""

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from aam.config import SimulateConfig
from aam.data.files.tables import FeatureTable
from aam.data.leakage.group_evidence import bray_curtis, jaccard
from aam.data.leakage.near_copies import CLOSE, CLOSE_SETS, _candidates, near_copies
from aam.data.simulation.study import simulate_study
from aam.data.study import Study

ALONE = -1


def study_of(counts):
    letters = np.array(list("ACGT"))
    sequences = tuple("".join(letters[(asv >> np.arange(0, 16, 2)) & 3]) for asv in range(counts.shape[1]))
    counts = csr_array(counts)
    return Study(FeatureTable(counts, tuple(f"s{i:04}" for i in range(counts.shape[0])), sequences, sequences))


@pytest.fixture(scope="module")
def counts():
    return simulate_study(SimulateConfig(directory="unused", samples=300, depth=4000)).table.counts


@pytest.fixture(scope="module")
def with_replicates(counts):
    """The last 20 samples are read again, at half and at double the depth."""
    random, dense = np.random.default_rng(0), counts[np.arange(280, 300)].toarray()
    depth = dense.sum(axis=1) * np.where(np.arange(20) % 2, 2, 0.5)
    again = [random.multinomial(int(reads), row / row.sum()) for reads, row in zip(depth, dense, strict=True)]
    return study_of(vstack([counts, csr_array(np.stack(again))], format="csr"))


def pairs(found):
    return set(map(tuple, found.pairs.tolist()))


def test_replicates_are_found_and_subjects_are_not(with_replicates):
    found = near_copies(with_replicates, np.full(320, ALONE), 0)
    assert pairs(found) == {(280 + i, 300 + i) for i in range(20)}
    assert not found.is_cut


def test_pairs_of_one_side_are_left_out(with_replicates):
    sides = np.r_[np.zeros(290, np.int64), np.ones(30, np.int64)]
    found = pairs(near_copies(with_replicates, sides, 0))
    assert found == {(280 + i, 300 + i) for i in range(10)}


@pytest.mark.parametrize("seed", range(3))
def test_the_projection_loses_none(with_replicates, seed):
    """All pairs that are compared exactly, with limits wide enough for many pairs."""
    table = with_replicates.table.counts
    far = bray_curtis(table), jaccard(table)
    upper = [values[np.triu_indices(320, 1)] for values in far]
    close = (far[0] <= CLOSE * np.median(upper[0])) & (far[1] <= CLOSE_SETS * np.median(upper[1]))
    expected = set(zip(*np.nonzero(np.triu(close, 1)), strict=True))
    assert pairs(near_copies(with_replicates, np.full(320, ALONE), seed)) == expected


def test_too_many_candidates_are_cut_to_the_closest(monkeypatch):
    monkeypatch.setattr("aam.data.leakage.near_copies.MOST_CANDIDATES", 50)
    monkeypatch.setattr("aam.data.leakage.near_copies.ROWS", 7)
    points = np.sort(np.random.default_rng(0).random((40, 1)), axis=0) ** 2
    found, is_cut = _candidates(points, np.full(40, ALONE), 9.0)
    gaps = np.square(points - points.T)[np.triu_indices(40, 1)]
    assert is_cut
    assert sorted(np.square(points[a, 0] - points[b, 0]) for a, b in found) == pytest.approx(np.sort(gaps)[:50])


def test_equal_samples_only():
    """Where all samples are the same, every pair is a copy."""
    found = near_copies(study_of(np.ones((10, 5), dtype=np.int64)), np.full(10, ALONE), 0)
    assert len(found.pairs) == 45

"""Exchanging reads of some ASVs among samples keeps totals sensible."""

import numpy as np
import pytest
from scipy import sparse

from aam.interpret.exchange import Exchange

COUNTS = np.array([[50, 50, 100, 0], [0, 0, 30, 70], [10, 0, 10, 0], [400, 0, 0, 0]])


def exchange(counts, columns, donors):
    return Exchange.of(sparse.csr_array(np.asarray(counts))).exchange(np.array(columns), np.array(donors))


def test_a_sample_gets_the_fraction_of_its_donor_and_keeps_depth_and_the_rest():
    done = exchange(COUNTS, [0, 1], [2, 0, 1, 3])
    assert done.rows.tolist() == [0, 1, 2]
    assert done.before == pytest.approx([0.5, 0.0, 0.5])
    assert done.after == pytest.approx([0.5, 0.5, 0.0])
    assert done.counts.toarray().tolist() == [[100, 0, 100, 0], [25, 25, 15, 35], [0, 0, 20, 0]]


def test_all_asvs_exchanged_are_the_donor_at_the_own_depth():
    done = exchange(COUNTS, [0, 1, 2, 3], [1, 0, 3, 2])
    assert done.counts.toarray().tolist() == [[0, 0, 60, 140], [25, 25, 50, 0], [20, 0, 0, 0], [200, 0, 200, 0]]


def test_what_was_there_stays_with_a_read():
    done = exchange([[1, 999], [1, 1], [500, 500]], [0], [1, 0, 0])
    assert done.counts.toarray().tolist() == [[500, 500], [1, 2], [1, 999]]


def test_no_sample_is_left_without_reads():
    done = exchange([[10, 0], [0, 10]], [0], [1, 0])
    assert done.rows.tolist() == [1]
    assert done.counts.toarray().tolist() == [[10, 0]]


def test_what_does_not_change_is_not_given_back():
    done = exchange(COUNTS, [3], [0, 1, 3, 2])
    assert done.rows.tolist() == []
    assert done.counts.shape == (0, 4)


def test_proportions_of_the_others_stay(tmp_path):
    random = np.random.default_rng(0)
    counts = random.poisson(200, (20, 30))
    inside = np.arange(10)
    donors = random.permutation(20)
    done = exchange(counts, inside, donors)
    rest = done.counts.toarray()[:, 10:]
    before = counts[done.rows, 10:]
    assert rest / rest.sum(1, keepdims=True) == pytest.approx(before / before.sum(1, keepdims=True), abs=0.003)
    assert done.counts.sum(axis=1) == pytest.approx(counts[done.rows].sum(axis=1), rel=0.01)

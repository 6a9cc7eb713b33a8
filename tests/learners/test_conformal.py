"""Intervals from predictions of left-out groups: quantiles, coverage for exchangeable groups, words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from aam.learners.conformal import Conformity, assumption, fewest_groups, listed, spelled

NAMES = st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1), min_size=1, max_size=5)


def test_single_samples_give_the_quantile_of_split_conformal_prediction():
    """The ceil((n + 1) level)-th smallest of n scores."""
    score = np.random.default_rng(0).permutation(19) + 1.0
    alone = Conformity(score, np.arange(19))
    assert [alone.distance(level) for level in (0.05, 0.5, 0.9, 0.95)] == [1, 10, 18, 19]
    assert alone.distance(0.96) == np.inf


def test_a_large_group_weighs_no_more_than_a_small_one():
    """Nine groups of one sample off by 1 and one of a thousand off by 5: ten groups, eleven with the new one."""
    score = np.r_[np.ones(9), np.full(1000, 5.0)]
    group = np.r_[np.arange(9), np.full(1000, 9)]
    assert Conformity(score, group).distance(0.8) == 1
    assert Conformity(score, group).distance(0.9) == 5
    assert Conformity(score, np.arange(1009)).distance(0.8) == 5


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_an_interval_is_infinite_below_the_fewest_groups(level):
    fewest = fewest_groups(level)
    assert fewest == {0.5: 1, 0.8: 4, 0.9: 9, 0.95: 19, 0.99: 99}[level]
    enough, few = (Conformity(np.ones(2 * n), np.repeat(np.arange(n), 2)) for n in (fewest, fewest - 1))
    assert enough.distance(level) == 1
    assert few.distance(level) == np.inf


def test_nothing_left_out_gives_an_infinite_interval():
    assert Conformity(np.empty(0), np.empty(0, np.int64)).distance(0.1) == np.inf


@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0, 100)), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_a_higher_level_never_gives_a_narrower_interval_and_order_does_not_matter(samples, one, other):
    group, score = (np.array(part) for part in zip(*samples, strict=True))
    conformity = Conformity(score.astype(float), group)
    assert conformity.distance(min(one, other)) <= conformity.distance(max(one, other))
    turned = Conformity(score[::-1].astype(float), group[::-1] + 3)
    assert turned.distance(one) == pytest.approx(conformity.distance(one), abs=0)


def test_intervals_cover_samples_of_new_groups_as_promised():
    """Groups with effects and sizes of their own, of which size and effect go together: coverage is at least the level.

    Quantiles over samples cover less: they take the many samples of few groups for independent ones.
    """
    rng = np.random.default_rng(1)
    level, groups, trials = 0.9, 20, 3000
    held = {"groups": 0, "samples": 0}
    for _ in range(trials):
        size = rng.integers(1, 30, groups + 1)
        code = np.repeat(np.arange(groups + 1), size)
        noise = np.abs(rng.normal(0, 2 / np.sqrt(size))[code] + rng.normal(0, 0.3, len(code)))
        new = rng.choice(np.flatnonzero(code == groups))
        known = code < groups
        held["groups"] += noise[new] <= Conformity(noise[known], code[known]).distance(level)
        held["samples"] += noise[new] <= Conformity(noise[known], np.arange(known.sum())).distance(level)
    least, most = binom.ppf([0.001, 0.999], trials, level) / trials
    assert held["groups"] / trials >= least
    assert held["groups"] / trials <= most + 1 / (groups + 1)
    assert held["samples"] / trials < least


def test_sets_of_classes_cover_and_are_never_empty():
    rng = np.random.default_rng(2)
    held = sizes = 0
    for _ in range(1000):
        probability = rng.dirichlet(np.full(4, 0.4), 31)
        code = np.array([rng.choice(4, p=p) for p in probability])
        conformity = Conformity.of(probability[:30], None, code[:30], np.arange(30))
        inside = conformity.classes(probability[30:], 0.8)[0]
        held, sizes = held + inside[code[30]], sizes + inside.sum()
        assert inside[probability[30].argmax()]
    assert binom.ppf(0.001, 1000, 0.8) <= held
    assert sizes / 1000 < 3


def test_scores_of_numbers_are_in_units_of_a_spread_where_there_is_one():
    left_out, y, spread = np.array([1.0, 2.0]), np.array([2.0, 5.0]), np.array([0.5, 3.0])
    plain = Conformity.of(left_out, None, y, np.arange(2))
    scaled = Conformity.of(left_out, spread, y, np.arange(2))
    np.testing.assert_array_equal(plain.score, [1, 3])
    np.testing.assert_array_equal(scaled.score, [2, 1])
    assert plain.reach(np.array([7.0]), 0.5) == 3
    np.testing.assert_array_equal(scaled.reach(np.array([7.0, 1.0]), 0.5), [14, 2])


def test_what_is_restored_gives_the_same_interval():
    whole = Conformity.of(np.arange(5.0), np.full(5, 0.3), np.arange(5.0) ** 2, np.array([0, 0, 1, 2, 2]))
    again = Conformity.restore(whole.arrays())
    assert again.scaled
    assert [again.distance(level) for level in (0.1, 0.5, 0.7)] == [whole.distance(level) for level in (0.1, 0.5, 0.7)]


@given(NAMES)
def test_names_of_a_set_can_be_told_apart_again(names):
    assert listed(spelled(names)) == names


def test_the_assumption_is_said_in_words():
    few = Conformity(np.ones(4), np.array([0, 0, 1, 1]))
    assert assumption(few, 0.9, "subject", False) == (
        "2 groups of the training (subject) are too few for probability 0.9, which takes 9: every interval is infinite"
    )
    many = Conformity(np.ones(20), np.arange(20))
    assert assumption(many, 0.9, None, True) == (
        "sets hold the true value with probability 0.9 if a new sample is drawn like the 20 training samples "
        "(exchangeable); made of predictions for left-out ones"
    )

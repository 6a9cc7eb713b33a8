"""Scores and their intervals: those of all draws at once are those of scikit-learn, draw by draw."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aam.data.sampling.seeded import generator
from aam.evaluation.intervals import GroupBootstrap
from aam.evaluation.scores import draw_classes, draw_numbers, score_classes, score_numbers
from aam.learners.calibration import LEAST

GROUPS = np.array([f"g{number:02d}" for number in np.random.default_rng(0).integers(0, 15, 80)])
CLASSES = ("a", "b", "c")


def drawn_rows(boot: GroupBootstrap, draw: int) -> np.ndarray:
    """The samples of a draw, a sample as often as its group was drawn."""
    return np.repeat(np.arange(len(boot.code)), boot.times[draw, boot.code].astype(int))


def test_scores_of_numbers_in_every_draw_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    true = rng.normal(1000, 2, 80)
    predicted = true + rng.normal(0, 1, 80)
    boot = GroupBootstrap.of(GROUPS, seed=3, draws=40)
    drawn = draw_numbers(true, predicted, boot)
    for draw in range(40):
        rows = drawn_rows(boot, draw)
        for metric, value in score_numbers(true[rows], predicted[rows]).items():
            assert drawn[metric][draw] == pytest.approx(value, abs=1e-9), metric


@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_classes_in_every_draw_are_those_of_scikit_learn(ties):
    rng = np.random.default_rng(2)
    true = rng.integers(0, 3, 80)
    probability = rng.dirichlet(np.ones(3), 80) + np.eye(3)[true] * 0.3
    probability /= probability.sum(axis=1, keepdims=True)
    if ties:
        probability = np.round(probability, 1) + 1e-3
    boot = GroupBootstrap.of(GROUPS, seed=3, draws=40)
    drawn = draw_classes(true, probability, CLASSES, boot)
    for draw in range(40):
        rows = drawn_rows(boot, draw)
        for metric, value in score_classes(true[rows], probability[rows], CLASSES).items():
            assert drawn[metric][draw] == pytest.approx(value, abs=1e-9), metric


def test_a_class_that_a_draw_lacks_does_not_count_in_it():
    true = np.array([0, 0, 1, 1])
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    boot = GroupBootstrap(np.array([0, 0, 1, 1]), np.array([[2.0, 0.0], [1.0, 1.0]]))
    drawn = draw_classes(true, probability, ("a", "b"), boot)
    np.testing.assert_allclose(drawn["balanced_accuracy"], [1.0, 0.75])
    assert np.isnan(drawn["recall_b"][0])
    assert np.isnan(drawn["auroc"][0])


def test_a_constant_prediction_has_no_correlation():
    scores = score_numbers(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0))
    assert np.isnan(scores["pearson"])
    assert scores["r2"] == 0


def test_draws_and_scores_do_not_depend_on_how_many_are_in_memory():
    """Of 8,000 samples or groups not all 2,000 draws fit into a block."""
    rng = np.random.default_rng(5)
    names = np.array([f"g{number:04d}" for number in range(8000)])
    many = GroupBootstrap.of(names, seed=2)
    at_once = generator(2, "bootstrap").multinomial(8000, np.full(8000, 1 / 8000), size=len(many.times))
    np.testing.assert_array_equal(many.times, at_once)
    values = rng.normal(size=(8000, 2))
    np.testing.assert_allclose(many.sums(values), at_once @ values, atol=1e-9)
    true, score = rng.integers(0, 2, 8000), np.round(rng.random(8000), 2)
    few = GroupBootstrap.of(np.array([f"g{number % 60}" for number in range(8000)]), seed=2)
    tracemalloc.start()
    areas = draw_classes(true, np.stack([1 - score, score], axis=1), ("a", "b"), few)["auroc"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8000 * 2000 * 8, "less than one matrix of all draws and samples"
    for draw in (0, 249, 250, 1999):  # 250 draws are a block
        expected = roc_auc_score(true, score, sample_weight=few.times[draw, few.code])
        assert areas[draw] == pytest.approx(expected, abs=1e-9)


def test_a_draw_is_of_whole_groups():
    boot = GroupBootstrap.of(GROUPS, seed=0, draws=500)
    assert boot.groups == 15
    assert (boot.times.sum(axis=1) == 15).all()
    np.testing.assert_allclose(boot.times.mean(axis=0), 1, atol=0.2)
    again = GroupBootstrap.of(GROUPS, seed=0, draws=500)
    np.testing.assert_array_equal(boot.times, again.times)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Groups share an error; an interval over samples would be far too short."""
    rng = np.random.default_rng(5)
    names = np.repeat([f"g{number:02d}" for number in range(30)], 10)
    covered = []
    for trial in range(200):
        error = np.repeat(rng.normal(1, 1, 30), 10) + rng.normal(0, 0.1, 300)
        boot = GroupBootstrap.of(names, seed=trial, draws=400)
        low, high = boot.interval(boot.sums(error) / boot.sums(np.ones(300)))
        covered.append(low <= 1 <= high)
    assert 0.88 <= np.mean(covered) <= 0.98


def test_below_ten_groups_there_is_no_interval():
    names = np.repeat([f"g{number}" for number in range(9)], 5)
    boot = GroupBootstrap.of(names, seed=0, draws=100)
    assert np.isnan(boot.interval(boot.sums(np.ones(45)))).all()


def test_one_vote_of_no_tree_does_not_decide_the_log_loss():
    true = np.array([0, 1])
    probability = np.array([[1.0, 0.0], [1.0, 0.0]])
    boot = GroupBootstrap(np.array([0, 1]), np.ones((1, 2)))
    expected = -np.log(LEAST) / 2
    assert score_classes(true, probability, ("a", "b"))["log_loss"] == pytest.approx(expected)
    assert draw_classes(true, probability, ("a", "b"), boot)["log_loss"] == pytest.approx([expected])

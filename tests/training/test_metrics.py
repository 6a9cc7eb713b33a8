import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from aam.training.metrics import (
    ClassificationMetrics,
    DistanceMetrics,
    PairedMoments,
    QuantileMetrics,
    RegressionMetrics,
)


def pairs(count: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    true = draw.normal(size=count) + offset
    return true * 0.7 + draw.normal(scale=0.4, size=count) + offset * 0.3, true


def cuts(count: int, pieces: int) -> list[slice]:
    edges = np.linspace(0, count, pieces + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(edges)]


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("pieces", [1, 3, 500])
def test_distance_metrics_are_those_of_all_pairs_at_once(offset: float, pieces: int) -> None:
    predicted, true = pairs(500, offset)
    metrics = DistanceMetrics()
    for cut in cuts(500, pieces):
        metrics.update(torch.from_numpy(predicted[cut]), torch.from_numpy(true[cut]))
    assert metrics.compute() == pytest.approx(
        {
            "pearson": stats.pearsonr(predicted, true).statistic,
            "r2": reference.r2_score(true, predicted),
            "mae": reference.mean_absolute_error(true, predicted),
            "pred_std": predicted.std(),
            "true_std": true.std(),
            "std_ratio": predicted.std() / true.std(),
        },
        rel=1e-9,
    )


def test_regression_metrics_match_scikit_learn() -> None:
    predicted, true = pairs(101)
    metrics = RegressionMetrics()
    for cut in cuts(101, 4):
        metrics.update(torch.from_numpy(predicted[cut])[:, None], torch.from_numpy(true[cut])[:, None])
    assert metrics.compute() == pytest.approx(
        {
            "r2": reference.r2_score(true, predicted),
            "mae": reference.mean_absolute_error(true, predicted),
            "rmse": math.sqrt(reference.mean_squared_error(true, predicted)),
            "pearson": stats.pearsonr(predicted, true).statistic,
        },
        rel=1e-12,
    )


def test_a_global_metric_is_not_the_mean_of_batches() -> None:
    predicted, true = torch.tensor([0.0, 1.0, 5.0, 6.0]), torch.tensor([1.0, 0.0, 6.0, 5.0])
    metrics = DistanceMetrics()
    metrics.update(predicted[:2], true[:2])
    metrics.update(predicted[2:], true[2:])
    pearson = metrics.compute()["pearson"]
    assert pearson is not None
    assert pearson > 0.9  # each batch alone has -1


def test_single_precision_is_summed_in_double() -> None:
    predicted = torch.full((4096, 256), 0.9) + torch.linspace(0, 1e-3, 4096 * 256).view(4096, 256)
    true = predicted.flip(1)
    metrics = DistanceMetrics()
    for row in range(0, 4096, 512):
        metrics.update(predicted[row : row + 512], true[row : row + 512])
    expected = stats.pearsonr(predicted.double().flatten(), true.double().flatten()).statistic
    assert metrics.compute()["pearson"] == pytest.approx(expected, rel=1e-10)


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2), min_size=1, max_size=20), st.integers(0, 20))
def test_moments_add_in_any_order(values: list[tuple[float, float]], cut: int) -> None:
    data = torch.tensor(values, dtype=torch.float64)
    first, second = (PairedMoments.of(part[:, 0], part[:, 1]) for part in (data[:cut], data[cut:]))
    whole = PairedMoments.of(data[:, 0], data[:, 1])
    for merged in (first + second, second + first):
        assert vars(merged) == pytest.approx(vars(whole), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_a_constant_truth_leaves_metrics_undefined(constant: float) -> None:
    metrics = DistanceMetrics()
    for count in (3, 7):
        metrics.update(torch.arange(float(count)), torch.full((count,), constant, dtype=torch.float64))
    values = metrics.compute()
    assert values["pearson"] is values["r2"] is values["std_ratio"] is None
    assert values["mae"] is not None


def test_collapsed_predictions_have_no_correlation_and_no_spread() -> None:
    metrics = DistanceMetrics()
    metrics.update(torch.full((6,), 0.7), torch.arange(6.0))
    values = metrics.compute()
    assert values["pearson"] is None
    assert values["std_ratio"] == values["pred_std"] == 0
    assert values["r2"] is not None


def test_nothing_seen_is_undefined() -> None:
    empty = torch.zeros(0)
    distance = DistanceMetrics()
    distance.update(empty, empty)
    for metrics in (distance, RegressionMetrics(), QuantileMetrics((0.5,)), ClassificationMetrics(3)):
        assert set(metrics.compute().values()) == {None}


def test_shapes_that_differ_are_a_defect() -> None:
    with pytest.raises(ValueError, match="truth is"):
        DistanceMetrics().update(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="expected"):
        ClassificationMetrics(3).update(torch.zeros(4, 2), torch.zeros(4))


def classes(count: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(11)
    true = draw.choice(kinds, count, p=np.arange(1, kinds + 1) / (kinds * (kinds + 1) / 2))
    logits = draw.normal(size=(count, kinds)) + 1.5 * np.eye(kinds)[true]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), true


@pytest.mark.parametrize("kinds", [2, 4])
def test_classification_metrics_match_scikit_learn(kinds: int) -> None:
    probabilities, true = classes(300, kinds)
    metrics = ClassificationMetrics(kinds)
    for cut in cuts(300, 7):
        metrics.update(torch.from_numpy(probabilities[cut]), torch.from_numpy(true[cut]))
    predicted = probabilities.argmax(axis=1)
    one_hot = np.eye(kinds)[true]
    assert metrics.compute() == pytest.approx(
        {
            "accuracy": reference.accuracy_score(true, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(true, predicted),
            "macro_f1": reference.f1_score(true, predicted, average="macro"),
            "log_loss": reference.log_loss(true, probabilities),
            "auroc": reference.roc_auc_score(one_hot, probabilities, average="macro"),
        },
        rel=1e-12,
    )


def test_tied_probabilities_count_half_for_auroc() -> None:
    true = classes(200, 3)[1]
    probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])[np.arange(200) % 3]
    metrics = ClassificationMetrics(3)
    metrics.update(torch.from_numpy(probabilities), torch.from_numpy(true))
    assert metrics.compute()["auroc"] == pytest.approx(reference.roc_auc_score(np.eye(3)[true], probabilities))


def test_a_class_without_samples_is_no_part_of_the_means() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64)
    metrics = ClassificationMetrics(3)
    metrics.update(probabilities, torch.tensor([0, 1, 1]))
    values = metrics.compute()
    assert values["balanced_accuracy"] == pytest.approx(0.75)
    assert values["macro_f1"] == pytest.approx(2 / 3)
    assert values["auroc"] == 1.0


def test_one_class_only_has_no_auroc() -> None:
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    values = metrics.compute()
    assert values["auroc"] is None
    assert values["accuracy"] == 0.5


def test_a_certain_error_costs_a_finite_log_loss() -> None:
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    log_loss = metrics.compute()["log_loss"]
    assert log_loss is not None
    assert 30 < log_loss < 40


@pytest.mark.parametrize("kind", [DistanceMetrics, RegressionMetrics])
def test_every_metric_of_numbers_has_a_direction(kind) -> None:
    metrics = kind()
    metrics.update(torch.tensor([0.1, 0.5, 0.4]), torch.tensor([0.2, 0.4, 0.6]))
    assert set(metrics.compute()) == set(kind.better)
    rising = {name for name, rises in kind.better.items() if rises}
    assert rising == {"r2", "pearson"}
    assert kind.better["mae"] is False


def test_every_metric_of_classes_has_a_direction() -> None:
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.tensor([1, 0]))
    assert set(metrics.compute()) == set(ClassificationMetrics.better)
    assert {name for name, rises in ClassificationMetrics.better.items() if not rises} == {"log_loss"}


def test_every_metric_of_quantiles_has_a_direction() -> None:
    metrics = QuantileMetrics((0.1, 0.9))
    metrics.update(torch.tensor([[1.0, 2.0]]), torch.tensor([1.5]))
    assert set(metrics.compute()) == set(QuantileMetrics.better)
    assert QuantileMetrics.better == {"pinball": False, "coverage": None}


def test_quantile_metrics_match_plain_loops() -> None:
    shares = (0.1, 0.5, 0.9)
    draw = np.random.default_rng(4)
    true, quantiles = draw.normal(size=50), np.sort(draw.normal(size=(50, 3)), axis=1)
    metrics = QuantileMetrics(shares)
    for cut in cuts(50, 4):
        metrics.update(torch.from_numpy(quantiles[cut]), torch.from_numpy(true[cut]))
    pinball = [reference.mean_pinball_loss(true, quantiles[:, i], alpha=share) for i, share in enumerate(shares)]
    inside = [low <= value <= high for value, (low, _, high) in zip(true, quantiles, strict=True)]
    assert 0 < np.mean(inside) < 1
    assert metrics.compute() == pytest.approx({"pinball": np.mean(pinball), "coverage": np.mean(inside)}, rel=1e-12)


def test_a_value_on_an_outer_quantile_is_covered() -> None:
    metrics = QuantileMetrics((0.1, 0.9))
    metrics.update(torch.tensor([[1.0, 2.0]] * 4), torch.tensor([1.0, 2.0, 0.5, 2.5]))
    assert metrics.compute()["coverage"] == 0.5

"""Scores of out-of-fold predictions: those of the study, by scikit-learn, and those of all bootstrap draws at once.

Shapes: n samples, C classes, D draws.
"""

import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from aam.evaluation.intervals import Floats, GroupBootstrap
from aam.learners.calibration import LEAST

Scores = dict[str, float]
Codes = NDArray[np.int64]
LOWER_IS_BETTER: Final = frozenset({"mae", "rmse", "log_loss"})
MAIN_NUMBER: Final = "r2"
MAIN_CLASS: Final = "balanced_accuracy"
"""The score by which the best learner is chosen."""
ROUNDING: Final = 1e-9
"""Relative differences below it are none."""


def score_numbers(true: Floats, predicted: Floats) -> Scores:
    """R2, MAE, RMSE and Pearson's r [n]; undefined ones are NaN."""
    varied = len(true) > 1 and np.ptp(true) > 0
    return {
        "r2": float(r2_score(true, predicted)) if varied else np.nan,
        "mae": float(mean_absolute_error(true, predicted)),
        "rmse": float(root_mean_squared_error(true, predicted)),
        "pearson": float(np.corrcoef(true, predicted)[0, 1]) if varied and _varies(predicted) else np.nan,
    }


def _varies(values: Floats) -> bool:
    """Whether values differ by more than what averages of equal ones are rounded by."""
    return bool(np.ptp(values) > ROUNDING * np.abs(values).max())


def draw_numbers(true: Floats, predicted: Floats, boot: GroupBootstrap) -> dict[str, Floats]:
    """As `score_numbers`, of every draw [D]: all are functions of sums over groups."""
    t, p = true - true.mean(), predicted - true.mean()  # shifted, so that squares lose no digits
    error = p - t
    columns = [np.ones_like(t), t, p, t * t, p * p, t * p, error * error, np.abs(error)]
    n, st, sp, tt, pp, tp, squares, size = boot.sums(np.stack(columns, axis=1)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_t, spread_p = tt - st * st / n, pp - sp * sp / n
        spread_p = np.where(spread_p > n * (ROUNDING * np.abs(predicted).max()) ** 2, spread_p, np.nan)
        return {
            "r2": 1 - squares / spread_t,
            "mae": size / n,
            "rmse": np.sqrt(squares / n),
            "pearson": (tp - st * sp / n) / np.sqrt(spread_t * spread_p),
        }


def score_classes(true: Codes, probability: Floats, classes: Sequence[str]) -> Scores:
    """Balanced accuracy, AUROC (mean of each class against the others), log loss, and the recall of each class.

    Args:
        true: places of the classes [n].
        probability: [n, C].
        classes: names.
    """
    predicted = probability.argmax(axis=1)
    places = np.arange(len(classes))
    present = [place for place in places if 0 < (true == place).sum() < len(true)]
    areas = [roc_auc_score(true == place, probability[:, place]) for place in present]
    recall = recall_score(true, predicted, labels=places, average=None, zero_division=np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        balanced = balanced_accuracy_score(true, predicted)
    return {
        "balanced_accuracy": float(balanced),
        "auroc": float(np.mean(areas)) if areas else np.nan,
        "log_loss": float(log_losses(true, probability).mean()),
        **{f"recall_{name}": float(value) for name, value in zip(classes, recall, strict=True)},
    }


def draw_classes(
    true: Codes,
    probability: Floats,
    classes: Sequence[str],
    boot: GroupBootstrap,
) -> dict[str, Floats]:
    """As `score_classes`, of every draw [D]; classes that a draw lacks do not count in it."""
    is_class = true[:, None] == np.arange(len(classes))
    right = is_class & (probability.argmax(axis=1) == true)[:, None]
    counts = boot.sums(is_class.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = boot.sums(right.astype(np.float64)) / counts
    areas = np.stack([_draw_area(is_class[:, k], probability[:, k], boot) for k in range(len(classes))], axis=1)
    return {
        "balanced_accuracy": _mean_of_known(recall),
        "auroc": _mean_of_known(areas),
        "log_loss": boot.sums(log_losses(true, probability)) / counts.sum(axis=1),
        **{f"recall_{name}": values for name, values in zip(classes, recall.T, strict=True)},
    }


def log_losses(true: Codes, probability: Floats) -> Floats:
    """Minus the logarithm of the probability of each sample's class [n]; none below `LEAST`, such as no vote of trees.

    Args:
        true: places of the classes [n].
        probability: [n, C].
    """
    of_true = probability[np.arange(len(true)), true] / probability.sum(axis=1)
    losses: Floats = -np.log(np.maximum(of_true, LEAST))
    return losses


def _mean_of_known(values: Floats) -> Floats:
    """Mean over the columns that are numbers [D, K] -> [D]."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
    return mean


def _draw_area(positive: NDArray[np.bool_], score: Floats, boot: GroupBootstrap) -> Floats:
    """Area under the ROC curve of every draw [D]: how often a positive scores above a negative, ties half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    is_positive = positive[order].astype(np.float64)
    return np.concatenate([_areas(weights[:, order], is_positive, starts) for weights in boot.weights()])


def _areas(weights: Floats, is_positive: Floats, starts: Codes) -> Floats:
    """As `_draw_area`, of some draws.

    Args:
        weights: how often each sample is in each draw, in the order of their scores [draws, n].
        is_positive: 1 or 0 of each [n].
        starts: the first of every run of equal scores.
    """
    of_positive = np.add.reduceat(weights * is_positive, starts, axis=1)
    of_negative = np.add.reduceat(weights * (1 - is_positive), starts, axis=1)
    below = np.cumsum(of_negative, axis=1) - of_negative
    pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Floats = (of_positive * (below + of_negative / 2)).sum(axis=1) / pairs
    return area


def is_better(metric: str, difference: float) -> bool:
    """Whether a difference of scores is for the better."""
    return difference < 0 if metric in LOWER_IS_BETTER else difference > 0

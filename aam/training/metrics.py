"""Metrics over all samples of a validation, in float64, however the samples came in batches.

Each class takes batches through `update` and gives plain floats through `compute`. A metric that the data leave
undefined (the correlation with a constant, the AUROC of one class) is None there, never 0; with nothing seen yet, all
are None. Moments of batches are merged, never averaged, so the batch size changes nothing beyond rounding.

Shapes: B samples, K classes, M masked nucleotides, V vocabulary.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from aam.data.arrays import Floats, Ints

Metrics = dict[str, float | None]
Better = Mapping[str, bool | None]
"""Names of metrics, and whether a higher value is better; None where neither is."""


@dataclass(frozen=True)
class PairedMoments:
    """Moments of predictions and truth up to the second order; `+` merges two sets of values.

    The merge is the pairwise update of Chan, Golub & LeVeque (1983), which does not cancel where the spread is small
    against the mean.
    """

    count: float = 0.0
    predicted_mean: float = 0.0
    true_mean: float = 0.0
    predicted_square: float = 0.0
    """Sum of squared deviations of the predictions from their mean."""
    true_square: float = 0.0
    product: float = 0.0
    """Sum of products of both deviations."""
    squared_error: float = 0.0
    absolute_error: float = 0.0

    @classmethod
    def of(cls, predicted: Tensor, true: Tensor) -> "PairedMoments":
        """Moments of one batch of pairs of values, of any equal shape."""
        if predicted.shape != true.shape:
            raise ValueError(f"predictions are {tuple(predicted.shape)}, truth is {tuple(true.shape)}")
        if predicted.numel() == 0:
            return cls()
        x, y = predicted.detach().double().flatten(), true.detach().double().flatten()
        x_mean, y_mean = x.mean(), y.mean()
        dx, dy, error = x - x_mean, y - y_mean, x - y
        sums = torch.stack([x_mean, y_mean, dx @ dx, dy @ dy, dx @ dy, error @ error, error.abs().sum()])
        return cls(float(x.numel()), *sums.tolist())

    def __add__(self, other: "PairedMoments") -> "PairedMoments":
        count = self.count + other.count
        if count == 0:
            return self
        dx, dy = other.predicted_mean - self.predicted_mean, other.true_mean - self.true_mean
        fraction = other.count / count
        between = self.count * fraction
        return PairedMoments(
            count=count,
            predicted_mean=self.predicted_mean + dx * fraction,
            true_mean=self.true_mean + dy * fraction,
            predicted_square=self.predicted_square + other.predicted_square + dx * dx * between,
            true_square=self.true_square + other.true_square + dy * dy * between,
            product=self.product + other.product + dx * dy * between,
            squared_error=self.squared_error + other.squared_error,
            absolute_error=self.absolute_error + other.absolute_error,
        )

    @property
    def pearson(self) -> float | None:
        """Pearson correlation; None where either side is constant."""
        if _is_constant(self.predicted_square, self.predicted_mean, self.count) or self._true_is_constant:
            return None
        return self.product / math.sqrt(self.predicted_square * self.true_square)

    @property
    def r2(self) -> float | None:
        """Fraction of the variance of the truth that is explained; None where the truth is constant."""
        return None if self._true_is_constant else 1 - self.squared_error / self.true_square

    @property
    def mae(self) -> float | None:
        """Mean absolute error."""
        return self.absolute_error / self.count if self.count else None

    @property
    def rmse(self) -> float | None:
        """Root of the mean squared error."""
        return math.sqrt(self.squared_error / self.count) if self.count else None

    @property
    def pred_std(self) -> float | None:
        """Standard deviation of the predictions (population formula)."""
        return math.sqrt(self.predicted_square / self.count) if self.count else None

    @property
    def true_std(self) -> float | None:
        """Standard deviation of the truth (population formula)."""
        return math.sqrt(self.true_square / self.count) if self.count else None

    @property
    def std_ratio(self) -> float | None:
        """Spread of the predictions over that of the truth, 0 when they have collapsed; None for a constant truth."""
        return None if self._true_is_constant else math.sqrt(self.predicted_square / self.true_square)

    @property
    def _true_is_constant(self) -> bool:
        return _is_constant(self.true_square, self.true_mean, self.count)


def _is_constant(square: float, mean: float, count: float) -> bool:
    """Whether a sum of squared deviations is no more than the rounding of equal values."""
    return square <= count * (4 * sys.float_info.epsilon * mean) ** 2


class _NumberMetrics:
    """Predicted against true numbers, by properties of `PairedMoments`."""

    better: ClassVar[Better]

    def __init__(self) -> None:
        self.moments = PairedMoments()

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Add numbers: two tensors of one shape."""
        self.moments += PairedMoments.of(predicted, true)

    def compute(self) -> Metrics:
        """Give the metrics that `better` names."""
        return {name: getattr(self.moments, name) for name in self.better}


class DistanceMetrics(_NumberMetrics):
    """Predicted against true distances, over pairs of samples, each pair once."""

    better: ClassVar[Better] = {
        "pearson": True,
        "r2": True,
        "mae": False,
        "pred_std": None,
        "true_std": None,
        "std_ratio": None,
    }


class RegressionMetrics(_NumberMetrics):
    """Predicted against true values of a metadata column, in the column's own unit."""

    better: ClassVar[Better] = {"r2": True, "mae": False, "rmse": False, "pearson": True}


class QuantileMetrics:
    """Predicted quantiles against true values of a metadata column."""

    better: ClassVar[Better] = {"pinball": False, "coverage": None}

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = torch.tensor(levels, dtype=torch.float64)
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Add samples: rising quantiles [B, Q], and the truth [B]."""
        quantiles, value = predicted.detach().double().cpu(), true.detach().double().cpu()
        error = value[:, None] - quantiles
        pinball = torch.maximum(self.levels * error, (self.levels - 1) * error).mean(dim=1)
        inside = (quantiles[:, 0] <= value) & (value <= quantiles[:, -1])
        self._sums += torch.stack([pinball.sum(), inside.double().sum(), torch.tensor(float(len(value)))])

    def compute(self) -> Metrics:
        """Give pinball (mean quantile loss, in the column's own unit) and coverage (fraction between outer ones)."""
        pinball, inside, count = self._sums.tolist()
        return {"pinball": pinball / count if count else None, "coverage": inside / count if count else None}


class ClassificationMetrics:
    """Class probabilities against true classes; keeps all probabilities, 8 K bytes a sample."""

    better: ClassVar[Better] = {
        "accuracy": True,
        "balanced_accuracy": True,
        "macro_f1": True,
        "log_loss": False,
        "auroc": True,
    }

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._probabilities: list[Floats] = []
        self._true: list[Ints] = []

    def update(self, probabilities: Tensor, true: Tensor) -> None:
        """Add samples: probabilities [B, K], each row summing to 1 up to rounding, and class indices [B].

        The predicted class is the most probable one.
        """
        if probabilities.shape != (len(true), self.classes):
            raise ValueError(f"probabilities are {tuple(probabilities.shape)}, expected ({len(true)}, {self.classes})")
        self._probabilities.append(probabilities.detach().double().cpu().numpy())
        self._true.append(true.detach().long().cpu().numpy())

    def compute(self) -> Metrics:
        """Give accuracy, balanced_accuracy, macro_f1, log_loss and auroc.

        balanced_accuracy is the mean recall of the classes that occur in the truth, macro_f1 the mean F1 of those that
        occur in the truth or the predictions, auroc the mean over the classes of one class against the rest, of those
        that have samples on both sides.
        """
        from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score  # noqa: PLC0415  # takes long

        if not sum(map(len, self._true)):
            return dict.fromkeys(self.better)
        probabilities, true = np.concatenate(self._probabilities), np.concatenate(self._true)
        predicted = probabilities.argmax(axis=1)
        # the logarithm of zero would be infinite
        certainty = probabilities[np.arange(len(true)), true].clip(np.finfo(np.float64).eps, 1.0)
        either = np.union1d(true, predicted)
        separable = [index for index in range(self.classes) if 0 < (true == index).sum() < len(true)]
        areas = [roc_auc_score(true == index, probabilities[:, index]) for index in separable]
        return {
            "accuracy": float(accuracy_score(true, predicted)),
            "balanced_accuracy": float(recall_score(true, predicted, labels=np.unique(true), average="macro")),
            "macro_f1": float(f1_score(true, predicted, labels=either, average="macro", zero_division=0.0)),
            "log_loss": float(-np.log(certainty).mean()),
            "auroc": float(np.mean(areas)) if areas else None,
        }

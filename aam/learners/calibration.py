"""Probabilities that mean what they say, fitted to predictions for samples that the learner has not seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax

from aam.learners.base import Floats, Rows

LEAST = 1e-6
"""Probability below which a class that was there to learn is not believed to be excluded."""


class Calibration(NamedTuple):
    """A temperature: probabilities p become softmax(log(p) / T), flatter for T above 1."""

    temperature: float
    present: tuple[bool, ...]
    """Whether a class had a training sample; one that had none keeps probability 0 [C]."""

    def apply(self, probability: Floats) -> Floats:
        """Calibrate [m, C]."""
        calibrated: Floats = softmax(_scores(probability, self.present) / self.temperature, axis=1)
        return calibrated

    @classmethod
    def fit(cls, probability: Floats, codes: Rows, weight: Floats) -> "Calibration":
        """Choose the temperature with the smallest log loss (Guo et al. 2017).

        Args:
            probability: of the classes, each sample predicted without its group [n, C].
            codes: the true class of each [n].
            weight: of each [n].
        """
        from scipy.optimize import minimize_scalar  # noqa: PLC0415  # takes long, and what is fitted predicts without

        here = tuple(np.isin(np.arange(probability.shape[1]), codes).tolist())
        scores = _scores(probability, here)

        def loss(log_temperature: float) -> float:
            logs = log_softmax(scores / np.exp(log_temperature), axis=1)
            return float(-(weight @ logs[np.arange(len(codes)), codes]))

        found = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
        return cls(float(np.exp(found.x)), here)


def _scores(probability: Floats, present: Sequence[bool]) -> Floats:
    """Logarithms, those of tiny probabilities (of a forest, say) bounded; minus infinity where there is no sample."""
    scores: Floats = np.log(np.maximum(probability, LEAST))
    scores[:, ~np.array(present)] = -np.inf
    return scores

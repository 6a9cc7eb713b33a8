"""Probabilities that mean what they say, fitted to predictions for samples that the learner has not seen."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from aam.learners.base import Floats, Rows

LEAST = 1e-6
"""Probability below which a class that was there to learn is not believed to be excluded."""


class Calibration(NamedTuple):
    """A temperature: probabilities p become softmax(log(p) / T), flatter for T above 1."""

    temperature: float = 1.0

    def apply(self, probability: Floats) -> Floats:
        """Calibrate [m, C]; a class of probability 0 keeps it."""
        calibrated: Floats = softmax(_scores(probability) / self.temperature, axis=1)
        return calibrated

    @classmethod
    def fit(cls, probability: Floats, codes: Rows, weight: Floats) -> "Calibration":
        """Choose the temperature with the smallest log loss (Guo et al. 2017).

        Args:
            probability: of the classes, each sample predicted without its group [n, C].
            codes: the true class of each [n].
            weight: of each [n].
        """
        known = probability[np.arange(len(codes)), codes] > 0
        if not known.any():
            return cls()
        scores, true, weight = _scores(probability[known]), codes[known], weight[known]

        def loss(log_temperature: float) -> float:
            logs = log_softmax(scores / np.exp(log_temperature), axis=1)
            return float(-(weight @ logs[np.arange(len(true)), true]))

        found = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
        return cls(float(np.exp(found.x)))


def _scores(probability: Floats) -> Floats:
    """Logarithms, those of tiny probabilities (of a forest, say) bounded; minus infinity where there is no sample."""
    absent = (probability == 0).all(axis=0)
    scores: Floats = np.log(np.maximum(probability, LEAST))
    scores[:, absent] = -np.inf
    return scores

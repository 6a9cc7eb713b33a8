"""Probabilities of classes from regressions on their indicators.

Shapes: n training samples, m samples, P classes that have training samples, C classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from aam.learners.base import Floats, Rows


@dataclass(frozen=True, eq=False)
class ClassScores:
    """softmax(log prior + (f - prior) / temperature), where f is about 1 for the class and 0 for others."""

    present: Rows
    """Places of the classes that have training samples [P]; others have probability 0."""
    prior: Floats
    """Shares of those among the training samples [P]."""
    temperature: float
    classes: int

    @classmethod
    def fit(cls, indicators: Floats, scores: Floats, weight: Floats, present: Rows, classes: int) -> "ClassScores":
        """Choose the temperature with the least log loss of predictions that have not seen the samples' groups.

        Args:
            indicators: 1 for the class of each sample, else 0 [n, P].
            scores: what was regressed [n, P].
            weight: how much each sample counts [n].
            present: places of the classes that have samples [P].
            classes: how many there are with the others.
        """
        from scipy.optimize import minimize_scalar  # noqa: PLC0415  # takes long, and what is fitted predicts without

        prior = np.average(indicators, axis=0, weights=weight)

        def loss(log_temperature: float) -> float:
            logs = log_softmax(np.log(prior) + (scores - prior) * np.exp(-log_temperature), axis=1)
            return -float(weight @ (indicators * logs).sum(axis=1))

        found = minimize_scalar(loss, bounds=(-7.0, 4.0), method="bounded")
        return cls(present, prior, float(np.exp(found.x)), classes)

    def probabilities(self, scores: Floats) -> Floats:
        """Probabilities [m, C] of scores [m, P]."""
        logs = log_softmax(np.log(self.prior) + (scores - self.prior) / self.temperature, axis=1)
        probabilities = np.zeros((len(scores), self.classes))
        probabilities[:, self.present] = np.exp(logs)
        return probabilities

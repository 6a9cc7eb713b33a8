"""What the ASVs of a sample contribute to its prediction: shares that add up to what sets it apart from a baseline.

Baselines are K other samples, each with this sample's own metadata; a contribution is the mean over them. Every kind of
solution has its own way (`contributions` is a single-dispatch function); what has several steps is explained step by
step, so that the sum is exact whatever the last step is:

- of the linear learner, coefficients times differences of logarithms;
- of trees, Shapley values of their features (`aam.interpret.tree_shap`);
- of the kernel, integrated gradients along a path between the two samples (`aam.interpret.kernel_paths`);
- of the network, integrated gradients too (`aam.interpret.network`), from a baseline of its own;
- of probabilities, gradients of the softmax integrated from the baseline's scores to the sample's, times what each
  score has (Sundararajan, Taly and Yan 2017); of a logarithm, its slope between the two (Shrikumar et al. 2017);
- of an ensemble, the weighted sum of its members, each calibrated as the prediction is.

Shapes: K baselines, A ASVs of the study (columns of its table), C explained numbers (1, or classes), P classes with
training samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from scipy.integrate import quad_vec
from scipy.special import softmax

from aam.data.study import Study
from aam.errors import InputError
from aam.learners.base import Floats, Rows, Solution
from aam.learners.calibration import LEAST, Calibration
from aam.learners.ensemble import EnsembleSolution
from aam.learners.features import PSEUDO_PROPORTION
from aam.learners.linear import LinearSolution

_TINY = 1e-12
"""Difference of two probabilities below which the slope between them is the derivative."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """What ASVs contribute to the prediction of one sample, against each baseline."""

    value: Floats
    """[K, A, C]."""
    explained: Floats
    """The prediction [C]."""
    baseline: Floats
    """Those of the baselines [K, C]."""

    def mean(self) -> "Contributions":
        """The mean over baselines, as one."""
        return Contributions(self.value.mean(axis=0)[None], self.explained, self.baseline.mean(axis=0)[None])

    @property
    def gap(self) -> Floats:
        """What is missing of the mean difference to the baselines [C]."""
        gap: Floats = (self.explained - self.baseline - self.value.sum(axis=1)).mean(axis=0)
        return gap

    def scaled(self, factor: float, shift: float = 0.0) -> "Contributions":
        """Of ``factor * prediction + shift``."""
        return Contributions(factor * self.value, factor * self.explained + shift, factor * self.baseline + shift)


@singledispatch
def contributions(solution: Solution, study: Study, row: int, background: Rows) -> Contributions:
    """Divide what sets the prediction of a sample apart from those of others among ASVs.

    Args:
        solution: what a learner has learned of one column.
        study: with the ASVs and the tree of the training study, as `Solution.predict` takes it.
        row: the sample.
        background: samples of the study that it is compared with [K].

    Raises:
        InputError: predictions of this kind are not made from ASVs.
    """
    raise InputError(
        f"--what attribution: a {type(solution).__name__.removesuffix('Solution').lower()} learner predicts without "
        "looking at ASVs; explain another one"
    )


@contributions.register
def _(solution: LinearSolution, study: Study, row: int, background: Rows) -> Contributions:
    """Exactly: a centred log-ratio is linear in the logarithms of the proportions."""
    rows = np.r_[row, background]
    columns, intercept = solution.columns, solution.intercept
    present = np.flatnonzero(np.isfinite(intercept))
    coefficients = solution.coefficients[:, present]
    slope = coefficients - coefficients.mean(axis=0)
    logs = np.log(study.asv_proportions[rows][:, columns].toarray() + PSEUDO_PROPORTION)
    scores = logs @ slope + intercept[present]
    value = np.zeros((len(background), study.table.n_asvs, len(present)))
    value[:, columns] = (logs[0] - logs[1:])[:, :, None] * slope
    linear = Contributions(value, scores[0], scores[1:])
    return through_softmax(linear, present, len(intercept)) if solution.classes else linear


@contributions.register
def _(solution: EnsembleSolution, study: Study, row: int, background: Rows) -> Contributions:
    """The weighted sum of the members."""
    parts = []
    for place, (member, weight) in enumerate(zip(solution.members.values(), solution.weights.tolist(), strict=True)):
        part = contributions(member, study, row, background)
        if solution.calibrations:
            part = through_calibration(part, solution.calibrations[place])
        parts.append(part.mean().scaled(weight))
    return total(parts)


def total(parts: Sequence[Contributions]) -> Contributions:
    """Contributions to the sum of several predictions."""
    return Contributions(
        np.sum([part.value for part in parts], axis=0),
        np.sum([part.explained for part in parts], axis=0),
        np.sum([part.baseline for part in parts], axis=0),
    )


def through_softmax(scores: Contributions, present: Rows, classes: int) -> Contributions:
    """From contributions to scores of some classes to contributions to the probabilities of all.

    Args:
        scores: of the classes that have training samples, whose softmax is their probability; C is P here.
        present: places of these classes [P].
        classes: how many there are with those of probability 0.
    """
    value = np.zeros((*scores.value.shape[:2], classes))
    explained, baseline = np.zeros(classes), np.zeros((len(scores.baseline), classes))
    explained[present], baseline[:, present] = softmax(scores.explained), softmax(scores.baseline, axis=1)
    for place, start in enumerate(scores.baseline):
        value[place][:, present] = scores.value[place] @ _mean_jacobian(start, scores.explained)
    return Contributions(value, explained, baseline)


def _mean_jacobian(start: Floats, stop: Floats) -> Floats:
    """Mean derivative of the softmax between two rows of scores [P, P]."""

    def jacobian(fraction: float) -> Floats:
        probability = softmax(start + fraction * (stop - start))
        return np.diag(probability) - np.outer(probability, probability)

    mean: Floats = quad_vec(jacobian, 0.0, 1.0, epsabs=1e-9)[0]
    return mean


def through_calibration(probabilities: Contributions, calibration: Calibration) -> Contributions:
    """From contributions to probabilities to contributions to calibrated ones, as of `Calibration.apply`."""
    present = np.flatnonzero(calibration.present)
    explained, baseline = probabilities.explained[present], probabilities.baseline[:, present]
    logs, logs_baseline = (np.log(np.maximum(part, LEAST)) for part in (explained, baseline))
    difference = explained - baseline
    derivative = np.where(explained > LEAST, 1 / np.maximum(explained, LEAST), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(np.abs(difference) > _TINY, (logs - logs_baseline) / difference, derivative)
    value = probabilities.value[:, :, present] * slope[:, None, :]
    scores = Contributions(value, logs, logs_baseline).scaled(1 / calibration.temperature)
    return through_softmax(scores, present, len(calibration.present))

"""The kernel learner: a Gaussian process on kernels of tree, ASVs and reads, weighted for groups that are new.

What else is known of samples (`kernel_sources`: columns of the metadata, the embedding of an encoder) are kernels like
the others.

Up to some thousand samples all are compared with each other; beyond, with landmarks (`nystroem`). The weights of
kernels and noise are chosen by predictions of left-out groups (`left_out`), which are kept for whoever combines
learners.

Shapes: n training samples, C columns that are learned with the same weights.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from aam.config.kernel import KernelConfig
from aam.data.sampling.seeded import generator
from aam.data.study import Study
from aam.learners.base import Floats, Learner, Output, Problem, Rows
from aam.learners.class_scores import ClassScores
from aam.learners.kernel_features import Samples
from aam.learners.kernel_solution import KernelSolution, Regression
from aam.learners.kernel_sources import Wanted, describe
from aam.learners.kernels import Basis, kernel_names
from aam.learners.left_out import Weights, blocks_of, choose_weights, covariance_of, left_out, project
from aam.learners.nystroem import Data, Errors, by_landmarks

_LEAST_WEIGHT = 1e-6
"""A sample counts at least so much, so that its noise is finite."""


class Aim(NamedTuple):
    """What is learned, in units of its standard deviation."""

    y: Floats
    """[n, C]."""
    weight: Floats
    """How much each sample counts [n]."""
    unit: float
    """Standard deviation of the target."""
    present: Rows
    """Classes that have samples [C]; none where numbers are learned."""

    @classmethod
    def of(cls, problem: Problem) -> "Aim":
        """Make numbers, or indicators of the classes that have samples, comparable with kernels."""
        present = np.unique(problem.codes) if problem.classes else np.empty(0, np.int64)
        y = (problem.codes[:, None] == present).astype(np.float64) if problem.classes else problem.y[:, None]
        weight = np.maximum(problem.weight, _LEAST_WEIGHT)
        variance = np.average((y - np.average(y, axis=0, weights=weight)) ** 2, axis=0, weights=weight).mean()
        unit = float(np.sqrt(variance)) if variance > 0 else 1.0
        return cls(y / unit, weight, unit, present)

    def take(self, places: Rows) -> "Aim":
        """Of some of the samples."""
        return self._replace(y=self.y[places], weight=self.weight[places])


@dataclass(frozen=True)
class KernelLearner(Learner):
    """Gaussian processes on kernels."""

    name: ClassVar[str] = "kernel"
    config: KernelConfig = field(default_factory=KernelConfig)
    wanted: tuple[Wanted, ...] = ()
    """What is learned from besides reads and tree."""

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Learner`."""
        return tuple(dict.fromkeys(name for one in self.wanted for name in one.metadata_columns))

    def check(self, study: Study) -> None:
        """See `Learner`."""
        every = np.arange(study.table.n_samples)
        for one in self.wanted:
            one.check(study, every)

    def solve(self, problem: Problem) -> KernelSolution:
        """Learn one column: choose the weights of the kernels, then learn from all training samples."""
        study, config = problem.study, self.config
        aim, groups = Aim.of(problem), known_groups(problem.groups)
        exactly = len(groups) <= config.kernel_exact_samples
        size = len(groups) if exactly else config.kernel_landmarks
        marks = balanced_draw(groups, size, problem.seed, "landmarks")
        described = [one.learn(study, problem.rows) for one in self.wanted]
        landmarks = Samples.of(study, problem.rows[marks], describe(described, study, problem.rows[marks]))
        basis, stack = Basis.build(kernel_names(study.tree), landmarks, described)
        weights = self._weigh(stack, aim.take(marks), groups[marks], problem.seed)
        if exactly:
            fit = exact(covariance_of(stack, weights, aim.weight), aim, groups)
            return _solution(problem, aim, basis, weights, fit)

        def kernels(places: Rows) -> tuple[Floats, Floats]:
            return basis.weighted(basis.view(study, problem.rows[places]), weights.kernels)

        inner = np.tensordot(weights.kernels, stack, axes=1)
        del stack
        fit = by_landmarks(kernels, inner, Data(aim.y, aim.weight, groups), weights.noise)
        return _solution(problem, aim, basis, weights, fit)

    def _weigh(self, stack: Floats, aim: Aim, groups: Rows, seed: int) -> Weights:
        """Choose the weights of kernels between samples [k, n, n] from some of these."""
        few = balanced_draw(groups, self.config.kernel_weight_samples, seed, "weights")
        some = stack if len(few) == len(groups) else stack[:, few[:, None], few]
        part, blocks = aim.take(few), blocks_of(known_groups(groups[few]))
        return choose_weights(some, part.y, part.weight, blocks, self.config.kernel_steps)


def known_groups(groups: Rows) -> Rows:
    """The groups that are left out: each sample by itself where there is one group alone."""
    return groups if len(np.unique(groups)) > 1 else np.arange(len(groups))


def balanced_draw(groups: Rows, size: int, seed: int, purpose: str) -> Rows:
    """Draw samples that are spread evenly over groups: every group gives one before any gives two.

    Returns:
        Their places, rising; all of them where there are not more than asked for.
    """
    random = generator(seed, "kernel", purpose).random(len(groups))
    order = np.lexsort((random, groups))
    first, sizes = np.unique(groups[order], return_index=True, return_counts=True)[1:]
    turn = np.empty(len(groups), dtype=np.int64)
    turn[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return np.sort(np.lexsort((random, turn))[:size])


def exact(covariance: Floats, aim: Aim, groups: Rows) -> tuple[Regression, Errors]:
    """Learn from the covariance of all training samples with each other, with noise [n, n]."""
    projected = project(covariance)
    alpha = projected.q @ aim.y
    regression = Regression.of(alpha, projected.pull @ aim.y, projected.q, -projected.pull, projected.uncertainty)
    if len(alpha) < 2:
        return regression, Errors(np.zeros_like(aim.y), np.ones(len(alpha)))
    return regression, Errors(*left_out(projected.q, alpha, blocks_of(groups)))


def _solution(
    problem: Problem, aim: Aim, basis: Basis, weights: Weights, fit: tuple[Regression, Errors]
) -> KernelSolution:
    """Put together what was learned, with the predictions of left-out groups."""
    regression, errors = fit
    value = (aim.y - errors.error) * aim.unit
    solution = KernelSolution(basis, weights, aim.unit, regression)
    if problem.classes:
        indicators = aim.y * aim.unit
        solution.scores = ClassScores.fit(indicators, value, aim.weight, aim.present, problem.classes)
        solution.left_out = Output(solution.scores.probabilities(value))
    else:
        variance = errors.variance + weights.noise - weights.noise / aim.weight
        solution.left_out = Output(value[:, 0], np.sqrt(variance) * aim.unit)
    if len(value) < 2:  # nothing was left out
        solution.left_out = None
    return solution

"""Options of a learner that are chosen within the training samples, for groups that were not learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aam.evaluation.scores import log_losses
from aam.learners.base import Learner, Problem, Rows, Solution
from aam.learners.ensemble import EnsembleLearner
from aam.learners.folds import inner_folds


@dataclass(frozen=True)
class Choice(Learner):
    """Several ways to set up one learner, of which the samples of each fit choose one."""

    candidates: tuple[Learner, ...]
    """At least one; they may have a cheaper form for folds within folds."""
    options: tuple[str, ...]
    """What each is called."""
    name: ClassVar[str] = "choice"

    def choose(self, problem: Problem) -> int:
        """Place of the candidate with the least loss in inner folds of groups; the first one of equals.

        The loss is the mean squared error on the learned scale, or the log loss.
        """
        if len(self.candidates) == 1:
            return 0
        folds = list(inner_folds(problem))
        losses = [sum(_loss(one.frugal(), problem, *fold) for fold in folds) for one in self.candidates]
        return int(np.argmin(losses))

    def solve(self, problem: Problem) -> Solution:
        """Choose, and learn the column."""
        return self.candidates[self.choose(problem)].solve(problem)


def _loss(learner: Learner, problem: Problem, train: Rows, held_out: Rows) -> float:
    """Weighted sum of the losses of some samples, learned from others."""
    part, new = problem.take(train), problem.take(held_out)
    value = learner.solve(part).predict(problem.study, new.rows).value
    losses = log_losses(new.codes, value) if problem.classes else np.square(value - new.y)
    return float(new.weight @ losses)


def solve_chosen(learner: Learner, problem: Problem, solved: Mapping[str, Solution]) -> tuple[Solution, str | None]:
    """Learn a column; an ensemble takes what its members have learned already.

    Returns:
        The solution, and what its options are called where there was a choice.
    """
    if isinstance(learner, Choice):
        place = learner.choose(problem)
        solution, _ = solve_chosen(learner.candidates[place], problem, solved)
        return solution, learner.options[place]
    if isinstance(learner, EnsembleLearner):
        return learner.solve_with(problem, solved), None
    return learner.solve(problem), None

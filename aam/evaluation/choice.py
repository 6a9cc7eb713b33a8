"""Options of a learner that are chosen within the training samples, for groups that were not learned from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from aam.data.study import Study
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
    """That of the candidates."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.candidates[0].name)  # members of an ensemble are known by their names

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Learner`."""
        return tuple(dict.fromkeys(name for one in self.candidates for name in one.metadata_columns))

    def check(self, study: Study) -> None:
        """See `Learner`."""
        for one in self.candidates:
            one.check(study)

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


class Solved(NamedTuple):
    """What was learned, and by which of the candidates."""

    learner: Learner
    solution: Solution


def solve_chosen(learner: Learner, problem: Problem, solved: Mapping[str, Solved]) -> tuple[Solved, dict[str, str]]:
    """Learn a column; an ensemble takes what its members have learned already, and lets the others choose as well.

    Args:
        learner: what learns.
        problem: the column.
        solved: what other learners have learned of it from the same reads, by name.

    Returns:
        What was learned, and what the options are called that were chosen, by learner.
    """
    candidates = learner.candidates if isinstance(learner, Choice) else (learner,)
    if isinstance(candidates[0], EnsembleLearner):
        return _solve_ensemble(learner, problem, solved)
    if isinstance(learner, Choice):
        place = learner.choose(problem)
        taken = candidates[place]
        return Solved(taken, taken.solve(problem)), {learner.name: learner.options[place]}
    return Solved(learner, learner.solve(problem)), {}


def _solve_ensemble(learner: Learner, problem: Problem, solved: Mapping[str, Solved]) -> tuple[Solved, dict[str, str]]:
    """Members choose first, then the ensemble among its own options."""
    candidates = learner.candidates if isinstance(learner, Choice) else (learner,)
    known = dict(solved)
    chosen: dict[str, str] = {}
    made = []
    for candidate in candidates:
        assert isinstance(candidate, EnsembleLearner)
        for member in candidate.members:
            if member.name not in known:
                known[member.name], own = solve_chosen(member, problem, {})
                chosen |= own
        made.append(replace(candidate, members=tuple(known[one.name].learner for one in candidate.members)))
    place = 0
    if isinstance(learner, Choice):
        place = replace(learner, candidates=tuple(made)).choose(problem)
        chosen[learner.name] = learner.options[place]
    taken = made[place]
    return Solved(taken, taken.solve_with(problem, {name: one.solution for name, one in known.items()})), chosen

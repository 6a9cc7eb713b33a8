"""The mean of several learners, each calibrated on predictions for groups that it has not seen.

Weights by stacking: non-negative, fitted to those same predictions (super learner; van der Laan, Polley and Hubbard
2007), of squared errors for numbers and of the log loss for classes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import softmax

from aam.config.learners import EnsembleConfig
from aam.data.study import Study
from aam.learners.base import Arrays, Floats, Learner, Output, Problem, Rows, Solution, below, prefixed
from aam.learners.calibration import LEAST, Calibration
from aam.learners.unseen import unseen

logger = logging.getLogger(__name__)

STACK_SHARE = 0.5
"""Fraction of the stacked weights; the rest are those of the plain mean."""


@dataclass(eq=False)
class EnsembleSolution(Solution):
    """Solutions of the members, their weights and calibrations."""

    members: Mapping[str, Solution]
    weights: Floats
    """[members], sum 1."""
    calibrations: tuple[Calibration, ...]
    """One for each member; empty for numbers."""

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Solution`."""
        return tuple(dict.fromkeys(name for member in self.members.values() for name in member.metadata_columns))

    def meet(self, study: Study) -> None:
        """See `Solution`."""
        for member in self.members.values():
            member.meet(study)

    @property
    def reads_branches(self) -> bool:
        """Whether a member does."""
        return any(member.reads_branches for member in self.members.values())

    def predict(self, study: Study, rows: Rows) -> Output:
        """Average the members."""
        outputs = [member.predict(study, rows) for member in self.members.values()]
        return _combined([output.value for output in outputs], self.calibrations, self.weights)

    def arrays(self) -> Arrays:
        """Weights, and the arrays of the members as ``NAME/ARRAY``."""
        arrays = {"weights": self.weights}
        for name, member in self.members.items():
            arrays |= prefixed(name, member.arrays())
        return arrays

    def settings(self) -> dict[str, Any]:
        """Settings of the members, and temperatures."""
        return {
            "members": {name: member.settings() for name, member in self.members.items()},
            "calibrations": [one._asdict() for one in self.calibrations],
        }

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild; `aam.learners.registry` knows the members' kinds."""
        from aam.learners.registry import restore_solution  # noqa: PLC0415  # it knows this class too

        members = {name: restore_solution(name, own, below(name, arrays)) for name, own in settings["members"].items()}
        calibrations = tuple(Calibration(one["temperature"], tuple(one["present"])) for one in settings["calibrations"])
        return cls(members, arrays["weights"], calibrations)


@dataclass(frozen=True)
class EnsembleLearner(Learner):
    """Averages its members."""

    members: tuple[Learner, ...]
    config: EnsembleConfig
    name: ClassVar[str] = "ensemble"

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Learner`."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.metadata_columns))

    def check(self, study: Study) -> None:
        """See `Learner`."""
        for member in self.members:
            member.check(study)

    def solve(self, problem: Problem) -> EnsembleSolution:
        """Solve the problem by every member, and weigh them."""
        return self.solve_with(problem, {})

    def solve_with(self, problem: Problem, solved: Mapping[str, Solution]) -> EnsembleSolution:
        """As `solve`, with the solutions of some members, by name, that are there already."""
        members = {one.name: solved.get(one.name) or one.solve(problem) for one in self.members}
        left_out = [unseen(one, members[one.name], problem) for one in self.members]
        weight = problem.weight
        if problem.classes:
            calibrations = tuple(Calibration.fit(values, problem.codes, weight) for values in left_out)
        else:
            calibrations = ()
        weights = np.full(len(members), 1 / len(members))
        if self.config.ensemble_weights == "stack":
            calibrated = [_calibrated(values, calibrations, place) for place, values in enumerate(left_out)]
            weights = (1 - STACK_SHARE) * weights + STACK_SHARE * _stacked(calibrated, problem)
        solution = EnsembleSolution(members, weights, calibrations)
        solution.left_out = _combined(left_out, calibrations, weights)
        return solution


def _calibrated(values: Floats, calibrations: Sequence[Calibration], place: int) -> Floats:
    return calibrations[place].apply(values) if calibrations else values


def _combined(values: Sequence[Floats], calibrations: Sequence[Calibration], weights: Floats) -> Output:
    parts = [
        weight * _calibrated(part, calibrations, place)
        for place, (part, weight) in enumerate(zip(values, weights, strict=True))
    ]
    return Output(np.sum(parts, axis=0))


def _stacked(values: Sequence[Floats], problem: Problem) -> Floats:
    """Non-negative weights with sum 1 and the smallest loss [members]."""
    from scipy.optimize import minimize  # noqa: PLC0415  # takes long, and what is fitted predicts without

    stacked = np.stack(values)
    if problem.classes:
        stacked = stacked[:, np.arange(len(problem.codes)), problem.codes]

    def loss(logits: Floats) -> float:
        mixed = softmax(logits) @ stacked
        if problem.classes:
            return float(-(problem.weight @ np.log(np.maximum(mixed, LEAST))) / problem.weight.sum())
        return float(problem.weight @ np.square(mixed - problem.y) / problem.weight.sum())

    weights: Floats = softmax(minimize(loss, np.zeros(len(values)), method="L-BFGS-B").x)
    return weights

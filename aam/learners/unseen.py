"""Predictions of training samples by what learned from other groups alone, and what intervals are made of them."""

import numpy as np

from aam.data.study import Study
from aam.learners.base import Fitted, Floats, Labels, Learner, Output, Problem, Rows, Solution, pose
from aam.learners.conformal import Conformity
from aam.learners.folds import inner_folds


def unseen(learner: Learner, solution: Solution, problem: Problem) -> Floats:
    """Predictions of the training samples, each without its group: [n] or [n, C]."""
    if solution.left_out is not None:
        return solution.left_out.value
    values = np.zeros((len(problem.rows), *((problem.classes,) if problem.classes else ())))
    frugal = learner.frugal()
    for train, held_out in inner_folds(problem):
        part = frugal.solve(problem.take(train)).predict(problem.study, problem.rows[held_out])
        values[held_out] = part.value
    return values


def calibrate(learner: Learner, solution: Solution, problem: Problem) -> None:
    """Let a solution know how far off predictions of left-out samples are, where that costs little.

    Predictions that fitting did not leave behind come from inner folds, and are kept for whoever combines learners.
    """
    if solution.left_out is None and not learner.refits:
        return
    if len(problem.rows) < 2:
        solution.conformity = Conformity(np.empty(0), np.empty(0, np.int64))
        return
    if solution.left_out is None:
        solution.left_out = Output(unseen(learner, solution, problem))
    solution.conformity = Conformity.of(*solution.left_out, problem.y, problem.groups)


def fit_calibrated(learner: Learner, study: Study, rows: Rows, labels: Labels, seed: int) -> Fitted:
    """Fit a learner, and let its solutions know how far off they are, as `Learner.fit` and `calibrate`."""
    targets, problems = pose(study, rows, labels, seed)
    solutions = tuple(learner.solve(problem) for problem in problems)
    for solution, problem in zip(solutions, problems, strict=True):
        calibrate(learner, solution, problem)
    return Fitted(learner.name, targets, solutions)

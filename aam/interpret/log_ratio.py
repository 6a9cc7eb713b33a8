"""A balance: the reads of some ASVs against those of others, as one number of a sample that can be read.

ASVs are ranked by how their centred log-ratio goes with the target, and those at the top are set against those at the
bottom, as songbird and Qurro do (Morton et al. 2019, Establishing microbial composition measurement standards with
reference frames; Fedarko et al. 2020, Visualizing 'omic feature rankings and log-ratios using Qurro):

    log((reads of the top + e) / (reads of the bottom + e)),  reads as fractions of the sample's, e = 1e-4.

How many are on each side is chosen by folds within the training samples, in which they are ranked anew.

Shapes: n training samples, m samples to predict, A ASVs, k ASVs that are common.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression

from aam.data.study import Study
from aam.errors import InputError
from aam.interpret.exchange import Columns
from aam.learners.base import ComparedSolution, Floats, Learner, Output, Problem, Rows
from aam.learners.features import PSEUDO_PROPORTION, log_ratios_of_proportions, prevalent_asvs
from aam.learners.folds import inner_folds

SIZES: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
"""ASVs on each side that are tried."""
PREVALENT: Final = 0.1
"""Fraction of the training samples that hold the ASVs that are ranked."""


@dataclass(frozen=True, eq=False)
class Balance:
    """The ASVs of both sides, those that count most first."""

    top: Columns
    bottom: Columns

    def of(self, study: Study, rows: Rows) -> Floats:
        """The log-ratio of samples [m]."""
        proportions = study.asv_proportions[rows]
        sides = [np.asarray(proportions[:, side].sum(axis=1)).ravel() for side in (self.top, self.bottom)]
        ratio: Floats = np.log(sides[0] + PSEUDO_PROPORTION) - np.log(sides[1] + PSEUDO_PROPORTION)
        return ratio


@dataclass(frozen=True, eq=False)
class Ranking:
    """ASVs in the order in which they go with the target."""

    columns: Columns
    """[k], from those that rise with it to those that fall."""
    correlation: Floats
    """Weighted correlation of the centred log-ratio with the target [k], in that order."""

    @classmethod
    def of(cls, problem: Problem) -> "Ranking":
        """Rank by the training samples."""
        columns = prevalent_asvs(problem.study, problem.rows, PREVALENT)
        ratios = log_ratios_of_proportions(problem.study, problem.rows, columns)
        weight = problem.weight / problem.weight.sum()
        x, y = ratios - weight @ ratios, problem.y - weight @ problem.y
        spread = np.sqrt((weight @ x**2) * (weight @ y**2))
        correlation = np.divide((weight * y) @ x, spread, out=np.zeros(len(columns)), where=spread > 0)
        order = np.argsort(-correlation, kind="stable")
        return cls(columns[order], correlation[order])

    def sizes(self, most: int) -> list[int]:
        """Numbers of ASVs of a side that can be tried."""
        least = min(most, len(self.columns) // 2)
        return sorted({size for size in SIZES if size < least} | {least})

    def balance(self, size: int) -> Balance:
        """So many from the top against so many from the bottom."""
        return Balance(self.columns[:size], self.columns[::-1][:size])


@dataclass(eq=False)
class BalanceSolution(ComparedSolution):
    """A balance, and what it says of the target."""

    balance: Balance
    model: LinearRegression | LogisticRegression
    classes: int

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict a number by a line, or two classes by a logistic curve."""
        ratio = self.balance.of(study, rows)[:, None]
        return Output(self.model.predict_proba(ratio) if self.classes else self.model.predict(ratio))


@dataclass(frozen=True)
class BalanceLearner(Learner):
    """Learns a balance of up to so many ASVs a side."""

    most: int
    name: ClassVar[str] = "log-ratio"

    def solve(self, problem: Problem) -> BalanceSolution:
        """Rank ASVs and choose how many are on each side.

        Raises:
            InputError: there are more than two classes, or fewer than two ASVs to set against each other.
        """
        check_classes(problem.classes)
        ranking = Ranking.of(problem)
        if len(ranking.columns) < 2:
            raise InputError("a log-ratio sets ASVs against others, and the training samples hold one alone")
        return self._solution(problem, ranking.balance(self._size(problem, ranking)))

    def _size(self, problem: Problem, ranking: Ranking) -> int:
        """The number of ASVs a side with the smallest loss on left-out groups; the smaller of equal ones."""
        sizes = ranking.sizes(self.most)
        loss = np.zeros(len(sizes))
        for train, held_out in inner_folds(problem):
            part = problem.take(train)
            if len(np.unique(part.y)) < 2:
                continue
            inner = Ranking.of(part)
            for place, size in enumerate(sizes):
                balance = inner.balance(min(size, len(inner.columns) // 2))
                output = self._solution(part, balance).predict(problem.study, problem.rows[held_out])
                loss[place] += _loss(output, problem.take(held_out))
        return sizes[int(loss.argmin())]

    @staticmethod
    def _solution(problem: Problem, balance: Balance) -> BalanceSolution:
        ratio = balance.of(problem.study, problem.rows)[:, None]
        if problem.classes:
            model = LogisticRegression(C=100.0, class_weight="balanced")
            model.fit(ratio, problem.codes, sample_weight=problem.weight)
        else:
            model = LinearRegression().fit(ratio, problem.y, sample_weight=problem.weight)
        return BalanceSolution(balance, model, problem.classes)


def check_classes(classes: int) -> None:
    """Refuse more than two classes.

    Raises:
        InputError: there are more.
    """
    if classes > 2:
        raise InputError(
            f"--what log-ratio is one number for a number or two classes, and the column has {classes}: evaluate two "
            "of them, chosen with --where"
        )


def _loss(output: Output, problem: Problem) -> float:
    """Weighted squared error, or Brier score."""
    value = output.value[:, 1] if problem.classes else output.value
    return float(problem.weight @ np.square(value - problem.y))

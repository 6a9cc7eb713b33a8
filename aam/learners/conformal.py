"""Intervals and sets that hold the true value of a sample of a new group with a stated probability.

The score of a training sample says how far off its prediction was that samples of other groups gave: |y - prediction|
of a number, in units of the predicted standard deviation where a learner has one, and 1 - probability of the true class
of a class. The interval or set of a new sample holds every value whose score is at most the quantile of these scores at
the level asked for; each of the G groups has the weight 1 / (G + 1), spread evenly over its samples, and the new group,
of which nothing is known, has the rest, at infinity. Where groups are exchangeable, and samples within each, it holds
the true value of a sample of a new group at least with that probability (hierarchical conformal prediction; Lee, Barber
and Willett 2023). Where every sample is its own group, it is the quantile of split conformal prediction.

The theorem takes scores from a model that has seen none of the groups. Here each group is predicted from the others, as
in the jackknife, so that no sample is lost for learning, and coverage is about the level where leaving out one group
hardly changes a model (Barber et al. 2021); `aam evaluate` measures it.

Sources: Lee, Barber and Willett 2023, Distribution-free inference with hierarchical data; Dunn, Wasserman and Ramdas
2022, Distribution-free prediction sets for two-layer hierarchical models (pooled distributions of groups); Barber,
Candes, Ramdas and Tibshirani 2021, Predictive inference with the jackknife+; Sadinle, Lei and Wasserman 2019, Least
ambiguous set-valued classifiers (the score of classes).

Shapes: n training samples, m samples to predict, C classes.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aam.data.arrays import Bools, Floats, Ints

_ROUNDING = 1e-9
"""By how much a sum of weights may be below the level that it is to reach."""


@dataclass(frozen=True, eq=False)
class Conformity:
    """How far off predictions of left-out training samples were; empty where nothing could be left out."""

    score: Floats
    """On the learned scale, or of the predicted standard deviation, or 1 - probability of the true class [n]."""
    group: Ints
    """Number of the group of each sample [n]."""
    scaled: bool = False
    """Whether scores are in units of the standard deviation that is predicted with each number."""

    @classmethod
    def of(cls, left_out: Floats, spread: Floats | None, y: Floats, group: Ints) -> Self:
        """Compare predictions of left-out training samples with the truth.

        Args:
            left_out: numbers [n], or probabilities [n, C].
            spread: standard deviation of each number, where the learner predicts one [n].
            y: numbers on the same scale, or places of classes [n].
            group: of each sample [n].
        """
        if left_out.ndim == 1:
            error = np.abs(y - left_out)
            return cls(error, group) if spread is None else cls(error / spread, group, True)
        return cls(1 - left_out[np.arange(len(y)), y.astype(np.int64)], group)

    @property
    def groups(self) -> int:
        """Groups that are exchangeable with that of a new sample."""
        return len(np.unique(self.group))

    def distance(self, level: float) -> float:
        """The score that a sample of a new group does not exceed with this probability; infinite for too few groups."""
        if not len(self.score):
            return np.inf
        group, size = np.unique(self.group, return_inverse=True, return_counts=True)[1:]
        order = np.argsort(self.score, kind="stable")
        reached = np.cumsum((1 / size[group] / (len(size) + 1))[order])
        place = int(np.searchsorted(reached, level - _ROUNDING))
        return float(self.score[order][place]) if place < len(order) else np.inf

    def reach(self, spread: Floats | None, level: float) -> Floats | float:
        """How far intervals reach to both sides on the learned scale [m], or the same for all; see `distance`."""
        if not self.scaled:
            return self.distance(level)
        assert spread is not None
        return self.distance(level) * spread

    def classes(self, probability: Floats, level: float) -> Bools:
        """Which classes the set of a sample holds, the likeliest always: [m, C] of probabilities [m, C]."""
        held: Bools = 1 - probability <= self.distance(level)
        held[np.arange(len(held)), probability.argmax(axis=1)] = True
        return held

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs."""
        return {"score": self.score, "group": self.group, "scaled": np.array([self.scaled])}

    @classmethod
    def restore(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Rebuild."""
        return cls(arrays["score"], arrays["group"], bool(arrays["scaled"][0]))


def fewest_groups(level: float) -> int:
    """Groups that a finite interval needs: G / (G + 1) must reach the level."""
    return int(np.ceil(level / (1 - level) - _ROUNDING))


def listed(text: str) -> list[str]:
    """The names that `spelled` has put together."""
    return next(csv.reader([text]), [])


def spelled(names: Sequence[str]) -> str:
    """Names with commas between them, as options take them: one that holds a comma or a quote is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def assumption(conformity: Conformity, level: float, column: str | None, classes: bool) -> str:
    """What intervals, or sets of classes, rest on, in words.

    Args:
        conformity: what they are made of.
        level: their probability.
        column: of the metadata, that names groups; None where it is not known, or there are none.
        classes: whether these are sets of classes.
    """
    groups, fewest, alone = conformity.groups, fewest_groups(level), conformity.groups == len(conformity.score)
    units, new = ("training samples", "a new sample") if alone else ("groups of the training", "that of a new sample")
    named = units if column is None else f"{units} ({column})"
    if np.isinf(conformity.distance(level)):
        infinite = "every set holds all classes" if classes else "every interval is infinite"
        return f"{groups} {named} are too few for probability {level:g}, which takes {fewest}: {infinite}"
    return (
        f"{'sets' if classes else 'intervals'} hold the true value with probability {level:g} if {new} is drawn like "
        f"the {groups} {named} (exchangeable); made of predictions for left-out ones"
    )

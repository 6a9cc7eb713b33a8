"""Folds within the training samples, for whatever a learner chooses; no group is on both sides."""

import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from aam.learners.base import Problem, Rows

INNER_FOLDS = 5


def inner_folds(problem: Problem, most: int = INNER_FOLDS) -> Iterator[tuple[Rows, Rows]]:
    """Places of the samples to learn from and to judge by, of each fold; by single samples where there is one group."""
    groups = problem.groups
    several = len(np.unique(groups)) > 1
    if not several:
        groups = np.arange(len(groups))
    kinds = len(np.unique(groups))
    folds = min(most, kinds)
    if folds < 2:
        return
    single = kinds == len(groups)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a rare class is in fewer folds
        if problem.classes:
            split = StratifiedKFold if single else StratifiedGroupKFold
            # more folds than the largest class has members are refused by scikit-learn
            folds = max(2, min(folds, int(np.bincount(problem.codes).max())))
        else:
            split = KFold if single else GroupKFold
        splitter = split(folds, shuffle=True, random_state=problem.seed % 2**32)
        target = problem.codes if problem.classes else problem.y
        yield from splitter.split(problem.rows, target, None if single else groups)

"""Folds within the training samples, for whatever a learner chooses; no group is on both sides."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from aam.learners.base import Problem, Rows

INNER_FOLDS = 5


def inner_folds(problem: Problem, most: int = INNER_FOLDS) -> Iterator[tuple[Rows, Rows]]:
    """Places of the samples to learn from and to judge by, of each fold; by single samples where there is one group."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415  # takes long

    groups = problem.groups
    several = len(np.unique(groups)) > 1
    if not several:
        groups = np.arange(len(groups))
    kinds = len(np.unique(groups))
    folds = min(most, kinds)
    if folds < 2:
        return
    single = kinds == len(groups)
    most_alike = int(np.bincount(problem.codes).max()) if problem.classes else 0
    options: dict[str, Any] = {"shuffle": True, "random_state": problem.seed % 2**32}
    if most_alike > 1:
        # more folds than the largest class has samples are refused by scikit-learn
        splitter = (StratifiedKFold if single else StratifiedGroupKFold)(max(2, min(folds, most_alike)), **options)
    else:
        splitter = (KFold if single else GroupKFold)(folds, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a rare class is in fewer folds
        for train, held_out in splitter.split(problem.rows, problem.y, None if single else groups):
            if len(train) and len(held_out):  # classes that few groups have can leave a fold empty
                yield train, held_out

"""What the forest goes by: mean decrease of impurity of the ASVs that it reads (Breiman et al. 1984; Breiman 2001).

It is what scikit-learn calls ``feature_importances_``, computed from the kept trees and their training samples.

Shapes: n training samples, A ASVs, C classes (1 for a number).
"""

import numpy as np

from aam.data.study import Study
from aam.learners.base import Floats, Rows
from aam.learners.trees import LEAF, Forest, ForestSolution


def impurity_decrease(solution: ForestSolution, study: Study, rows: Rows, truth: Floats) -> Floats:
    """Importance of every ASV of a study, with sum 1 (or 0 throughout, where no tree is divided) [A].

    Args:
        solution: a forest of the study's ASVs.
        study: the training study.
        rows: the training samples.
        truth: their numbers, or indicators of classes [n, C].
    """
    features = solution.features(study, rows, solution.columns).astype(np.float32)
    importance = np.zeros(study.table.n_asvs)
    for root in solution.forest.root.tolist():
        gain = _gains(solution.forest, root, features, truth)
        importance += np.bincount(solution.columns[gain[0]], gain[1], minlength=study.table.n_asvs)
    total = importance.sum()
    return importance / total if total > 0 else importance


def _gains(forest: Forest, root: int, features: "np.typing.NDArray[np.float32]", truth: Floats) -> tuple[Rows, Floats]:
    """Features of the inner nodes of a tree, and by how much each lowers the summed squares, of all of its sum."""
    node = np.full(len(features), root)
    columns, gains = [], []
    while True:
        inner = np.flatnonzero(forest.left[node] != LEAF)
        if not len(inner):
            break
        at = node[inner]
        low = features[inner, forest.feature[at]] <= forest.threshold[at]
        node[inner] = root + np.where(low, forest.left[at], forest.right[at])
        parents, place = np.unique(at, return_inverse=True)
        halves, half = np.unique(node[inner], return_inverse=True)
        before = _squares(place, len(parents), truth[inner])
        after = _squares(half, len(halves), truth[inner])
        own = np.zeros(len(halves), dtype=np.int64)
        own[half] = place
        gain = before - np.bincount(own, after, minlength=len(parents))
        columns.append(forest.feature[parents].astype(np.int64))
        gains.append(np.maximum(gain, 0.0))
    if not columns:
        return np.empty(0, np.int64), np.empty(0)
    all_gains = np.concatenate(gains)
    return np.concatenate(columns), all_gains / max(all_gains.sum(), np.finfo(float).tiny)


def _squares(place: Rows, count: int, truth: Floats) -> Floats:
    """Sum of squared distances from the mean of each of several sets of samples [count]."""
    size = np.maximum(np.bincount(place, minlength=count), 1)
    total = np.zeros(count)
    for values in truth.T:
        total += (
            np.bincount(place, values**2, minlength=count) - np.bincount(place, values, minlength=count) ** 2 / size
        )
    return total

"""Forests of scikit-learn, kept as arrays: random forests on ASVs, extra trees on clades.

scikit-learn grows the trees; what predicts, before a checkpoint and after it, is `Forest`, plain arrays that need no
pickle. Features and thresholds are float32: a threshold is the largest float32 at or below scikit-learn's, which
divides the same float32 features the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from aam.config.learners import TreesConfig
from aam.data.study import Study
from aam.learners.base import Arrays, Floats, Learner, Output, Problem, Rows, Solution
from aam.learners.features import log_clades, log_ratios_of_counts, prevalent_asvs, prevalent_branches

LEAF = -1
FEWEST = 50
"""Trees from which on predictions for inner folds are steady enough."""


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees one after another; shapes: N nodes of all trees, K numbers of a leaf."""

    root: NDArray[np.int64]
    """Place of each tree's first node."""
    left: NDArray[np.int32]
    """Child of samples at or below the threshold, counted from the tree's root; `LEAF` in a leaf [N]."""
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    """Column that a node looks at [N]."""
    threshold: NDArray[np.float32]
    value: NDArray[np.float64]
    """What a leaf predicts: a number, or the fraction of each class [N, K]."""

    def predict(self, features: Floats) -> Floats:
        """Mean of the trees: [m], or [m, K] of classes."""
        columns = features.astype(np.float32)
        total = np.zeros((len(columns), self.value.shape[1]))
        for root in self.root:
            total += self.value[self._leaves(columns, int(root))]
        total /= len(self.root)
        return total[:, 0] if total.shape[1] == 1 else total

    def _leaves(self, columns: NDArray[np.float32], root: int) -> NDArray[np.int64]:
        """The leaf of every sample in the tree that begins at a node [m]."""
        node = np.full(len(columns), root)
        inner = np.flatnonzero(self.left[node] != LEAF)
        while len(inner):
            at = node[inner]
            low = columns[inner, self.feature[at]] <= self.threshold[at]
            node[inner] = root + np.where(low, self.left[at], self.right[at])
            inner = inner[self.left[node[inner]] != LEAF]
        return node

    def arrays(self) -> Arrays:
        """The trees as arrays."""
        return {name: getattr(self, name) for name in ("root", "left", "right", "feature", "threshold", "value")}

    @classmethod
    def restore(cls, arrays: Arrays) -> Self:
        """Rebuild."""
        return cls(**{name: arrays[name] for name in ("root", "left", "right", "feature", "threshold", "value")})


@dataclass(frozen=True)
class TreesOf:
    """How a forest is grown."""

    trees: int
    kind: Literal["random", "extra"] = "random"
    min_samples_leaf: int | None = None
    """None: 2 for numbers, 1 for classes."""


def forest_of(kind: TreesOf, features: Floats, problem: Problem) -> Forest:
    """Grow a forest on features of the training samples [n, columns].

    The settings are those of benchmarks/random_forest.py: a fifth of the columns at each split and two samples in a
    leaf for numbers, scikit-learn's own for classes.
    """
    from sklearn import ensemble  # noqa: PLC0415  # takes long, and a forest that is grown predicts without

    options: dict[str, Any] = {"n_estimators": kind.trees, "random_state": problem.seed % 2**32, "n_jobs": 1}
    if problem.classes:
        grower = ensemble.RandomForestClassifier if kind.kind == "random" else ensemble.ExtraTreesClassifier
        options |= {"min_samples_leaf": kind.min_samples_leaf or 1}
        target: NDArray[Any] = problem.codes
    else:
        grower = ensemble.RandomForestRegressor if kind.kind == "random" else ensemble.ExtraTreesRegressor
        options |= {"min_samples_leaf": kind.min_samples_leaf or 2, "max_features": 0.2}
        target = problem.y
    grown = grower(**options).fit(features.astype(np.float32), target, sample_weight=problem.weight)
    return as_arrays(grown, problem.classes)


def as_arrays(grown: Any, classes: int) -> Forest:
    """Join the trees of a forest of scikit-learn, for numbers (0) or so many classes."""
    present = grown.classes_.astype(np.int64) if classes else np.zeros(1, np.int64)
    trees, width = [one.tree_ for one in grown.estimators_], max(1, classes)
    value = np.zeros((sum(tree.node_count for tree in trees), width))
    value[:, present] = np.concatenate([tree.value[:, 0, :] for tree in trees])
    if width > 1:
        value /= value.sum(axis=1, keepdims=True)
    threshold = np.concatenate([tree.threshold for tree in trees])
    single = threshold.astype(np.float32)
    too_high = single > threshold
    single[too_high] = np.nextafter(single[too_high], np.float32(-np.inf))
    sizes = [tree.node_count for tree in trees]
    return Forest(
        np.cumsum([0, *sizes[:-1]]),
        np.concatenate([tree.children_left for tree in trees]).astype(np.int32),
        np.concatenate([tree.children_right for tree in trees]).astype(np.int32),
        np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        single,
        value,
    )


def fewer_trees(config: TreesConfig) -> TreesConfig:
    """A fifth of the trees, but no fewer than `FEWEST`, where there are more."""
    return config.model_copy(update={"trees": min(config.trees, max(FEWEST, config.trees // 5))})


@dataclass(eq=False)
class ForestSolution(Solution):
    """A random forest on centred log-ratios of ASVs."""

    columns: NDArray[np.int64]
    """Of the features: ASVs, or branches."""
    forest: Forest

    @staticmethod
    def features(study: Study, rows: Rows, columns: NDArray[np.int64]) -> Floats:
        """Features of some samples [m, columns]."""
        return log_ratios_of_counts(study, rows, columns)

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict by the mean of the trees."""
        return Output(self.forest.predict(self.features(study, rows, self.columns)))

    def arrays(self) -> Arrays:
        """Columns and trees."""
        return {"columns": self.columns, **self.forest.arrays()}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild."""
        return cls(arrays["columns"], Forest.restore(arrays))


@dataclass(eq=False)
class CladesSolution(ForestSolution):
    """Extra trees on the log proportions of clades."""

    @property
    def reads_branches(self) -> bool:
        """They are its features."""
        return True

    @staticmethod
    def features(study: Study, rows: Rows, columns: NDArray[np.int64]) -> Floats:
        """Features of some samples [m, branches]."""
        return log_clades(study, rows, columns)


@dataclass(frozen=True)
class ForestLearner(Learner):
    """What users have today, and the yardstick: a random forest on log-ratios of prevalent ASVs."""

    config: TreesConfig
    name: ClassVar[str] = "forest"
    refits: ClassVar[bool] = True

    def frugal(self) -> Self:
        """With a fifth of the trees."""
        return type(self)(fewer_trees(self.config))

    def solve(self, problem: Problem) -> ForestSolution:
        """Choose prevalent ASVs and grow the trees."""
        columns = prevalent_asvs(problem.study, problem.rows, self.config.min_prevalence)
        features = ForestSolution.features(problem.study, problem.rows, columns)
        return ForestSolution(columns, forest_of(TreesOf(self.config.trees), features, problem))


@dataclass(frozen=True)
class CladesLearner(ForestLearner):
    """Extra trees (Geurts, Ernst and Wehenkel 2006) on the log proportion of every clade of the tree."""

    name: ClassVar[str] = "clades"
    needs_tree: ClassVar[bool] = True

    def solve(self, problem: Problem) -> CladesSolution:
        """Choose prevalent clades and grow the trees."""
        branches = prevalent_branches(problem.study, problem.rows, self.config.min_prevalence)
        features = CladesSolution.features(problem.study, problem.rows, branches)
        return CladesSolution(branches, forest_of(TreesOf(self.config.trees, "extra"), features, problem))

"""Linear models on centred log-ratios of prevalent ASVs; the penalty is chosen by folds that respect groups.

Shapes: n samples, P prevalent ASVs, K numbers (1) or classes, R penalties from the strongest on.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from aam.config.learners import LinearConfig, Penalty, TreesConfig
from aam.data.study import Study
from aam.learners.base import Arrays, Floats, Learner, Output, Problem, Rows, Solution
from aam.learners.features import log_ratios_of_proportions, prevalent_asvs
from aam.learners.folds import inner_folds

RIDGE_STRENGTHS = np.logspace(4, -4, 17)
"""In units of the features' mean squared length, as those of logistic regression."""
LOGISTIC_STRENGTHS = np.logspace(1, -4, 11)
SPARSE_STRENGTHS = np.logspace(0, -2.5, 11)
"""Shares of the penalty at which every coefficient is zero."""
ITERATIONS = {"lbfgs": 300, "saga": 50}
"""Of logistic regression at each penalty, the next one going on from there."""
L1_SHARE: Mapping[Penalty, float] = {"l2": 0.0, "l1": 1.0, "elasticnet": 0.5}


@dataclass(eq=False)
class LinearSolution(Solution):
    """One linear score for numbers, or for each class."""

    columns: NDArray[np.int64]
    coefficients: Floats
    """[P, K]."""
    intercept: Floats
    """[K]; minus infinity for a class without a training sample."""
    classes: bool

    def predict(self, study: Study, rows: Rows) -> Output:
        """Weigh the log-ratios."""
        scores = log_ratios_of_proportions(study, rows, self.columns) @ self.coefficients + self.intercept
        return _output(scores, self.classes)

    def arrays(self) -> Arrays:
        """Columns and coefficients."""
        return {"columns": self.columns, "coefficients": self.coefficients, "intercept": self.intercept}

    def settings(self) -> dict[str, Any]:
        """Whether there are classes."""
        return {"classes": self.classes}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild."""
        return cls(arrays["columns"], arrays["coefficients"], arrays["intercept"], settings["classes"])


class _Data(NamedTuple):
    """Training samples."""

    features: Floats
    """[n, P]."""
    y: Floats
    """Numbers, or places of classes [n]."""
    weight: Floats
    """[n]."""
    classes: int

    def take(self, index: Rows) -> "_Data":
        return _Data(self.features[index], self.y[index], self.weight[index], self.classes)


class _Path(NamedTuple):
    """Models of rising freedom."""

    coefficients: Floats
    """[R, P, K]."""
    intercept: Floats
    """[R, K]."""

    def scores(self, features: Floats) -> Floats:
        """[R, n, K]."""
        scores: Floats = features @ self.coefficients + self.intercept[:, None, :]
        return scores


@dataclass(frozen=True)
class LinearLearner(Learner):
    """Ridge for numbers, multinomial logistic regression for classes, or with sparse coefficients."""

    config: LinearConfig
    trees: TreesConfig
    name: ClassVar[str] = "linear"

    def solve(self, problem: Problem) -> LinearSolution:
        """Choose prevalent ASVs and the penalty, and fit."""
        columns = prevalent_asvs(problem.study, problem.rows, self.trees.min_prevalence)
        features = log_ratios_of_proportions(problem.study, problem.rows, columns)
        center = np.average(features, axis=0, weights=problem.weight)
        data = _Data(features - center, problem.y, problem.weight, problem.classes)
        best, left_out = self._choose(data, list(inner_folds(problem)))
        path = self._path(data, best + 1)
        coefficients = path.coefficients[best]
        intercept = path.intercept[best] - center @ coefficients
        solution = LinearSolution(columns, coefficients, intercept, problem.classes > 0)
        solution.left_out = left_out
        return solution

    def _choose(self, data: _Data, folds: list[tuple[Rows, Rows]]) -> tuple[int, Output | None]:
        """Place of the penalty with the smallest loss on held-out groups, and the predictions for these."""
        if not folds:
            return 0, None
        scores = [self._path(data.take(train)).scores(data.features[held_out]) for train, held_out in folds]
        losses = [_losses(part, data.take(held_out)) for part, (_, held_out) in zip(scores, folds, strict=True)]
        best = int(np.argmin(np.sum(losses, axis=0)))
        left_out = np.zeros((len(data.y), max(1, data.classes)))
        for part, (_, held_out) in zip(scores, folds, strict=True):
            left_out[held_out] = part[best]
        return best, _output(left_out, data.classes > 0)

    def _path(self, data: _Data, steps: int | None = None) -> _Path:
        """Models of the first few penalties."""
        if data.classes:
            return _logistic_path(data, self.config.linear_penalty, steps)
        if self.config.linear_penalty == "l2":
            return _ridge_path(data, steps)
        return _sparse_path(data, L1_SHARE[self.config.linear_penalty], steps)


def _output(scores: Floats, classes: bool) -> Output:
    return Output(softmax(scores, axis=1) if classes else scores[:, 0])


def _losses(scores: Floats, held_out: _Data) -> Floats:
    """Squared errors or log losses, summed [R]; of classes only those that were there to learn."""
    if not held_out.classes:
        errors: Floats = np.square(scores[:, :, 0] - held_out.y) @ held_out.weight
        return errors
    codes = held_out.y.astype(np.int64)
    taken = log_softmax(scores, axis=2)[:, np.arange(len(codes)), codes]
    known = np.isfinite(taken[0])
    losses: Floats = -taken[:, known] @ held_out.weight[known]
    return losses


def _weighed(data: _Data) -> tuple[Floats, float, Floats, Floats]:
    """Means of features and y, and both centred and weighed for least squares."""
    root = np.sqrt(data.weight)
    mean = np.average(data.features, axis=0, weights=data.weight)
    mean_y = float(np.average(data.y, weights=data.weight))
    return mean, mean_y, (data.features - mean) * root[:, None], (data.y - mean_y) * root


def _ridge_path(data: _Data, steps: int | None) -> _Path:
    """Ridge regression (Hoerl and Kennard 1970), for all penalties from one decomposition."""
    mean, mean_y, features, y = _weighed(data)
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    squared = np.square(singular)
    penalty = RIDGE_STRENGTHS[:steps, None] * (squared.sum() or 1.0) / len(y)  # features that are all alike: 0
    coefficients = (singular * (left.T @ y)) / (squared + penalty) @ right
    return _Path(coefficients[:, :, None], mean_y - (coefficients @ mean)[:, None])


def _sparse_path(data: _Data, l1_ratio: float, steps: int | None) -> _Path:
    """Lasso or elastic net (Zou and Hastie 2005)."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  # takes long, and what is fitted predicts without
    from sklearn.linear_model import enet_path  # noqa: PLC0415

    mean, mean_y, features, y = _weighed(data)
    most = (np.abs(features.T @ y).max() or 1.0) / (len(y) * l1_ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough at the weakest penalties
        alphas = most * SPARSE_STRENGTHS[:steps]
        coefficients = enet_path(features, y, l1_ratio=l1_ratio, alphas=alphas, max_iter=2000)[1].T
    return _Path(coefficients[:, :, None], mean_y - (coefficients @ mean)[:, None])


def _logistic_path(data: _Data, penalty: Penalty, steps: int | None) -> _Path:
    """Multinomial logistic regression; every model begins where the one before has ended."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    features, back = _rotated(data.features) if penalty == "l2" else (data.features, None)
    codes, strengths = data.y.astype(np.int64), LOGISTIC_STRENGTHS[:steps]
    present = np.unique(codes)
    if len(present) == 1:
        return _one_class(data, int(present[0]), len(strengths))
    length = np.mean(np.square(features).sum(axis=1)) or 1.0
    solver = "lbfgs" if penalty == "l2" else "saga"
    model = LogisticRegression(
        l1_ratio=L1_SHARE[penalty], solver=solver, warm_start=True, max_iter=ITERATIONS[solver], random_state=0
    )
    models = []
    for strength in strengths:
        model.set_params(C=1.0 / (strength * length))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # close enough at the weakest penalties
            model.fit(features, codes, sample_weight=data.weight)
        models.append(_of_all_classes(model, present, data.classes, back))
    return _Path(*(np.stack(parts) for parts in zip(*models, strict=True)))


def _rotated(features: Floats) -> tuple[Floats, Floats | None]:
    """The samples on as many axes as there are samples, where there are more features, and the way back.

    A solution with an l2 penalty lies in the span of the samples, so nothing is lost.
    """
    if features.shape[0] >= features.shape[1]:
        return features, None
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    return left * singular, right


def _of_all_classes(model: Any, present: Rows, classes: int, back: Floats | None) -> tuple[Floats, Floats]:
    """Coefficients [P, C] and intercepts [C] of all classes; those without a sample have probability 0."""
    found, intercepts = model.coef_.T.copy(), model.intercept_.copy()
    if back is not None:
        found = back.T @ found
    if found.shape[1] == 1:  # of two classes scikit-learn gives one score
        found, intercepts = np.column_stack([-found / 2, found / 2]), np.r_[-intercepts / 2, intercepts / 2]
    coefficients, intercept = np.zeros((found.shape[0], classes)), np.full(classes, -np.inf)
    coefficients[:, present], intercept[present] = found, intercepts
    return coefficients, intercept


def _one_class(data: _Data, present: int, steps: int) -> _Path:
    intercept = np.full((steps, data.classes), -np.inf)
    intercept[:, present] = 0.0
    return _Path(np.zeros((steps, data.features.shape[1], data.classes)), intercept)

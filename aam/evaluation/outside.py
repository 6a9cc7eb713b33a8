"""Learners of other packages, for comparison: fitted by their defaults to the features of the forest, and never kept.

Shapes: m samples to predict, P prevalent ASVs, C classes of which c have training samples.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import has_fit_parameter

from aam.config.learners import TreesConfig
from aam.data.study import Study
from aam.errors import InputError
from aam.learners.base import ComparedSolution, Learner, Output, Problem, Rows
from aam.learners.features import log_ratios_of_counts, prevalent_asvs


class _Package(NamedTuple):
    """Where a learner is, and its options besides the seed."""

    classifier: str
    regressor: str
    options: Mapping[str, Any]
    """One thread and no words; and what makes the same seed give the same model."""


PACKAGES: dict[str, _Package] = {
    "lightgbm": _Package(
        "LGBMClassifier",
        "LGBMRegressor",
        {"n_jobs": 1, "verbosity": -1, "deterministic": True, "force_row_wise": True},
    ),
    "xgboost": _Package("XGBClassifier", "XGBRegressor", {"n_jobs": 1, "verbosity": 0}),
    "tabicl": _Package("TabICLClassifier", "TabICLRegressor", {"n_jobs": 1, "device": "cpu"}),
}
"""By the name that they have with pip, in Python and in a comparison."""
LARGEST_SEED = 2**31


def check_installed(name: str) -> None:
    """Refuse a package that is not there.

    Raises:
        InputError: it is not installed.
    """
    if find_spec(name) is None:
        raise InputError(f"--with {name}: it is not installed here: pip install {name}")


@dataclass(frozen=True, eq=False)
class OutsideSolution(ComparedSolution):
    """A fitted model."""

    columns: NDArray[np.int64]
    """ASVs [P]."""
    model: Any
    present: NDArray[np.int64]
    """Places of the classes with training samples [c]; empty where numbers are predicted."""
    classes: int

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict numbers, or probabilities, which are 0 for classes without a training sample."""
        features = log_ratios_of_counts(study, rows, self.columns)
        if not self.classes:
            with _quiet():
                return Output(np.asarray(self.model.predict(features), np.float64))
        value = np.zeros((len(rows), self.classes))
        with _quiet():
            value[:, self.present] = 1.0 if self.model is None else self.model.predict_proba(features)
        return Output(value)


@dataclass(frozen=True)
class OutsideLearner(Learner):
    """A classifier or regressor of another package, through the interface of scikit-learn."""

    package: str
    trees: TreesConfig
    name: ClassVar[str] = "outside"
    """That of the package."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.package)

    def solve(self, problem: Problem) -> OutsideSolution:
        """Choose prevalent ASVs, and fit with one thread.

        Raises:
            InputError: the package cannot be loaded, has no weights of samples where they differ, or lacks a download.
        """
        columns = prevalent_asvs(problem.study, problem.rows, self.trees.min_prevalence)
        features = log_ratios_of_counts(problem.study, problem.rows, columns)
        if not problem.classes:
            return OutsideSolution(columns, self._fit(features, problem, problem.y), np.empty(0, np.int64), 0)
        present, places = np.unique(problem.codes, return_inverse=True)
        model = None if len(present) == 1 else self._fit(features, problem, places)
        return OutsideSolution(columns, model, present, problem.classes)

    def _fit(self, features: NDArray[np.float64], problem: Problem, target: NDArray[Any]) -> Any:
        package = PACKAGES[self.name]
        try:
            kind = getattr(import_module(self.name), package.classifier if problem.classes else package.regressor)
        except (ImportError, OSError) as error:
            raise InputError(f"--with {self.name}: it cannot be loaded ({error})") from None
        model = kind(random_state=problem.seed % LARGEST_SEED, **package.options)
        weights = {}
        if has_fit_parameter(model, "sample_weight"):
            weights["sample_weight"] = problem.weight
        elif np.ptp(problem.weight) > 0:
            raise InputError(f"--with {self.name}: it takes no weights of samples, which differ here: leave it out")
        try:
            with _quiet():
                return model.fit(features, target, **weights)
        except OSError as error:
            raise InputError(f"--with {self.name}: a file that it needs cannot be had ({error})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the packages on names of features, which arrays have none of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        yield

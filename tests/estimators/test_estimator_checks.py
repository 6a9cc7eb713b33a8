"""scikit-learn's own checks of estimators.

They fit plain arrays, and a table of aam has ids of samples and the DNA of ASVs. `_OnArrays` gives the arrays of the
checks both, and all else is the estimator's.
"""

import logging

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import check_estimator

import aam

NO_IDS = "an array has no ids of samples and ASVs; the message says how to give them"
BY_SEQUENCE = "tables are joined by the sequences of ASVs: another table may hold others, which are counted as lost"
WORDING = "aam refuses it with an InputError, a ValueError, in other words than scikit-learn expects"
EXCEPTIONS = {
    "check_n_features_in_after_fitting": BY_SEQUENCE,
    "check_complex_data": WORDING,
    "check_estimators_empty_data_messages": WORDING,
    "check_estimators_nan_inf": WORDING,
    "check_estimator_sparse_tag": NO_IDS,
    "check_estimator_sparse_array": NO_IDS,
    "check_estimator_sparse_matrix": NO_IDS,
    "check_fit2d_predict1d": NO_IDS,
    "check_supervised_y_2d": "one column of y in two dimensions may be a mistake, and is refused rather than flattened",
    "check_requires_y_none": WORDING,
}
"""Checks that fail, and why they may."""
OF_REGRESSORS = {"check_regressor_data_not_an_array": "targets are a Series, a list or an array"}
OF_CLASSIFIERS = {
    "check_classifier_data_not_an_array": "targets are a Series, a list or an array",
    "check_classifiers_regression_target": "classes may be any labels, and 0.5 is one",
    "check_classifiers_train": BY_SEQUENCE,  # at its end; what it says of predictions holds
}
SKIPPED = {"check_array_api_input": "needs SCIPY_ARRAY_API; aam takes no arrays of other libraries"}


def _dna(number: int) -> str:
    return "ACGT" * 4 + "".join("ACGT"[number // 4**place % 4] for place in range(8))


def _as_table(given):
    """Counts that rise with the values; ids of samples are their values, so that no order of rows matters."""
    values = np.array(given) if isinstance(given, list) else given
    if not isinstance(values, np.ndarray) or values.ndim != 2 or np.iscomplexobj(values):
        return given
    numbers = values.astype(np.float64)
    counts = np.rint(20 * np.exp(np.where(np.isfinite(numbers), np.clip(numbers, -3, 3), numbers)))
    ids = [f"s{place}-{row}" for place, row in enumerate(map(hash, map(bytes, values)))]
    return pd.DataFrame(counts, index=ids, columns=[_dna(place) for place in range(values.shape[1])])


class _OnArrays:
    def fit(self, table, y, **more):
        return super().fit(_as_table(table), y, **more)

    def predict(self, table, **more):
        return super().predict(_as_table(table), **more)

    def score(self, table, y, **more):
        return super().score(_as_table(table), y, **more)

    def __sklearn_tags__(self):
        """As of an estimator that checks its arrays, so that all checks run."""
        tags = super().__sklearn_tags__()
        tags.no_validation = False
        return tags


class Regressor(_OnArrays, aam.SampleRegressor):
    """A regressor for the checks."""


class Classifier(_OnArrays, aam.SampleClassifier):
    """A classifier for the checks."""

    def predict_proba(self, table, **more):
        return super().predict_proba(_as_table(table), **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "exceptions"), [(Regressor, EXCEPTIONS | OF_REGRESSORS), (Classifier, EXCEPTIONS | OF_CLASSIFIERS)]
)
def test_checks_of_scikit_learn(kind, exceptions):
    logging.disable(logging.WARNING)
    try:
        results = check_estimator(kind(learner="forest", options={"trees": 5}), on_fail=None, on_skip=None)
    finally:
        logging.disable(logging.NOTSET)
    by_status = {
        status: {r["check_name"] for r in results if r["status"] == status} for status in ("failed", "skipped")
    }
    reasons = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert by_status["failed"] == set(exceptions), {
        name: reasons.get(name) for name in reasons.keys() ^ set(exceptions)
    }
    assert by_status["skipped"] == set(SKIPPED)
    assert sum(r["status"] == "passed" for r in results) >= 35

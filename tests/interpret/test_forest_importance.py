"""What the kept forest goes by is what scikit-learn says of it."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.interpret.forest_importance import impurity_decrease
from aam.learners.trees import ForestSolution, as_arrays


@pytest.fixture(scope="module")
def study() -> Study:
    counts = np.random.default_rng(0).poisson(5, (60, 12))
    names = tuple(f"asv{number}" for number in range(12))
    sequences = tuple("ACGT" * 5 + "ACGT"[number % 4] * (number + 1) for number in range(12))
    return Study(FeatureTable(sparse.csr_array(counts), tuple(f"s{n}" for n in range(60)), names, sequences))


@pytest.mark.parametrize("kind", [RandomForestRegressor, RandomForestClassifier])
def test_importance_is_that_of_scikit_learn(study, kind):
    rows, columns = np.arange(50), np.array([0, 2, 3, 5, 7, 8, 11])
    features = ForestSolution.features(study, rows, columns).astype(np.float32)
    y = features[:, 2] + 0.5 * features[:, 4]
    if kind is RandomForestClassifier:
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    grown = kind(20, bootstrap=False, max_features=3, min_samples_leaf=2, random_state=1).fit(features, y)
    classes = 3 if kind is RandomForestClassifier else 0
    truth = np.eye(3)[y] if classes else y[:, None].astype(float)
    found = impurity_decrease(ForestSolution(columns, as_arrays(grown, classes)), study, rows, truth)
    assert found[columns] == pytest.approx(grown.feature_importances_, abs=1e-4)
    assert found.sum() == pytest.approx(1.0)
    assert found[[1, 4, 6, 9, 10]].tolist() == [0.0] * 5

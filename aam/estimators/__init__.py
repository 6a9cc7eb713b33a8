"""Objects for notebooks, by the conventions of scikit-learn: `SampleEncoder`, `SampleRegressor`, `SampleClassifier`."""

from aam.estimators.encoder import SampleEncoder
from aam.estimators.predictors import SampleClassifier, SampleRegressor
from aam.estimators.read import read

__all__ = ["SampleClassifier", "SampleEncoder", "SampleRegressor", "read"]

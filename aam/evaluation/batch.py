"""What columns of the laboratory (run, plate, primer, centre) alone tell of the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from aam.data.files.metadata import categorical_column
from aam.data.study import Study
from aam.learners.base import ComparedSolution, Floats, Learner, Output, Problem, Rows

TREES = 200
LEAF = 3


@dataclass(frozen=True, eq=False)
class BatchSolution(ComparedSolution):
    """A small forest on the values of the columns; values that training has not seen are none of the known ones."""

    columns: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    """Values of each column in training."""
    classes: int
    forest: RandomForestClassifier | RandomForestRegressor

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict from the metadata of the samples."""
        features = one_hot(texts(study, self.columns, rows), self.known)
        if not self.classes:
            return Output(self.forest.predict(features))
        value = np.zeros((len(rows), self.classes))
        value[:, self.forest.classes_.astype(np.int64)] = self.forest.predict_proba(features)
        return Output(value)


@dataclass(frozen=True)
class BatchLearner(Learner):
    """A small forest on columns of the metadata: where it predicts the target, target and batch are confounded."""

    name: ClassVar[str] = "batch"
    columns: tuple[str, ...] = ()

    def solve(self, problem: Problem) -> BatchSolution:
        """Fit the forest."""
        values = texts(problem.study, self.columns, problem.rows)
        known = tuple(tuple(np.unique(column).tolist()) for column in values.T)
        kind = RandomForestClassifier if problem.classes else RandomForestRegressor
        forest = kind(TREES, min_samples_leaf=LEAF, random_state=problem.seed % 2**32)
        y: NDArray[Any] = problem.codes if problem.classes else problem.y
        forest.fit(one_hot(values, known), y, problem.weight)
        return BatchSolution(self.columns, known, problem.classes, forest)


def texts(study: Study, columns: Sequence[str], rows: Rows) -> NDArray[np.str_]:
    """Values of columns as text, missing ones empty [m, columns]."""
    assert study.metadata is not None
    frame = pd.DataFrame({name: categorical_column(study.metadata, name).fillna("") for name in columns})
    return frame.to_numpy(dtype=np.str_)[rows]


def one_hot(values: NDArray[np.str_], known: Sequence[Sequence[str]]) -> Floats:
    """One column of 0 and 1 for each known value of each column [m, values]."""
    blocks = [column[:, None] == np.array(names)[None, :] for column, names in zip(values.T, known, strict=True)]
    return np.concatenate(blocks, axis=1).astype(np.float64)

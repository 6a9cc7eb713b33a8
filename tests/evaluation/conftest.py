"""Small studies and learners for tests of evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from aam.config import EvaluateConfig, TargetConfig
from aam.data.files.tables import FeatureTable
from aam.data.labels.target_table import target_values
from aam.data.study import Study
from aam.learners.base import Labels, Learner, Output, Problem, Solution
from aam.learners.simple import DepthLearner, NullLearner


class _Fitted(Solution):
    def __init__(self, predict) -> None:
        self._predict = predict

    def predict(self, study, rows):
        return self._predict(study, rows)

    def arrays(self):
        raise NotImplementedError

    @classmethod
    def restore(cls, settings, arrays):
        raise NotImplementedError


@dataclass(frozen=True)
class Shares(Learner):
    """Ridge on the shares of ASVs, or the shares of classes; with a spread for numbers."""

    name: ClassVar[str] = "linear"

    def solve(self, problem: Problem) -> Solution:
        target = np.eye(problem.classes)[problem.codes] if problem.classes else problem.y
        model = Ridge(1e-2).fit(problem.study.asv_proportions[problem.rows].toarray(), target)

        def predict(study: Study, rows: np.ndarray) -> Output:
            value = model.predict(study.asv_proportions[rows].toarray())
            if not problem.classes:
                return Output(value, np.full(len(rows), 0.5))
            value = np.clip(value, 0.01, 1)
            return Output(value / value.sum(axis=1, keepdims=True))

        return _Fitted(predict)


@dataclass(frozen=True)
class Means(Learner):
    """The mean, or how frequent classes are."""

    name: ClassVar[str] = "means"

    def solve(self, problem: Problem) -> Solution:
        if problem.classes:
            value = np.bincount(problem.codes, minlength=problem.classes) / len(problem.y)
            return _Fitted(lambda _, rows: Output(np.tile(value, (len(rows), 1))))
        mean = problem.y.mean()
        return _Fitted(lambda _, rows: Output(np.full(len(rows), mean)))


def make_study(groups: int = 12, each: int = 4, asvs: int = 6, seed: int = 0) -> tuple[Study, pd.DataFrame]:
    """Samples of groups; column ``number`` follows an ASV, ``kind`` says which of two is more, ``plate`` is noise."""
    rng = np.random.default_rng(seed)
    size = groups * each
    counts = rng.poisson(30, (size, asvs)) + 1
    ids = tuple(f"s{number:03d}" for number in range(size))
    shares = counts / counts.sum(axis=1, keepdims=True)
    metadata = pd.DataFrame(
        {
            "number": 100 * shares[:, 0] + rng.normal(0, 0.3, size),
            "kind": np.where(shares[:, 0] > shares[:, 1], "more", "less"),
            "subject": np.repeat([f"g{number:02d}" for number in range(groups)], each),
            "plate": [f"p{number % 3}" for number in range(size)],
        },
        index=pd.Index(ids, name="sample_id"),
    )
    names = tuple(f"a{number}" for number in range(asvs))
    sequences = tuple("ACGT"[number % 4] * 20 + "ACGT"[number // 4] for number in range(asvs))
    table = FeatureTable(sparse.csr_array(counts.astype(np.int64)), ids, names, sequences)
    return Study(table, metadata), metadata


def make_labels(metadata: pd.DataFrame, column: str = "number", grouped: bool = True) -> Labels:
    target = TargetConfig(metadata_column=(column,), classifier=not pd.api.types.is_numeric_dtype(metadata[column]))
    groups = metadata["subject"].to_numpy(dtype=np.str_) if grouped else None
    return Labels(target_values(metadata, target), target, groups)


def make_config(**options: object) -> EvaluateConfig:
    base = {"output_dir": "unused", "metadata_column": "number", "group_column": "subject"}
    drawn = options.get("cv") != "leave-one-group-out" and not options.keys() & {"fold_column", "test_column"}
    base |= {"repeats": 1} if drawn else {}
    return EvaluateConfig.from_flat({**base, **options})


@pytest.fixture
def learners() -> dict[str, Learner]:
    return {"null": NullLearner(), "depth": DepthLearner(), "forest": Means(), "linear": Shares()}


@pytest.fixture
def study_of() -> Callable[..., tuple[Study, pd.DataFrame]]:
    return make_study


@pytest.fixture
def config() -> Callable[..., EvaluateConfig]:
    return make_config


@pytest.fixture
def labels_of() -> Callable[..., Labels]:
    return make_labels

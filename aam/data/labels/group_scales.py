"""Scales of a numeric target that are fitted for each category by itself (``--normalize-by``)."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from aam.data.files.metadata import categorical_column
from aam.data.labels.targets import TargetScaler
from aam.errors import first_ids

logger = logging.getLogger(__name__)

LEAST_SAMPLES = 5
"""Training samples that a category needs for a scale of its own."""
LEAST_SPREAD = 0.05
"""Spread that it needs, as a fraction of the median over categories: new values would be huge numbers on its scale."""


@dataclass(frozen=True)
class GroupScales:
    """A z-score for each combination of categories; others have that of all training samples."""

    columns: tuple[str, ...]
    whole: TargetScaler
    groups: Mapping[str, TargetScaler]
    """By the categories of a combination, joined as `_groups` does."""

    @classmethod
    def fit(
        cls, values: "pd.Series[float]", metadata: pd.DataFrame, columns: Sequence[str], whole: TargetScaler
    ) -> Self:
        """Fit a scale to every combination of columns that has enough training samples and spread.

        Values are those of the training samples, none missing, and metadata of all samples, by sample id; `whole` is
        the scale of all training samples.

        Raises:
            InputError: a column is not there.
        """
        scales = {}
        names = _groups(metadata.loc[list(values.index)], columns)
        for name in sorted(set(names.dropna())):
            own = values[names == name]
            if len(own) >= LEAST_SAMPLES and own.nunique() > 1:
                scales[name] = TargetScaler.fit(own.to_numpy(np.float64), whole.kind, list(own.index))
        least = LEAST_SPREAD * np.median([scaler.scale for scaler in scales.values()]) if scales else 0.0
        return cls(tuple(columns), whole, {name: scaler for name, scaler in scales.items() if scaler.scale >= least})

    def of(self, metadata: pd.DataFrame) -> TargetScaler:
        """The scale of every sample, [samples].

        Raises:
            InputError: a column is not there.
        """
        scalers = [self.groups.get(name, self.whole) for name in _groups(metadata, self.columns)]
        return TargetScaler(
            self.whole.kind,
            np.array([scaler.offset for scaler in scalers], dtype=np.float64),
            np.array([scaler.scale for scaler in scalers], dtype=np.float64),
        )

    def warn_of_others(self, metadata: pd.DataFrame, target: str) -> None:
        """Say how many samples have no scale of their own for a target.

        Raises:
            InputError: a column is not there.
        """
        names = _groups(metadata, self.columns)
        other = names[~names.isin(list(self.groups))]
        if len(other):
            found = Counter("missing" if pd.isna(name) else name for name in other)
            logger.warning(
                "--normalize-by: for %s, %d samples are of categories with fewer than %d training samples or hardly "
                "any spread (%s): they have the scale of all training samples",
                target,
                len(other),
                LEAST_SAMPLES,
                first_ids(f"{name}: {count}" for name, count in found.most_common()),
            )

    def to_json(self) -> dict[str, Any]:
        """JSON document that `from_json` turns into equal scales."""
        return {
            "columns": list(self.columns),
            "whole": self.whole.to_json(),
            "groups": {name: scaler.to_json() for name, scaler in self.groups.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`."""
        groups = {name: TargetScaler.from_json(text) for name, text in document["groups"].items()}
        return cls(tuple(document["columns"]), TargetScaler.from_json(document["whole"]), groups)


def _groups(metadata: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[Any]":
    """Combination of categories of every sample, such as ``winter, gut``; None where one of them is missing."""
    parts = [categorical_column(metadata, column) for column in columns]
    joined = [
        None if any(value is None for value in row) else ", ".join(value.replace(",", ",,") for value in row)
        for row in zip(*parts, strict=True)
    ]
    return pd.Series(joined, index=metadata.index, dtype=object)

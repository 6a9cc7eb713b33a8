"""A metadata column as the model learns it and as users read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from aam.config import TargetConfig
from aam.data.metadata import categorical_column, numeric_column
from aam.data.targets import ClassEncoder, TargetScaler
from aam.errors import InputError, first_ids

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TargetColumn:
    """Name of a column, and how its values become what the model predicts: a scaled number, or classes."""

    name: str
    scale: TargetScaler | None = None
    """For regression."""
    classes: ClassEncoder | None = None
    """For classification."""

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a sample."""
        return 1 if self.classes is None else len(self.classes.classes)

    @classmethod
    def fit(cls, values: "pd.Series[Any]", config: TargetConfig) -> Self:
        """Fit scale or classes to the training samples.

        Raises:
            InputError: the values are constant, of one class, or outside of what the transform takes.
        """
        if config.classifier:
            return cls(config.metadata_column, classes=ClassEncoder.fit(list(values)))
        scale = TargetScaler.fit(values.to_numpy(np.float64), config.target_transform, list(values.index))
        return cls(config.metadata_column, scale=scale)

    def encode(self, values: "pd.Series[Any]") -> NDArray[Any]:
        """Bring values to the learned scale (float64 [samples]) or to class indices (int64 [samples])."""
        if self.classes is not None:
            return self.classes.encode(list(values), list(values.index))
        assert self.scale is not None
        return self.scale.transform(values.to_numpy(np.float64), list(values.index))

    def decode(self, outputs: FloatArray, sample_ids: Sequence[str]) -> pd.DataFrame:
        """Make a table of predictions.

        Args:
            outputs: what the model gives, [samples, K].
            sample_ids: ids of the samples.

        Returns:
            By sample id: a column ``prediction``, in the target's own units or the most probable class; for classes
            also a column ``probability_NAME`` each.
        """
        index = pd.Index(list(sample_ids), name="sample_id")
        if self.classes is None:
            assert self.scale is not None
            return pd.DataFrame({"prediction": self.scale.inverse(outputs[:, 0])}, index=index)
        probabilities = softmax(outputs, axis=1)
        table = pd.DataFrame({"prediction": self.classes.decode(outputs.argmax(axis=1))}, index=index)
        for i, name in enumerate(self.classes.classes):
            table[f"probability_{name}"] = probabilities[:, i]
        return table

    def to_json(self) -> dict[str, str | None]:
        """JSON document for the checkpoint."""
        return {
            "name": self.name,
            "scale": self.scale.to_json() if self.scale is not None else None,
            "classes": self.classes.to_json() if self.classes is not None else None,
        }

    @classmethod
    def from_json(cls, document: dict[str, str | None]) -> Self:
        """Rebuild from `to_json`."""
        name, scale, classes = document["name"], document["scale"], document["classes"]
        assert name is not None
        return cls(
            name,
            TargetScaler.from_json(scale) if scale is not None else None,
            ClassEncoder.from_json(classes) if classes is not None else None,
        )


def target_values(metadata: pd.DataFrame, config: TargetConfig) -> "pd.Series[Any]":
    """Values of the target column; missing ones are NaN (numbers) or None.

    Raises:
        InputError: there is no such column, all its values are missing, or it holds text where numbers are predicted.
    """
    take = categorical_column if config.classifier else numeric_column
    values = take(metadata, config.metadata_column)
    if values.isna().all():
        raise InputError(
            f"--metadata-column {config.metadata_column}: no value for any of the {len(values)} samples "
            f"({first_ids(values.index, 3)}); choose another column"
        )
    return values

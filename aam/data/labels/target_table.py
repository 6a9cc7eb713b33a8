"""All metadata columns that a model predicts, side by side.

Shapes: T targets (columns to predict), K outputs of the model, over all targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from aam.config import TargetConfig
from aam.data.arrays import Floats, Ints
from aam.data.files.metadata import categorical_column, numeric_column
from aam.data.labels.target_column import TargetColumn, check_range
from aam.errors import InputError, first_ids


@dataclass(frozen=True)
class Targets:
    """The columns to predict: several numbers, or one column of classes."""

    columns: tuple[TargetColumn, ...]

    @property
    def is_classes(self) -> bool:
        """Whether classes are predicted."""
        return self.columns[0].classes is not None

    @property
    def only(self) -> TargetColumn:
        """The column, where there is one."""
        (column,) = self.columns
        return column

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata of new samples that predictions need."""
        return tuple(dict.fromkeys(name for column in self.columns if column.groups for name in column.groups.columns))

    @classmethod
    def fit(cls, values: pd.DataFrame, metadata: pd.DataFrame, train: Ints, config: TargetConfig) -> Self:
        """Fit every column of `target_values`, [samples, T], to the rows of training samples that have a value of it.

        Raises:
            InputError: a column has no values to learn, or some out of range.
        """
        for name in values:
            check_range(values[name], config)
        return cls(tuple(_fit(values[name].iloc[train].dropna(), metadata, config) for name in values))

    def encode(self, values: pd.DataFrame, metadata: pd.DataFrame) -> Floats:
        """Bring values to the learned scales, or to class indices: float64 [samples, T], NaN where missing."""
        return np.stack([column.encode(values[column.name], metadata) for column in self.columns], axis=1)

    def warn_of_others(self, metadata: pd.DataFrame) -> None:
        """Say how many samples are of categories without a scale of their own, where categories have some."""
        for column in self.columns:
            if column.groups is not None:
                column.groups.warn_of_others(metadata, column.name)

    def split(self, outputs: Floats) -> list[Floats]:
        """Cut what the model gives, [samples, K], into the parts of the targets."""
        return np.split(outputs, np.cumsum([column.outputs for column in self.columns])[:-1], axis=1)

    def decode(self, outputs: Floats, metadata: pd.DataFrame) -> pd.DataFrame:
        """Make a table of predictions, as `TargetColumn.decode`; of several targets, columns end in ``_NAME``."""
        parts = zip(self.columns, self.split(outputs), strict=True)
        tables = [(column.name, column.decode(part, metadata)) for column, part in parts]
        if len(tables) == 1:
            return tables[0][1]
        return pd.concat([table.add_suffix(f"_{name}") for name, table in tables], axis=1)

    def of_column(self, table: pd.DataFrame, column: TargetColumn) -> pd.DataFrame:
        """Take the predictions of one column from a table of `decode`, named as if it were the only one."""
        if len(self.columns) == 1:
            return table
        end = f"_{column.name}"
        own = ["prediction", *(f"quantile_{level:g}" for level in column.quantiles)]
        return table[[name + end for name in own]].set_axis(own, axis=1)

    def to_json(self) -> list[dict[str, Any]]:
        """JSON document for the checkpoint."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, document: Sequence[dict[str, Any]]) -> Self:
        """Rebuild from `to_json`."""
        return cls(tuple(TargetColumn.from_json(column) for column in document))


def _fit(values: "pd.Series[Any]", metadata: pd.DataFrame, config: TargetConfig) -> TargetColumn:
    """Fit one column, named in what is wrong with it."""
    try:
        return TargetColumn.fit(values, metadata, config)
    except InputError as error:
        raise InputError(f"--metadata-column {values.name}: {error}") from None


def target_values(metadata: pd.DataFrame, config: TargetConfig) -> pd.DataFrame:
    """Values of the columns to predict, [samples, T]; missing ones are NaN (numbers) or None.

    Raises:
        InputError: there is no such column, all its values are missing, or it holds text where numbers are predicted.
    """
    take = categorical_column if config.classifier else numeric_column
    columns = {name: take(metadata, name) for name in config.metadata_column}
    for name, values in columns.items():
        if values.isna().all():
            raise InputError(
                f"--metadata-column {name}: no value for any of the {len(values)} samples "
                f"({first_ids(values.index, 3)}); choose another column"
            )
    return pd.DataFrame(columns, index=metadata.index)

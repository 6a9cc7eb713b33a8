"""What predictions of metadata columns are worth, compared with the truth in the columns' own units."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.training.metrics import Better, ClassificationMetrics, Metrics, QuantileMetrics, RegressionMetrics

MEANS = ("r2", "pearson")
"""Metrics without a unit, of which the mean over several targets is given too."""


def score(targets: Targets, predicted: pd.DataFrame, true: pd.DataFrame) -> Metrics:
    """Compare predictions with the truth.

    Args:
        targets: what was predicted.
        predicted: as `Targets.decode` gives it.
        true: a column for each target, of the same samples; missing values count for nothing, and a class without a
            training sample, whose probability is 0, as wrong.

    Returns:
        Metrics by name; of several targets the names end in ``_NAME``, and the mean of those in `MEANS` stands first.
    """
    scores = {
        column.name: dict(_score(column, targets.of_column(predicted, column), true)) for column in targets.columns
    }
    if len(scores) == 1:
        return scores[targets.only.name]
    return {name: _mean([values[name] for values in scores.values()]) for name in MEANS} | {
        f"{name}_{target}": value for target, values in scores.items() for name, value in values.items()
    }


def better_metrics(targets: Targets) -> Better:
    """The metrics that `score` gives."""
    of_columns = {column.name: _better(column) for column in targets.columns}
    if len(of_columns) == 1:
        return of_columns[targets.only.name]
    means: dict[str, bool | None] = dict.fromkeys(MEANS, True)
    return means | {f"{name}_{target}": value for target, each in of_columns.items() for name, value in each.items()}


def _better(column: TargetColumn) -> Better:
    if column.classes is not None:
        return ClassificationMetrics.better
    return {**RegressionMetrics.better, **(QuantileMetrics.better if column.quantiles else {})}


def _score(column: TargetColumn, predicted: pd.DataFrame, true: pd.DataFrame) -> Iterator[tuple[str, float | None]]:
    known = true[column.name].notna().to_numpy()
    values = true[column.name][known]
    if column.classes is not None:
        named = column.classes.with_unseen(list(values))
        classes = ClassificationMetrics(len(named.classes))
        probabilities = predicted[[f"probability_{name}" for name in column.classes.classes]]
        possible = functional.pad(_tensor(probabilities, known), (0, len(named.classes) - column.outputs))
        classes.update(possible, torch.from_numpy(named.encode(list(values))))
        yield from classes.compute().items()
        return
    numbers = torch.from_numpy(values.to_numpy(np.float64, copy=True))
    regression = RegressionMetrics()
    regression.update(_tensor(predicted[["prediction"]], known)[:, 0], numbers)
    yield from regression.compute().items()
    if column.quantiles:
        quantiles = QuantileMetrics(column.quantiles)
        quantiles.update(_tensor(predicted[[f"quantile_{level:g}" for level in column.quantiles]], known), numbers)
        yield from quantiles.compute().items()


def _tensor(table: pd.DataFrame, rows: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> torch.Tensor:
    return torch.from_numpy(table.to_numpy(np.float64)[rows])


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None

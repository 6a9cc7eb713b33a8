"""The null prediction: what is said of a sample that a model cannot predict, so that scores have no gaps.

Shapes: T targets, C classes.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aam.data.arrays import Bools, Floats
from aam.errors import first_ids


def medians(target: pd.DataFrame) -> list[float]:
    """The null prediction of numbers, as `aam evaluate` has it: the median of the training samples [T]."""
    return [float(np.median(target[name].dropna().to_numpy(np.float64))) for name in target]


def frequencies(classes: "pd.Series[str]", known: Sequence[str]) -> list[float]:
    """The null prediction of classes, as `aam evaluate` has it: their frequencies among the training samples [C]."""
    counts = classes.value_counts().reindex(list(known), fill_value=0)
    return [float(count) / float(counts.sum()) for count in counts]


def filled(predicted: pd.DataFrame, null: Sequence[float] | None, what: str) -> Floats:
    """Put the null prediction where there is none, and warn of it.

    Args:
        predicted: columns of predictions, float64 [samples, T or C], and ``note``, which says why there is none.
        null: the null prediction; None where the model has none, and gaps stay NaN.
        what: what the null prediction is.

    Returns:
        The predictions, float64 [samples, T or C].
    """
    values: Floats = predicted.drop(columns="note").to_numpy(np.float64, copy=True)
    gaps: Bools = np.asarray(np.isnan(values).any(axis=1))
    if gaps.any():
        reasons = ", ".join(predicted["note"][gaps].unique())
        outcome = (
            "are nan, as the model keeps no null prediction" if null is None else f"get the null prediction ({what})"
        )
        warnings.warn(
            f"{gaps.sum()} of {len(gaps)} samples cannot be predicted and {outcome}: "
            f"{first_ids(predicted.index[gaps])}: {reasons}; predictions() has the reasons",
            stacklevel=4,
        )
        if null is not None:
            values[gaps] = null
    return values

"""What to say to a user about predictions that say next to nothing."""

from typing import Final

import numpy as np
import pandas as pd

from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.training.tasks.target_metrics import score

LEAST_SPREAD: Final = 0.1
"""Deviation of predictions, as a fraction of the truth's, below which they are all but one number."""
LEAST_R2: Final = 0.02
ABOVE_CHANCE: Final = 0.05
"""Balanced accuracy beyond that of a guess, below which nothing has been learned."""
TO_TRY: Final = (
    "try more samples or steps (--min-steps), another --lr, or --pretrained-encoder; the column may also not follow "
    "the community"
)


def complaint(targets: Targets, predicted: pd.DataFrame, true: pd.DataFrame) -> str | None:
    """One sentence where the predictions of validation samples are as good as a constant; None where they are not.

    Args:
        targets: what was predicted.
        predicted: as of `Targets.decode`.
        true: a column for each target, of the same samples.
    """
    said = [_of_column(column, targets.of_column(predicted, column), true) for column in targets.columns]
    found = [each for each in said if each is not None]
    return f"{'; '.join(found)}: {TO_TRY}" if found else None


def _of_column(column: TargetColumn, predicted: pd.DataFrame, true: pd.DataFrame) -> str | None:
    known = true[column.name].notna().to_numpy()
    values = true[column.name][known]
    if values.nunique() < 2:
        return None
    metrics = score(Targets((column,)), predicted[known], true[known])
    if column.classes is not None:
        accuracy, chance = metrics["balanced_accuracy"], 1 / values.nunique()
        if accuracy is not None and accuracy < chance + ABOVE_CHANCE:
            return f"{column.name} is predicted no better than by chance (balanced accuracy {accuracy:.3f})"
        return None
    spread = float(np.std(predicted["prediction"][known]) / np.std(values.to_numpy(np.float64)))
    if spread < LEAST_SPREAD:
        return f"the predictions of {column.name} have {spread:.3f} of the spread of the true values, nearly a constant"
    r2 = metrics["r2"]
    if r2 is not None and r2 < LEAST_R2:
        return f"{column.name} is predicted no better than by its mean (R2 {r2:.3f})"
    return None

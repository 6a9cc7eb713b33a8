"""Predicted against true values of a metadata column, for held-out samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from aam.data.target_column import TargetColumn
from aam.data.whole_files import whole_file, write_json
from aam.evaluation.figures import figure
from aam.training.metrics import Metrics
from aam.training.target_objective import score


def write_prediction_report(
    column: TargetColumn, outputs: NDArray[np.float64], true: "pd.Series[Any]", folder: Path
) -> Metrics:
    """Write ``val_predictions.tsv``, ``val_metrics.json`` and ``plots/val_predictions.png``.

    Args:
        column: the target.
        outputs: what the model gives for the held-out samples, [samples, K].
        true: their values, by sample id.
        folder: the output folder.

    Returns:
        Metrics in the target's own units, of the predictions as written: exactly those that `aam predict`'s give.
    """
    table = column.decode(outputs, list(true.index))
    numbers = table.select_dtypes(np.float64).map("{:.6g}".format)  # as `aam predict` writes them
    table[numbers.columns] = numbers
    table.insert(0, "true", true.to_numpy())
    with whole_file(folder / "val_predictions.tsv") as draft:
        table.to_csv(draft, sep="\t")
    predicted = numbers.to_numpy().astype(np.float64)
    if column.classes is None:
        values = score(column, predicted[:, 0], true.to_numpy(np.float64, copy=True))
    else:
        values = score(column, predicted, column.encode(true))
    write_json(folder / "val_metrics.json", values)
    path = folder / "plots" / "val_predictions.png"
    if column.classes is None:
        _draw_values(table, column.name, values, path)
    else:
        _draw_classes(table, column.classes.classes, path)
    return values


def _draw_values(table: pd.DataFrame, name: str, values: Metrics, path: Path) -> None:
    true, predicted = (table[name].astype(np.float64).to_numpy() for name in ("true", "prediction"))
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    with figure(path) as axes:
        axes.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
        axes.scatter(true, predicted, s=10, alpha=0.6, linewidths=0)
        axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}", aspect="equal")
        shown = [f"{key} {values[key]:.3g}" for key in ("r2", "mae") if values[key] is not None]
        axes.set_title(f"{len(table)} held-out samples: " + ", ".join(shown), fontsize=10)


def _draw_classes(table: pd.DataFrame, classes: tuple[str, ...], path: Path) -> None:
    counts = confusion_matrix(table["true"], table["prediction"], labels=list(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(classes)
    with figure(path, size + 1, size) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, col), count in np.ndenumerate(counts):
            if count:
                axes.text(
                    col, row, str(count), ha="center", va="center", color="white" if shares[row, col] > 0.5 else "black"
                )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="true", title=f"{len(table)} held-out samples")

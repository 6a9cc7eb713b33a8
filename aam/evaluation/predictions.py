"""Predicted against true values of metadata columns, for samples that validate or test a run."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from aam.data.files.whole_files import whole_file, write_json
from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.evaluation.figures import figure, figure_row
from aam.training.metrics import Metrics
from aam.training.run_folder import RunFolder, Side
from aam.training.tasks.target_metrics import score

NAMES: Final[dict[Side, str]] = {"val": "validation", "test": "test"}


def write_prediction_report(
    targets: Targets,
    predicted: pd.DataFrame,
    true: pd.DataFrame,
    folder: RunFolder,
    side: Side = "val",
    warning: str | None = None,
) -> Metrics:
    """Write the predictions of a side, their metrics and a plot.

    Args:
        targets: what was predicted.
        predicted: predictions of the samples of a side, as of `Targets.decode`.
        true: their values, [samples, T], of the same samples.
        folder: the output folder.
        side: which samples these are.
        warning: what is wrong with the predictions, to stand beside the metrics.

    Returns:
        Metrics in the targets' own units, of the predictions as written: exactly those that `aam predict`'s give.
    """
    numbers = predicted.select_dtypes(np.float64).map("{:.6g}".format)  # as `aam predict` writes them
    written = predicted.astype(dict.fromkeys(numbers.columns, object))
    written[numbers.columns] = numbers
    several = len(targets.columns) > 1
    for place, column in enumerate(targets.columns):
        name = f"true_{column.name}" if several else "true"
        written.insert(place, name, true[column.name].to_numpy())
    with whole_file(folder.side_predictions(side)) as draft:
        written.to_csv(draft, sep="\t")
    rounded = predicted.assign(**numbers.astype(np.float64))
    values = score(targets, rounded, true)
    write_json(folder.side_metrics(side), values if warning is None else {**values, "warning": warning})
    path = folder.side_plot(side)
    if targets.is_classes:
        _draw_classes(rounded["prediction"], true[targets.only.name], targets.only, path, NAMES[side])
    else:
        _draw_numbers(targets, rounded, true, path, NAMES[side])
    return values


def _draw_numbers(targets: Targets, predicted: pd.DataFrame, true: pd.DataFrame, path: Path, side: str) -> None:
    with figure_row(path, len(targets.columns)) as row:
        for axes, column in zip(row, targets.columns, strict=True):
            known = true[column.name].notna().to_numpy()
            _draw_column(axes, column, targets.of_column(predicted, column)[known], true[column.name][known], side)


def _draw_column(
    axes: Axes, column: TargetColumn, predicted: pd.DataFrame, true: "pd.Series[float]", side: str
) -> None:
    """Predicted against true values; with quantiles, lines between the outermost."""
    if true.empty:
        axes.set_title(f"{column.name}: no value in the {side} samples", fontsize=10)
        return
    points = predicted["prediction"]
    ends = [min(true.min(), points.min()), max(true.max(), points.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
    if column.quantiles:
        low, high = (predicted[f"quantile_{level:g}"] for level in (column.quantiles[0], column.quantiles[-1]))
        axes.vlines(true, low, high, linewidth=0.6, alpha=0.4)
    axes.scatter(true, points, s=10, alpha=0.6, linewidths=0)
    axes.set(xlabel=f"true {column.name}", ylabel=f"predicted {column.name}")
    if not column.quantiles:
        axes.set_aspect("equal")
    only = Targets((column,))
    values = score(only, predicted, true.to_frame(column.name))
    shown = [f"{key} {values[key]:.3g}" for key in ("r2", "mae", "coverage") if values.get(key) is not None]
    axes.set_title(f"{len(true)} {side} samples: " + ", ".join(shown), fontsize=10)


def _draw_classes(
    predicted: "pd.Series[str]", true: "pd.Series[str]", column: TargetColumn, path: Path, side: str
) -> None:
    assert column.classes is not None
    classes = column.classes.with_unseen(list(true)).classes
    counts = confusion_matrix(true, predicted, labels=list(classes))
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(classes)
    with figure(path, size + 1, size) as axes:
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for (row, col), count in np.ndenumerate(counts):
            if count:
                axes.text(
                    col,
                    row,
                    str(count),
                    ha="center",
                    va="center",
                    color="white" if fractions[row, col] > 0.5 else "black",
                )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="true", title=f"{len(true)} {side} samples")

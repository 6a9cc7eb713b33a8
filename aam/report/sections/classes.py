"""Predicted classes: confusion, ROC and precision-recall curves, calibration of probabilities."""

import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, average_precision_score, confusion_matrix, precision_recall_curve, roc_curve

from aam.report.blocks import Block, Cell, Folded, Gallery, Part, Picture, Table, Text, cell
from aam.report.drawing import FAINT, INK, SERIES, Canvas, canvas, few_ticks, shortened
from aam.report.predicted import Predicted, best_of
from aam.report.runs import Run

MOST_SHOWN: Final = 24
"""Classes of a confusion that is drawn; beyond, only the most frequent."""
MOST_CURVES: Final = 8
MOST_COUNTED: Final = 12
BINS: Final = 8
STYLES: Final = ("-", "--", "-.", ":")
SIZE: Final = 2.5
LEAST_ROWS: Final = 20
"""Samples below which a calibration says nothing."""


def classes(run: Run) -> list[Part]:
    """How classes are confused, ranked and how far their probabilities can be believed; of the best learner."""
    best = best_of(run)
    if best is None or best.probability is None:
        return []
    blocks: list[Block] = [Text(f"Of {best.learner}, {len(best.ids):,} {best.what}.")]
    pictures = [_confusion(best)]
    several = _curves_of(best)
    if several:
        pictures += [_roc(best, several), _precision_recall(best, several)]
    if len(best.ids) >= LEAST_ROWS:
        pictures.append(_calibration(best))
    return [Part([*blocks, Gallery(pictures), _of_classes(best)])]


def _names(best: Predicted) -> list[str]:
    """Classes, those without a training sample last."""
    return [*best.classes, *sorted(set(best.true) - set(best.classes))]


def _confusion(best: Predicted) -> Picture:
    names = _names(best)
    if len(names) > MOST_SHOWN:
        sizes = {name: int((best.true == name).sum()) for name in names}
        names = sorted(names, key=lambda name: -sizes[name])[:MOST_SHOWN]
    counts = _counts(best, names)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = int(np.trace(counts))
    more = f", the {len(names)} most frequent of {len(_names(best))} classes" if len(names) < len(_names(best)) else ""
    alt = f"Confusion matrix of {best.column}{more}: {right} of {int(counts.sum())} samples are of the predicted class."
    size = max(1.8, min(4.6, 0.42 * len(names)))
    with canvas(alt, f"True classes in rows, predicted in columns{more}", size, size) as drawn:
        edges = np.arange(len(names) + 1) - 0.5
        for (row, column), fraction in np.ndenumerate(fractions):
            if fraction > 0:  # of a colour that letters can be read on, light or dark
                drawn.axes.fill_between(
                    edges[column : column + 2],
                    row - 0.5,
                    row + 0.5,
                    color=SERIES[0],
                    alpha=0.08 + 0.47 * fraction,
                    linewidth=0,
                )
                if len(names) <= MOST_COUNTED:
                    drawn.axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8)
        labels = [shortened(name, 24) for name in names]
        drawn.axes.set_xticks(range(len(names)), labels, rotation=90)
        drawn.axes.set_yticks(range(len(names)), labels)
        drawn.axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[-1], edges[0]), xlabel="predicted", ylabel="true")
    return drawn.picture


def _counts(best: Predicted, names: list[str]) -> NDArray[np.int64]:
    kept = np.isin(best.true.astype(str), names) & np.isin(best.guess.astype(str), names)
    if not kept.any():
        return np.zeros((len(names), len(names)), np.int64)
    found: NDArray[np.int64] = confusion_matrix(best.true[kept].astype(str), best.guess[kept].astype(str), labels=names)
    return found


def _curves_of(best: Predicted) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """Classes that some samples have and others lack, the most frequent first: name, truth and probability."""
    assert best.probability is not None
    found = [(name, best.true == name, best.probability[name].to_numpy(np.float64)) for name in best.classes]
    usable = [one for one in found if 0 < one[1].sum() < len(best.true)]
    if len(best.classes) == 2:
        usable = usable[-1:]  # the other is its mirror image
    return sorted(usable, key=lambda one: -int(one[1].sum()))[:MOST_CURVES]


def _lines(several: list[tuple[str, Any, Any]]) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    for number, (name, is_class, probability) in enumerate(several):
        style = {"color": SERIES[number % len(SERIES)], "linestyle": STYLES[number % len(STYLES)], "linewidth": 1.5}
        yield name, is_class, probability, style


def _finish(drawn: Canvas, x: str, y: str) -> None:
    drawn.axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xlabel=x, ylabel=y)
    few_ticks(drawn.axes, "x")
    few_ticks(drawn.axes, "y")
    handles, labels = drawn.axes.get_legend_handles_labels()
    if handles:
        drawn.axes.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, labelcolor=INK, handlelength=2.4
        )


def _roc(best: Predicted, several: list[tuple[str, Any, Any]]) -> Picture:
    areas = {}
    with canvas("", "ROC: each class against the others", SIZE, SIZE) as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        for name, is_class, probability, style in _lines(several):
            false, true, _ = roc_curve(is_class, probability)
            areas[name] = float(auc(false, true))
            drawn.axes.plot(false, true, label=f"{shortened(name)} {areas[name]:.2f}", **style)
        _finish(drawn, "fraction of others taken for it", "fraction found")
        told = ", ".join(f"{name} {area:.2f}" for name, area in areas.items())
        drawn.alt = f"ROC curves of {best.column}, each class against the others; areas below them: {told}."
    return drawn.picture


def _precision_recall(best: Predicted, several: list[tuple[str, Any, Any]]) -> Picture:
    areas = {}
    with canvas("", "Precision and recall: each class against the others", SIZE, SIZE) as drawn:
        for name, is_class, probability, style in _lines(several):
            precision, recall, _ = precision_recall_curve(is_class, probability)
            areas[name] = float(average_precision_score(is_class, probability))
            drawn.axes.step(recall, precision, where="post", label=f"{shortened(name)} {areas[name]:.2f}", **style)
        _finish(drawn, "recall (fraction found)", "precision")
        told = ", ".join(f"{name} {area:.2f}" for name, area in areas.items())
        drawn.alt = f"Precision-recall curves of {best.column}; average precision: {told}."
    return drawn.picture


def _calibration(best: Predicted) -> Picture:
    """Probabilities of all classes, in parts of equally many, against how often they come true."""
    assert best.probability is not None
    probability = best.probability.to_numpy(np.float64).clip(0, 1).ravel()
    is_class = (best.true[:, None] == np.array(best.classes, dtype=object)).ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        found, said = calibration_curve(is_class, probability, n_bins=BINS, strategy="quantile")
    off = float(np.abs(found - said).mean())
    alt = f"Calibration of the probabilities of {best.column}, off by {off:.2f} on average over {len(said)} parts."
    with canvas(alt, f"Calibration: off by {off:.2f} on average", SIZE, SIZE) as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        drawn.axes.plot(said, found, "o-", color=SERIES[0], markersize=5)
        _finish(drawn, "predicted probability", "fraction that is true")
    return drawn.picture


def _of_classes(best: Predicted) -> Block:
    """Precision and recall of every class."""
    rows = []
    for name in _names(best):
        is_class, guessed = best.true == name, best.guess == name
        both = int((is_class & guessed).sum())
        recall = both / is_class.sum() if is_class.any() else np.nan
        precision = both / guessed.sum() if guessed.any() else np.nan
        rows.append((Cell(name), cell(int(is_class.sum())), cell(int(guessed.sum())), cell(recall), cell(precision)))
    table = Table([best.column, "samples", "predicted", "recall", "precision"], rows, "Recall and precision of classes")
    return table if len(rows) <= MOST_SHOWN else Folded(f"Recall and precision of {len(rows)} classes", table)

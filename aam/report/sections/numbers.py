"""Predicted against true numbers, and true against predicted distances of a pretraining."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aam.evaluation.scores import score_numbers
from aam.evaluation.verdict import NO_MODEL
from aam.report.blocks import Gallery, Part, Picture, Text, correlated, shown
from aam.report.distances import Distances
from aam.report.drawing import FAINT, SERIES, canvas, few_ticks, scatter, shortened, thinned
from aam.report.predicted import LEAST_SAMPLES, Predicted, best_of, predictions_of, ranking
from aam.report.runs import Run

SIZE: Final = 2.4
"""Inches of a square figure."""
MOST_PAIRS: Final = 1500


def against_true(run: Run) -> list[Part]:
    """A figure for each learner or side of numbers; for a pretraining, one of distances."""
    if run.kind == "pretrain":
        return _distances(run)
    found = [one for one in predictions_of(run) if one.number is not None and len(one.ids) >= LEAST_SAMPLES]
    order = {name: place for place, name in enumerate(ranking(run))}
    found = sorted(found, key=lambda one: order.get(one.learner, len(order)))
    if not found:
        return []
    best = best_of(run)
    named = [(one, one.learner if run.kind == "evaluate" else f"{one.column}, {one.what}") for one in found]
    pictures = [_picture(one, name, one is best or _same(one, best)) for one, name in named]
    largest = max(len(one.ids) for one in found)
    told = "The dashed line is where predictions are true."
    if largest > len(thinned(largest)):
        told += f" Of {largest:,} samples, {len(thinned(largest)):,} drawn with a fixed seed are shown."
    return [Part([Text(told), Gallery(pictures)])]


def _same(one: Predicted, other: Predicted | None) -> bool:
    return other is not None and (one.learner, one.what, one.column) == (other.learner, other.what, other.column)


def _picture(one: Predicted, name: str, is_best: bool) -> Picture:
    assert one.number is not None
    true, predicted = one.true.astype(np.float64), one.number
    metrics = score_numbers(true, predicted)
    told = f"R2 {correlated(metrics['r2'])}, MAE {shown(metrics['mae'])}"
    alt = f"Predicted against true {one.column} of {len(true)} {one.what} by {one.learner}: {told}."
    rows = thinned(len(true))
    tips = (
        [f"{one.ids[row]}: true {shown(true[row])}, predicted {shown(predicted[row])}" for row in rows]
        if is_best
        else ()
    )
    colour = FAINT if one.learner in NO_MODEL else SERIES[0]
    with canvas(alt, f"{name}: {told}", SIZE, SIZE) as drawn:
        ends = _ends(true, predicted)
        drawn.axes.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle="--")
        scatter(drawn, true[rows], predicted[rows], colour, tips)
        drawn.axes.set(xlim=ends, ylim=ends, xlabel=f"true {shortened(one.column)}", ylabel="predicted")
        few_ticks(drawn.axes, "x")
        few_ticks(drawn.axes, "y")
    return drawn.picture


def _ends(*values: NDArray[Any]) -> tuple[float, float]:
    low, high = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _distances(run: Run) -> list[Part]:
    found = run.distances
    if found is None:
        return []
    if isinstance(found, str):
        return [Part([Text(f"Predicted distances are not shown: {found}.", "note")])]
    return [Part([Gallery([_pairs(found)])])]


def _pairs(found: Distances) -> Picture:
    places = np.triu_indices(len(found.ids), k=1)
    true, predicted = found.true[places], found.predicted[places]
    rows = thinned(len(true), MOST_PAIRS)
    r = float(np.corrcoef(true, predicted)[0, 1]) if min(np.ptp(true), np.ptp(predicted)) > 0 else np.nan
    told = f"r = {correlated(r)}"
    drawn_of = f"{len(rows):,} of {len(true):,} pairs" if len(rows) < len(true) else f"{len(true):,} pairs"
    alt = f"Predicted against true {found.metric} of {drawn_of} of {len(found.ids)} validation samples: {told}."
    with canvas(alt, f"{drawn_of} of validation samples: {told}", SIZE, SIZE) as drawn:
        ends = _ends(true, predicted)
        drawn.axes.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle="--")
        scatter(drawn, true[rows], predicted[rows], SERIES[0], s=7, alpha=0.4)
        drawn.axes.set(xlim=ends, ylim=ends, xlabel=f"true {found.metric}", ylabel="predicted")
        few_ticks(drawn.axes, "x")
        few_ticks(drawn.axes, "y")
    return drawn.picture

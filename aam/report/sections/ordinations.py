"""Samples as points: principal coordinates of true distances, and for a pretraining of predicted ones beside them."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.errors import InputError
from aam.evaluation.error_analysis import plain_number
from aam.report.blocks import Gallery, Part, Picture, Text, count, shown
from aam.report.distances import Distances
from aam.report.drawing import INK, MARKERS, RAMP, SERIES, Canvas, canvas, few_ticks, scatter, shortened
from aam.report.ordination import Ordination, agreement, ordinate
from aam.report.predicted import target_of
from aam.report.runs import Run
from aam.report.sections.data import gone
from aam.report.studies import NoStudy

MOST_CLASSES: Final = 7
"""Classes with a colour of their own; the others share the last."""
SEED: Final = 42
SIZE: Final = 2.9


def ordinations(run: Run) -> list[Part]:
    """Where samples lie, coloured by what is predicted."""
    if run.kind == "pretrain":
        return _of_pretraining(run)
    if not run.columns:
        return []
    study = run.study
    if isinstance(study, NoStudy):
        return [Part([gone(study)])]
    found = run.compared
    assert found is not None
    drawn = ordinate(found.matrix)
    if drawn is None:
        return [Part([Text("The samples do not differ in two ways: there is nothing to ordinate.", "note")])]
    ids = [study.table.sample_ids[row] for row in found.rows]
    try:
        values = target_of(run, study)
    except InputError as error:
        return [Part([Text(f"The ordination is not coloured: {error}", "note")])]
    told = f"Principal coordinates of the {found.name} between {found.told or count(len(ids), 'sample')}."
    pictures = [_picture(drawn, ids, values[column].reindex(ids), column, found.name) for column in values]
    return [Part([Text(told), Gallery(pictures)])]


def _of_pretraining(run: Run) -> list[Part]:
    found = run.distances
    if found is None:
        return []
    if isinstance(found, str):
        return [Part([Text(f"Ordinations are not shown: {found}.", "note")])]
    true, predicted = ordinate(found.true), ordinate(found.predicted)
    if true is None or predicted is None:
        return [Part([Text("The validation samples do not differ in two ways: there is nothing to ordinate.", "note")])]
    part = f" ({len(found.ids)} of {found.of:,} drawn with a fixed seed)" if len(found.ids) < found.of else ""
    samples = count(len(found.ids), "validation sample")
    text = f"Principal coordinates of {samples}{part}; a colour is the place on the first true axis."
    pictures = [
        _plain(true, true, found, f"true {found.metric}"),
        _plain(_turned(predicted, true), true, found, "predicted distances, turned to fit"),
    ]
    return [Part([Text(text), Gallery(pictures), *_agreement(found, true, predicted)])]


def _agreement(found: Distances, true: Ordination, predicted: Ordination) -> list[Text]:
    agree = agreement(found.true, found.predicted, true, predicted, SEED)
    if agree is None:
        return []
    told = (
        f"Mantel test: the distances correlate by r = {agree.mantel:.2f} (p = {shown(agree.mantel_p)}). Procrustes: "
        f"the first two coordinates correlate by {agree.procrustes:.2f} (p = {shown(agree.procrustes_p)}). p values "
        "are of 999 permutations of the samples."
    )
    return [Text(told)]


def _turned(one: Ordination, to: Ordination) -> Ordination:
    """Points with axes flipped or rotated so that they lie as another's do; their distances stay."""
    left, _, right = np.linalg.svd(one.points.T @ to.points)
    return Ordination(one.points @ (left @ right), one.explained)


def _plain(drawn: Ordination, true: Ordination, found: Distances, name: str) -> Picture:
    values = pd.Series(true.points[:, 0], index=list(found.ids))
    alt = f"Ordination of {len(found.ids)} samples by {name}; {_held(drawn)}."
    with canvas(alt, name, SIZE, SIZE) as picture:
        _numbers(picture, drawn.points, list(found.ids), values, legend=False)
        _label(picture, drawn)
    return picture.picture


def _picture(drawn: Ordination, ids: list[str], values: "pd.Series[Any]", column: str, name: str) -> Picture:
    alt = f"Ordination of {len(ids)} samples by {name}, coloured by {column}; {_held(drawn)}."
    with canvas(alt, f"coloured by {column}", SIZE, SIZE) as picture:
        if pd.api.types.is_float_dtype(values.dtype):
            _numbers(picture, drawn.points, ids, values)
        else:
            _classes(picture, drawn.points, ids, values)
        _label(picture, drawn)
        picture.axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.17),
            ncols=2,
            labelcolor=INK,
            title=shortened(column),
            handletextpad=0.2,
        )
    return picture.picture


def _held(drawn: Ordination) -> str:
    first, second = drawn.explained
    return f"the axes hold {first:.0%} and {second:.0%} of the variation"


def _label(picture: Canvas, drawn: Ordination) -> None:
    picture.axes.set(xlabel=f"axis 1 ({drawn.explained[0]:.0%})", ylabel=f"axis 2 ({drawn.explained[1]:.0%})")
    picture.axes.set_aspect("equal", adjustable="datalim")
    few_ticks(picture.axes, "x", 4)
    few_ticks(picture.axes, "y", 4)


def _numbers(
    picture: Canvas, points: NDArray[Any], ids: list[str], values: "pd.Series[Any]", legend: bool = True
) -> None:
    """Points in parts of equally many samples, from low to high."""
    known = values.notna().to_numpy()
    ranks = values[known].rank(method="average", pct=True).to_numpy()
    parts = np.minimum((ranks * len(RAMP)).astype(int), len(RAMP) - 1)
    rows = np.flatnonzero(known)
    for part in range(len(RAMP)):
        chosen = rows[parts == part]
        if len(chosen):
            own = values.iloc[chosen]
            label = f"{plain_number(own.min())} to {plain_number(own.max())}" if legend else None
            tips = (
                [f"{ids[row]}: {shown(values.iloc[row])}" for row in chosen] if legend else [ids[row] for row in chosen]
            )
            scatter(picture, points[chosen, 0], points[chosen, 1], RAMP[part], tips, label=label, alpha=0.85)


def _classes(picture: Canvas, points: NDArray[Any], ids: list[str], values: "pd.Series[Any]") -> None:
    """Points of the most frequent classes, each with a colour and a shape of its own."""
    names = list(values.value_counts().index)
    shown_names = names if len(names) <= MOST_CLASSES + 1 else names[:MOST_CLASSES]
    for number, name in enumerate(shown_names):
        _points(picture, points, ids, values, [name], (number, shortened(name)))
    rest = names[len(shown_names) :]
    if rest:
        _points(picture, points, ids, values, rest, (MOST_CLASSES, f"{len(rest)} others"))


def _points(
    picture: Canvas,
    points: NDArray[Any],
    ids: list[str],
    values: "pd.Series[Any]",
    names: list[Any],
    look: tuple[int, str],
) -> None:
    chosen = np.flatnonzero(values.isin(names).to_numpy())
    number, label = look
    tips = [f"{ids[row]}: {values.iloc[row]}" for row in chosen]
    style: dict[str, Any] = {"marker": MARKERS[number], "label": label, "s": 16, "alpha": 0.75}
    scatter(picture, points[chosen, 0], points[chosen, 1], SERIES[number], tips, **style)

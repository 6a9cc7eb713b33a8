"""How a network learned: losses and validation metrics by step."""

import json
from typing import Any, Final

import pandas as pd

from aam.errors import InputError
from aam.report.blocks import Gallery, Part, Picture, Text, shown
from aam.report.drawing import INK, SERIES, canvas, few_ticks, thinned
from aam.report.runs import Run

LEFT_OUT: Final = ("pred_std", "true_std", "std_ratio", "learning_rate", "rmse")
"""Ends of the names of metrics that have no figure."""
MOST_FIGURES: Final = 9
MOST_STEPS: Final = 600


def curves(run: Run) -> list[Part]:
    """A figure for each loss, training beside validation, and for each validation metric."""
    path = run.folder.metrics
    if not path.exists():
        return []
    lines = [_line(line, number, run) for number, line in enumerate(path.read_bytes().splitlines(), 1)]
    table = pd.DataFrame(lines)
    if "step" not in table or table.empty:
        return []
    names = dict.fromkeys(str(name).partition("/")[2] for name in table if "/" in str(name))
    wanted = [name for name in names if name and not name.endswith(LEFT_OUT)]
    pictures = [picture for name in wanted if (picture := _curve(name, table)) is not None]
    if not pictures:
        return []
    told = f"{int(table['step'].max()):,} steps in {int(table['epoch'].max()) + 1} epochs."
    return [Part([Text(told), Gallery(pictures[:MOST_FIGURES])])]


def _line(line: bytes, number: int, run: Run) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        raise InputError(f"{run.folder.metrics}, line {number}: no line of metrics; delete the line") from None
    return found


def _curve(name: str, table: pd.DataFrame) -> Picture | None:
    sides = {}
    for number, (side, word) in enumerate({"train": "training", "val": "validation"}.items()):
        if f"{side}/{name}" in table:
            points = table[["step", f"{side}/{name}"]].dropna().set_axis(["step", "value"], axis=1)
            if len(points):
                sides[word] = (points.iloc[thinned(len(points), MOST_STEPS)], SERIES[number])
    if not sides:
        return None
    spelled = name.replace("_", " ")
    told = "; ".join(
        f"{word} from {shown(p['value'].iloc[0])} to {shown(p['value'].iloc[-1])}" for word, (p, _) in sides.items()
    )
    with canvas(f"Curve of {spelled} by step: {told}.", spelled, width=2.7, height=1.9) as drawn:
        for word, (points, colour) in sides.items():
            drawn.axes.plot(
                points["step"],
                points["value"],
                color=colour,
                linewidth=1.4,
                label=word,
                linestyle="-" if word == "validation" else ":",
            )
            if len(points) == 1:
                drawn.axes.plot(points["step"], points["value"], "o", color=colour, markersize=4)
        few_ticks(drawn.axes, "x", 4)
        few_ticks(drawn.axes, "y", 4)
        drawn.axes.set(xlabel="step", ylabel=spelled)
        drawn.axes.legend(labelcolor=INK, loc="best")
    return drawn.picture

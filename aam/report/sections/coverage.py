"""How often intervals and sets hold the truth."""

import pandas as pd

from aam.report.blocks import Cell, Gallery, Part, Picture, Table, Text, cell, ranged, rows_of, shown
from aam.report.drawing import FAINT, SERIES, canvas, few_ticks
from aam.report.runs import Run


def coverage(run: Run) -> list[Part]:
    """The coverage of each learner's intervals on samples that were held out."""
    table = run.table(run.folder.coverage(""), ("learner",))
    if table is None or table.empty or not {"learner", "level", "coverage"} <= set(table):
        return []
    for name in ("low", "high"):
        if name not in table:
            table = table.assign(**{name: float("nan")})
    sizes = [name for name in ("width", "set_size") if name in table]
    rows = [
        [
            Cell(row["learner"]),
            cell(row["level"]),
            ranged(row["coverage"], row["low"], row["high"]),
            *(cell(row[name]) for name in sizes),
        ]
        for _, row in table.iterrows()
    ]
    columns = ["learner", "level", "coverage (95 %)", *(name.replace("_", " ") for name in sizes)]
    text = "An interval of 90 % should hold the truth of 90 % of new samples; sets of classes may hold more."
    level = float(table["level"].max())
    pictures = [_picture(table[table["level"] == level], level)]
    return [Part([Text(text), Gallery(pictures), Table(columns, rows, "Coverage on samples that were held out")])]


def _picture(table: pd.DataFrame, level: float) -> Picture:
    own = table[::-1]
    told = ", ".join(f"{row.learner} {shown(row.coverage)}" for row in rows_of(table))
    with canvas(
        f"Coverage of intervals of {level:g}: {told}.", f"Coverage of level {level:g}", height=0.4 + 0.26 * len(own)
    ) as drawn:
        drawn.axes.axvline(level, color=FAINT, linewidth=0.9, linestyle="--")
        for place, row in enumerate(rows_of(own)):
            drawn.axes.plot([row.low, row.high], [place] * 2, color=SERIES[0], linewidth=2)
            drawn.axes.plot(row.coverage, place, "o", color=SERIES[0], markersize=5)
        drawn.axes.set_yticks(range(len(own)), list(own["learner"]))
        drawn.axes.set(xlabel="fraction of samples inside", ylim=(-0.6, len(own) - 0.4))
        few_ticks(drawn.axes, "x")
    return drawn.picture

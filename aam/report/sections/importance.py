"""What predictions are because of: importance with names, and what else an explanation left."""

import base64
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from aam.report.blocks import (
    Block,
    Cell,
    Folded,
    Gallery,
    Image,
    Part,
    Picture,
    Table,
    Text,
    cell,
    count,
    ranged,
    shown,
)
from aam.report.drawing import FAINT, SERIES, canvas, few_ticks, shortened
from aam.report.runs import Run

TOP: Final = 15
MOST_ROWS: Final = 200
MOST_BYTES: Final = 400_000
"""Size of a picture of another command, beyond which it is named instead of shown."""
LEVELS: Final = {"asv": "ASVs", "clade": "clades of the tree", "rank": "taxonomic ranks"}
NAMED: Final = {
    "name": "name",
    "importance": "importance (interval)",
    "top": "among the top ten",
    "direction": "prediction",
    "prevalence": "prevalence",
    "p_value": "p",
    "stable": "stable",
    "forest": "of the forest",
}
"""Columns of the table of importance that are shown, with their headings."""


def importance(run: Run) -> list[Part]:
    """The most important ASVs, clades and ranks, and the tables and plots of other explanations."""
    if run.kind != "explanation":
        return []
    document = run.document(run.folder.explanation) or {}
    blocks: list[Block] = [Text(str(note), "note") for note in document.get("notes", [])]
    table = run.table(run.folder.importance, ("id", "name", "level"))
    parts = [] if table is None else [_of_level(level, own) for level, own in table.groupby("level", sort=False)]
    others = [path for path in sorted(run.folder.path.glob("*.tsv")) if path != run.folder.importance]
    blocks += [_other(run, path) for path in others]
    if table is None:
        blocks += _plots(run)
    return [*parts, *([Part(blocks)] if blocks else [])]


def _of_level(level: Any, table: pd.DataFrame) -> Part:
    spelled = LEVELS.get(str(level), str(level))
    table = table.sort_values("importance", ascending=False, kind="stable")
    names = [heading for column, heading in NAMED.items() if column in table]
    shown_rows = table.head(MOST_ROWS)
    rows = [[_cell(row, column) for column in NAMED if column in table] for _, row in shown_rows.iterrows()]
    more = f"; the first {MOST_ROWS} of {len(table):,}" if len(table) > MOST_ROWS else ""
    whole = Table(names, rows, f"Importance of {spelled}{more}")
    top = Table(names, rows[:TOP], f"The most important {spelled}")
    blocks: list[Block] = [Gallery([_picture(spelled, table)]), top]
    if len(table) > TOP:
        blocks.append(Folded(f"Importance of {len(rows):,} {spelled}", whole))
    return Part(blocks, spelled)


def _cell(row: "pd.Series[Any]", column: str) -> Cell:
    if column == "importance":
        return ranged(row[column], row.get("low", np.nan), row.get("high", np.nan))
    if column == "name":
        return Cell(_name(row))
    return cell(row[column])


def _name(row: "pd.Series[Any]") -> str:
    """The name, or where there is none the beginning of the id."""
    name = row.get("name")
    return str(name) if isinstance(name, str) and name else shortened(row.get("id", ""), 24)


def _picture(spelled: str, table: pd.DataFrame) -> Picture:
    own = table.head(TOP)[::-1]
    names = [_name(row) for _, row in own.iterrows()]
    told = ", ".join(
        f"{name} {shown(value)}" for name, value in list(zip(names, own["importance"], strict=True))[::-1][:5]
    )
    of = count(len(table), spelled, spelled)
    alt = f"Importance of the first {len(own)} of {of}, the most important on top: {told}."
    with canvas(alt, f"Importance of {spelled}; hollow: not stable", width=2.3, height=0.4 + 0.22 * len(own)) as drawn:
        for place, (_, row) in enumerate(own.iterrows()):
            stable = str(row.get("stable", "yes")) == "yes"
            if np.isfinite(row.get("low", np.nan)) and np.isfinite(row.get("high", np.nan)):
                drawn.axes.plot([row["low"], row["high"]], [place] * 2, color=SERIES[0], linewidth=1.6, alpha=0.7)
            face = SERIES[0] if stable else "none"
            drawn.axes.plot(row["importance"], place, "o", color=SERIES[0], markerfacecolor=face, markersize=5)
        drawn.axes.axvline(0, color=FAINT, linewidth=0.8, linestyle="--")
        drawn.axes.set_yticks(range(len(own)), [shortened(name, 26) for name in names])
        drawn.axes.set(xlabel="importance", ylim=(-0.7, len(own) - 0.3))
        few_ticks(drawn.axes, "x")
    return drawn.picture


def _other(run: Run, path: Path) -> Block:
    """The first rows of a table that is not known here."""
    table = run.table(path)
    assert table is not None
    name = path.stem.replace("_", " ")
    more = f", the first {MOST_ROWS} of {len(table):,} rows" if len(table) > MOST_ROWS else ""
    short = table.head(MOST_ROWS).map(lambda value: shortened(value, 40) if isinstance(value, str) else value)
    return Folded(f"Table: {name}{more}", Table.of(short, f"{name}{more}"))


def _plots(run: Run) -> list[Block]:
    """Pictures that the command drew."""
    paths = sorted((run.folder.path / "plots").glob("*.png"))
    small = [path for path in paths if path.stat().st_size <= MOST_BYTES]
    large = [path.name for path in paths if path not in small]
    images = [
        Image(_address(path), f"Plot: {path.stem.replace('_', ' ')}.", path.stem.replace("_", " ")) for path in small
    ]
    blocks: list[Block] = [Gallery(images)] if images else []
    return blocks + (
        [Text(f"Too large to be shown here: {', '.join(large)} in {run.folder}.", "note")] if large else []
    )


def _address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

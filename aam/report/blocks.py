"""What a page is made of: texts, tables and pictures in parts of sections."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
import pandas as pd

Tone: TypeAlias = Literal["plain", "lead", "note", "warning"]
DIGITS: Final = 3
"""Digits of a number in a table."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = "plain"
    kind: str = "text"


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    text: str
    kind: str = "command"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    order: str = ""
    """What the table is sorted by, where that is not the text: a number with all its digits."""
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    kind: str = "table"

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str) -> "Table":
        """Take the columns of a frame as they are; the index is left out."""
        rows = [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
        return cls([str(name) for name in frame.columns], rows, caption)


@dataclass(frozen=True)
class Picture:
    """A figure as inline SVG."""

    svg: str
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    kind: str = "picture"


@dataclass(frozen=True)
class Image:
    """A picture that another command drew, as a data address."""

    source: str
    alt: str
    caption: str
    kind: str = "image"


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other, as many as there is room for."""

    pictures: Sequence[Picture | Image]
    kind: str = "gallery"


@dataclass(frozen=True)
class Folded:
    """A table that is shown on demand."""

    summary: str
    table: Table
    kind: str = "folded"


Block: TypeAlias = Text | Command | Table | Picture | Image | Gallery | Folded


@dataclass(frozen=True)
class Part:
    """What a section says of one thing."""

    blocks: Sequence[Block]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    anchor: str
    title: str
    parts: list[Part] = field(default_factory=list)


def cell(value: object) -> Cell:
    """A cell of a value: numbers are rounded, what is missing is empty."""
    if isinstance(value, bool | np.bool_):
        return Cell("yes" if value else "no")
    if isinstance(value, int | np.integer):
        return Cell(f"{value:,}", str(value), number=True)
    if isinstance(value, float | np.floating):
        return Cell(shown(float(value)), repr(float(value)) if np.isfinite(value) else "", number=True)
    return Cell("" if value is None or value is pd.NA else str(value))


def shown(value: float) -> str:
    """A number as it is read: three digits, or all before the point; empty for what is no number."""
    if not np.isfinite(value):
        return ""
    size = abs(value)
    if size == 0 or 1e-4 <= size < 10**DIGITS:
        text = f"{value:.{DIGITS}g}"
        return f"{float(text):.2f}" if 0.01 <= size < 10 else text if "e" not in text else f"{value:.0f}"
    return f"{value:,.0f}" if size < 1e9 and size >= 1 else f"{value:.2g}"


def ranged(value: float, low: float, high: float) -> Cell:
    """A score with its interval, sorted by the score."""
    text = shown(value)
    if np.isfinite(low) and np.isfinite(high):
        text += f" ({shown(low)} to {shown(high)})"
    return Cell(text, repr(float(value)) if np.isfinite(value) else "", number=True)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 sample``, ``2 samples``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"

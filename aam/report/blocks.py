"""What a page is made of: texts, tables and pictures in parts of sections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

Tone: TypeAlias = Literal["plain", "lead", "note", "warning"]


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

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Names of the columns, and whether they hold numbers."""
        first = self.rows[0] if self.rows else [Cell("")] * len(self.columns)
        return [(name, one.number) for name, one in zip(self.columns, first, strict=True)]

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


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows of a frame, whose columns are attributes."""
    yield from frame.itertuples()


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
    """A number as it is read: whole ones as they are, others with about three digits; empty for what is no number."""
    size = abs(value)
    if not np.isfinite(value):
        return ""
    if size >= 1e9 or 0 < size < 0.01:
        return f"{value:.2g}"
    places = 0 if value == round(value) or size >= 100 else 1 if size >= 9.995 else 2
    return f"{value:,.{places}f}"


def correlated(value: float) -> str:
    """A correlation, or that it is undefined."""
    return f"{value:.2f}" if np.isfinite(value) else "undefined"


def ranged(value: float, low: float, high: float) -> Cell:
    """A score with its interval, sorted by the score."""
    text = shown(value)
    if np.isfinite(low) and np.isfinite(high):
        text += f" ({shown(low)} to {shown(high)})"
    return Cell(text, repr(float(value)) if np.isfinite(value) else "", number=True)


def flattened(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a document; those of nested ones have the names above them, and in lists their number."""
    for name, value in document.items():
        spelled = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{spelled}: ")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            several = {f"{spelled} {place}" if len(value) > 1 else spelled: one for place, one in enumerate(value, 1)}
            yield from flattened(several)
        elif isinstance(value, list | tuple):
            yield spelled, ", ".join(map(str, value))
        elif value is not None:
            yield spelled, shown(value) if isinstance(value, float) else str(value)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 sample``, ``2 samples``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"

"""Small tables for the console: plain text, of at most 100 characters a line."""

import io
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

WIDTH: Final = 100


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows below the names of their columns: the first to the left, the others to the right.

    Cells that do not fit go on in the next line.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None, markup=False, highlight=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

"""Figures that every report shares: where they go, and how they look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aam.data.files.whole_files import whole_file


@contextmanager
def figure(path: Path, width: float = 5.0, height: float = 4.6) -> Iterator[Axes]:
    """Open axes to draw on; the picture is written when the block ends.

    Args:
        path: a .png file; its folder is made if absent.
        width: inches.
        height: inches.
    """
    with figure_row(path, 1, width, height) as (axes,):
        yield axes


@contextmanager
def figure_row(path: Path, count: int, width: float = 5.0, height: float = 4.6) -> Iterator[list[Axes]]:
    """Open several axes beside each other; the picture is written when the block ends.

    Built without pyplot, so that nothing of a user's own session (backend, open figures) is touched.

    Args:
        path: a .png file; its folder is made if absent.
        count: axes.
        width: inches of each.
        height: inches.
    """
    drawn = Figure(figsize=(count * width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    row = [drawn.add_subplot(1, count, place + 1) for place in range(count)]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    yield row
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as draft:
        drawn.savefig(draft, dpi=150)

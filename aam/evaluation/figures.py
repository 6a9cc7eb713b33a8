"""Figures that every report shares: where they go, and how they look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aam.data.whole_files import whole_file


@contextmanager
def figure(path: Path, width: float = 5.0, height: float = 4.6) -> Iterator[Axes]:
    """Open axes to draw on; the picture is written when the block ends.

    Built without pyplot, so that nothing of a user's own session (backend, open figures) is touched.

    Args:
        path: a .png file; its folder is made if absent.
        width: inches.
        height: inches.
    """
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as draft:
        drawn.savefig(draft, dpi=150)

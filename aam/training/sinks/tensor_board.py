"""The metrics of a run as curves in TensorBoard."""

import math
import threading
from pathlib import Path
from typing import Any, Final

from aam.training.checkpoints.files import delete
from aam.training.sinks.sink import Embedded, Results, Sink, Values

PROJECTED: Final = 5000
"""Samples that the projector shows, the first ones: with more a browser is slow."""


class TensorBoard(Sink):
    """Adds a point to a curve for each metric that is a finite number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # takes long

        if resumed_step is None:
            delete(self._folder)
        self._hook = threading.excepthook
        threading.excepthook = self._unless_written_by_us
        self._board = SummaryWriter(str(self._folder), purge_step=None if resumed_step is None else resumed_step + 1)

    def log(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._board.add_scalar(name, value, step)
        # or a kill loses what the resumed run, which starts after the last checkpoint, does not write again
        self._board.flush()

    def conclude(self, step: int, results: Results) -> None:
        """Add the pictures, and validation samples to the embedding projector."""
        from matplotlib.image import imread  # noqa: PLC0415

        for name, path in results.figures.items():
            self._board.add_image(name, imread(path)[..., :3], step, dataformats="HWC")
        if results.embedded is not None:
            self._project(step, results.embedded)
        self._board.flush()

    def _project(self, step: int, embedded: Embedded) -> None:
        names = list(embedded.labels)
        rows = list(zip(*([_cell(value) for value in embedded.labels[name]] for name in names), strict=True))
        vectors, rows = embedded.vectors[:PROJECTED], rows[:PROJECTED]
        # the projector takes plain lines where there is one column, and a header for several
        metadata = [row[0] for row in rows] if len(names) == 1 else [list(row) for row in rows]
        header = None if len(names) == 1 else names
        self._board.add_embedding(vectors, metadata, global_step=step, tag="samples", metadata_header=header)

    def close(self) -> None:
        """See `Sink`."""
        try:
            self._board.close()
        finally:
            threading.excepthook = self._hook

    def _unless_written_by_us(self, failed: threading.ExceptHookArgs) -> None:
        """Say nothing of a full disk in the thread that writes: the next word to it raises the same here."""
        if not issubclass(failed.exc_type, OSError):
            self._hook(failed)


def _cell(value: Any) -> str:
    """A value as a table parted by tabs takes it."""
    return " ".join(str(value).split()) or "-"

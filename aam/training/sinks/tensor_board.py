"""The metrics of a run as curves in TensorBoard."""

import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from aam.training.checkpoints.files import delete
from aam.training.sinks.sink import Sink, Values


class TensorBoard(Sink):
    """Adds a point to a curve for each metric that is a finite number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        if resumed_step is None:
            delete(self._folder)
        self._board = SummaryWriter(str(self._folder), purge_step=None if resumed_step is None else resumed_step + 1)

    def log(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._board.add_scalar(name, value, step)
        # or a kill loses what the resumed run, which starts after the last checkpoint, does not write again
        self._board.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._board.close()

"""Which sinks a run has, and what tells all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from aam.config import PretrainConfig, TrainConfig
from aam.training.run_folder import RunFolder
from aam.training.sinks.json_lines import JsonLines
from aam.training.sinks.progress_bar import ProgressBar
from aam.training.sinks.sink import Judged, Results, Sink, Values
from aam.training.sinks.tensor_board import TensorBoard
from aam.training.sinks.trackers import trackers_of
from aam.training.sinks.training_log import LogFile, LoggedValidations


def sinks_of(folder: RunFolder, config: PretrainConfig | TrainConfig, rank: int) -> list[Sink]:
    """Make the sinks of a process: all of rank 0; of others a log where one was asked for, for they are silent."""
    if rank == 0:
        return [
            JsonLines(folder.metrics),
            TensorBoard(folder.tensorboard),
            LogFile(folder.log),
            ProgressBar(),
            LoggedValidations(),
            *trackers_of(folder, config.tracking, config.flat()),
        ]
    return [LogFile(folder.rank_log(rank))] if config.distribution.log_all_ranks else []


class Monitor:
    """Tells every sink of a list what a run does, in this order; without any it is silent.

    Args:
        total_steps: optimizer steps of the whole run.
        sinks: not begun yet; those with files need their folder.
        resumed_step: see `Sink.begin`.

    Raises:
        InputError: a sink cannot begin; those before it are closed again.
    """

    def __init__(self, total_steps: int = 0, sinks: Sequence[Sink] = (), resumed_step: int | None = None) -> None:
        self._sinks = sinks
        with ExitStack() as stack:
            for sink in sinks:
                sink.begin(total_steps, resumed_step)
                stack.callback(sink.close)
            self._stack = stack.pop_all()

    def advance(self) -> None:
        """Report one step of the optimizer."""
        for sink in self._sinks:
            sink.advance()

    def log_training(self, step: int, epoch: int, values: Values) -> None:
        """Report metrics of training."""
        for sink in self._sinks:
            sink.log_training(step, epoch, values)

    def log_validation(self, step: int, epoch: int, values: Values) -> None:
        """Report metrics of one validation."""
        for sink in self._sinks:
            sink.log_validation(step, epoch, values)

    def conclude(self, step: int, results: Results) -> None:
        """Report what the run found."""
        for sink in self._sinks:
            sink.conclude(step, results)

    def judge(self, verdict: Judged) -> None:
        """Report what a validation, which has been logged, means for the run."""
        for sink in self._sinks:
            sink.judge(verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

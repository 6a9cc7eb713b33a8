"""What a run shows and leaves behind while it trains: curves, a log, and a progress bar."""

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from aam.data.files.whole_files import whole_file
from aam.errors import InputError
from aam.training.checkpoints.files import delete

logger = logging.getLogger(__name__)

Values = Mapping[str, float | None]


class NullMonitor:
    """Shows and writes nothing: for ranks other than 0, and where a caller wants silence."""

    def advance(self) -> None:
        """Report one step of the optimizer."""

    def log_training(self, step: int, epoch: int, values: Values) -> None:
        """Record metrics of training under plain names such as ``train/unifrac_loss``."""

    def log_validation(self, step: int, epoch: int, values: Values) -> None:
        """Record metrics of one validation, under names such as ``val/r2``."""

    def close(self) -> None:
        """Finish the files and the bar."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class LogMonitor(NullMonitor):
    """Sends what aam logs to a file, and shows nothing: for a rank other than 0 whose log is wanted."""

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        _log_to_file(path, self._stack)

    def close(self) -> None:
        """Finish the file."""
        self._stack.close()


class Monitor(NullMonitor):
    """Writes ``metrics.jsonl``, ``tensorboard/`` and ``training.log`` to a folder, and shows how far the run is.

    At a terminal and in a notebook it shows a progress bar with the losses and the time left; elsewhere (a batch job)
    each validation logs one line instead.

    Args:
        total_steps: optimizer steps of the whole run.
        folder: output folder, which exists; None shows progress and writes nothing.
        resumed_step: the optimizer step that the run continues from: what the folder's curves hold beyond it is cut.
            None for a run from the beginning, which starts its curves anew.

    Raises:
        InputError: ``metrics.jsonl`` of the run to resume is damaged.
    """

    def __init__(self, total_steps: int, folder: Path | None = None, resumed_step: int | None = None) -> None:
        self._total_steps = total_steps
        self._first_step = resumed_step or 0
        self._started = time.monotonic()
        self._postfix: dict[str, str] = {}
        self._curves: Curves | None = None
        with ExitStack() as stack:
            if folder is not None:
                self._curves = Curves(folder, resumed_step)
                stack.callback(self._curves.close)
                _log_to_file(folder / "training.log", stack)
            shown = _somebody_watches()
            self._bar = tqdm(total=total_steps, initial=self._first_step, unit="step", disable=not shown)
            stack.callback(self._bar.close)
            if shown:
                stack.enter_context(logging_redirect_tqdm(_console_loggers()))
            self._stack = stack.pop_all()

    def advance(self) -> None:
        """Report one step of the optimizer; costs no transfer from the device."""
        self._bar.update()

    def log_training(self, step: int, epoch: int, values: Values) -> None:
        """Write one line of metrics and show the losses on the bar."""
        self._write(step, epoch, values)

    def log_validation(self, step: int, epoch: int, values: Values) -> None:
        """Write one line of metrics, log it in words, and show the losses on the bar."""
        self._write(step, epoch, values)
        left = (time.monotonic() - self._started) / max(1, step - self._first_step) * (self._total_steps - step)
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        clock = tqdm.format_interval(left)
        logger.info("epoch %d, step %d of %d, %s left: %s", epoch, step, self._total_steps, clock, shown)

    def close(self) -> None:
        """Finish the files and the bar, and leave the logger as it was."""
        self._stack.close()

    def _write(self, step: int, epoch: int, values: Values) -> None:
        if self._curves is not None:
            self._curves.write(step, epoch, values)
        losses = {name.removeprefix("train/"): _short(value) for name, value in values.items() if "loss" in name}
        self._postfix.update(losses)
        self._bar.set_postfix(self._postfix)


class Curves:
    """The metrics of a run by step: ``metrics.jsonl`` and ``tensorboard/``."""

    def __init__(self, folder: Path, resumed_step: int | None) -> None:
        path = folder / "metrics.jsonl"
        if resumed_step is None:
            delete(path)
            delete(folder / "tensorboard")
        elif path.exists():
            cut_metrics(path, resumed_step)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=None if resumed_step is None else resumed_step + 1
        )

    def write(self, step: int, epoch: int, values: Values) -> None:
        """Write one line, at once; what is undefined or not finite is null there, and left out of TensorBoard."""
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "epoch": epoch, **finite}, allow_nan=False) + "\n")
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        # or a kill loses what the resumed run, which starts after the last checkpoint, does not write again
        self._board.flush()

    def close(self) -> None:
        """Close both."""
        self._lines.close()
        self._board.close()


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines of ``metrics.jsonl`` after `step`, and a last line that a kill left unfinished, atomically.

    Raises:
        InputError: another line is not what aam writes.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    kept = [line for number, line in enumerate(lines, 1) if _step_of(line, number, path) <= step]
    with whole_file(path) as draft:
        draft.write_bytes(b"".join(kept))


def _step_of(line: bytes, number: int, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}, line {number}: not a line of metrics with a step; delete the line, or start anew with --overwrite"
        ) from None


class _Early(logging.Handler):
    """Keeps records for a file that is not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@contextmanager
def early_records() -> Iterator[None]:
    """Keep what aam logs from here on, so that the next `Monitor` begins its ``training.log`` with it."""
    with ExitStack() as stack:
        _attach(_Early(), stack)
        yield


def _log_to_file(path: Path, stack: ExitStack) -> None:
    """Send what aam logs to a file as well, until the stack closes; early records come first."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    stack.callback(handler.close)
    package = logging.getLogger("aam")
    for early in [each for each in package.handlers if isinstance(each, _Early)]:
        for record in early.records:
            handler.handle(record)
        package.removeHandler(early)
    _attach(handler, stack)


def _attach(handler: logging.Handler, stack: ExitStack) -> None:
    package = logging.getLogger("aam")
    package.addHandler(handler)
    stack.callback(package.removeHandler, handler)
    if not package.isEnabledFor(logging.INFO):
        stack.callback(package.setLevel, package.level)
        package.setLevel(logging.INFO)


def _somebody_watches() -> bool:
    """Whether there is a terminal or a notebook kernel; the latter shows widgets, or text where it has none."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _console_loggers() -> list[logging.Logger]:
    """Loggers that print to the terminal, whose lines must not run through the bar."""
    consoles = (sys.stdout, sys.stderr)
    return [
        candidate
        for candidate in (logging.getLogger(), logging.getLogger("aam"))
        if any(isinstance(h, logging.StreamHandler) and h.stream in consoles for h in candidate.handlers)
    ]


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"

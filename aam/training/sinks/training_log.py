"""What aam logs while a run trains: in a file, and a line for each validation."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tqdm import tqdm

from aam.training.sinks.sink import Judged, Sink

logger = logging.getLogger(__name__)

WIDTH: Final = 100
"""Characters of the line for an epoch."""


class LogFile(Sink):
    """Sends what aam logs to a file as well; early records come first, and the logger is left as it was."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        handler = _Handler(self._path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._stack = ExitStack()
        self._stack.callback(handler.close)
        package = logging.getLogger("aam")
        for early in [each for each in package.handlers if isinstance(each, _Early)]:
            for record in early.records:
                handler.handle(record)
            package.removeHandler(early)
        _attach(handler, self._stack)

    def close(self) -> None:
        """See `Sink`."""
        self._stack.close()


class _Handler(logging.FileHandler):
    """Raises what goes wrong, such as on a full disk, where others print a traceback for each line and go on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise  # noqa: PLE0704


class LoggedValidations(Sink):
    """Logs a line for each validation, the best so far marked with a star; all metrics are in ``metrics.jsonl``."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        self._total_steps, self._first_step, self._started = total_steps, resumed_step or 0, time.monotonic()

    def judge(self, verdict: Judged) -> None:
        """See `Sink`."""
        step, total = verdict.step, self._total_steps
        left = (time.monotonic() - self._started) / max(1, step - self._first_step) * (total - step)
        mark = "*" if verdict.is_best else " "
        head = f"epoch {verdict.epoch}, step {step}/{total}, {tqdm.format_interval(left)} left {mark}"
        first = {verdict.chosen_by: verdict.values[verdict.chosen_by]}
        shown = [f"{name} {short(value)}" for name, value in {**first, **verdict.values}.items()]
        logger.info("%s", _fitting(head, shown))


def _fitting(head: str, parts: list[str]) -> str:
    """A line of at most `WIDTH` characters: as many of the parts, from the first on, as it has room for."""
    line = f"{head} {parts[0]}"
    for part in parts[1:]:
        if len(line) + len(", ") + len(part) > WIDTH:
            break
        line += f", {part}"
    return line[:WIDTH]


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
    """Keep what aam logs from here on, so that the next `LogFile` begins with it."""
    with ExitStack() as stack:
        _attach(_Early(), stack)
        yield


def _attach(handler: logging.Handler, stack: ExitStack) -> None:
    package = logging.getLogger("aam")
    package.addHandler(handler)
    stack.callback(package.removeHandler, handler)
    if not package.isEnabledFor(logging.INFO):
        stack.callback(package.setLevel, package.level)
        package.setLevel(logging.INFO)


def short(value: float | None) -> str:
    """A metric as it is shown."""
    return "undefined" if value is None else f"{value:.4g}"

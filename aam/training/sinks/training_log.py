"""What aam logs while a run trains: in a file, and a line for each validation."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from aam.training.sinks.sink import Sink, Values

logger = logging.getLogger(__name__)


class LogFile(Sink):
    """Sends what aam logs to a file as well; early records come first, and the logger is left as it was."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        handler = logging.FileHandler(self._path, encoding="utf-8")
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


class LoggedValidations(Sink):
    """Logs each validation in words, with the time left, for a console without a bar and for the file."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        self._total_steps, self._first_step, self._started = total_steps, resumed_step or 0, time.monotonic()

    def log_validation(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        left = (time.monotonic() - self._started) / max(1, step - self._first_step) * (self._total_steps - step)
        shown = ", ".join(f"{name} {short(value)}" for name, value in values.items())
        clock = tqdm.format_interval(left)
        logger.info("epoch %d, step %d of %d, %s left: %s", epoch, step, self._total_steps, clock, shown)


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

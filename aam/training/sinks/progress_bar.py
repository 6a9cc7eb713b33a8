"""How far a run is, for somebody who watches."""

import logging
import sys
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from tqdm import tqdm

from aam.training.sinks.sink import Sink, Values
from aam.training.sinks.training_log import short


def progress_bar(**options: Any) -> "tqdm[NoReturn]":
    """A bar at a terminal, or a widget in a notebook; elsewhere, and with ``--quiet``, one that shows nothing.

    A notebook without widgets would keep every state of a bar as another piece of text.

    Args:
        options: of `tqdm.tqdm`.
    """
    quiet = any(handler.level > logging.INFO for logger in _console_loggers() for handler in _console_handlers(logger))
    if quiet:
        return tqdm(**options, disable=True)
    if "ipykernel" in sys.modules and not sys.stderr.isatty():
        if find_spec("ipywidgets") is None:
            return tqdm(**options, disable=True)
        widget: tqdm[NoReturn] = import_module("tqdm.notebook").tqdm(**options)  # imports all of ipywidgets
        return widget
    return tqdm(**options, disable=not sys.stderr.isatty())


class ProgressBar(Sink):
    """At a terminal and in a notebook, a bar with the losses and the time left; elsewhere (a batch job) nothing."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        self._losses: dict[str, str] = {}
        self._bar = progress_bar(total=total_steps, initial=resumed_step or 0, unit="step")
        self._stack = ExitStack()
        self._stack.callback(self._bar.close)
        if not self._bar.disable:
            redirect = import_module("tqdm.contrib.logging").logging_redirect_tqdm  # warns where there are no widgets
            self._stack.enter_context(redirect(_console_loggers()))

    def advance(self) -> None:
        """See `Sink`."""
        self._bar.update()

    def log(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        losses = {name.removeprefix("train/"): short(value) for name, value in values.items() if "loss" in name}
        self._losses.update(losses)
        self._bar.set_postfix(self._losses)

    def close(self) -> None:
        """See `Sink`."""
        self._stack.close()


def _console_loggers() -> list[logging.Logger]:
    """Loggers that print to the terminal, whose lines must not run through the bar."""
    return [logger for logger in (logging.getLogger(), logging.getLogger("aam")) if _console_handlers(logger)]


def _console_handlers(logger: logging.Logger) -> list[logging.Handler]:
    consoles = (sys.stdout, sys.stderr)
    return [each for each in logger.handlers if isinstance(each, logging.StreamHandler) and each.stream in consoles]

"""How far a run is, for somebody who watches."""

import logging
import sys
from contextlib import ExitStack

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from aam.training.sinks.sink import Sink, Values
from aam.training.sinks.training_log import short


class ProgressBar(Sink):
    """At a terminal and in a notebook, a bar with the losses and the time left; elsewhere (a batch job) nothing."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`."""
        shown = _somebody_watches()
        self._losses: dict[str, str] = {}
        self._bar = tqdm(total=total_steps, initial=resumed_step or 0, unit="step", disable=not shown)
        self._stack = ExitStack()
        self._stack.callback(self._bar.close)
        if shown:
            self._stack.enter_context(logging_redirect_tqdm(_console_loggers()))

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

"""What sinks have in common that send a run to a tracker of experiments: MLflow, Weights & Biases, Trackio."""

import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from aam.config.tracking import TrackingConfig
from aam.data.files.whole_files import write_json
from aam.errors import InputError
from aam.training.checkpoints.files import delete
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Results, Sink, Values

logger = logging.getLogger(__name__)

DEFAULT_PROJECT = "aam"


class Tracker(Sink):
    """Sends options, metrics and, in the end, scores, pictures and reports to a run of a tracker.

    A resumed run continues the run that it began there. A tracker that fails on the way does not end the training: a
    warning says so, and nothing more is sent; all metrics are in the output folder too.

    Args:
        folder: the output folder, whose name is that of the run.
        options: of the run, by name.
        project: to which it belongs; None for what the environment says.
    """

    kind: ClassVar[str]
    """As ``--track`` names it."""
    project_variable: ClassVar[str | None]
    """Environment variable by which the tracker itself names the project; None where it has none."""

    def __init__(self, folder: RunFolder, options: Mapping[str, Any], project: str | None = None) -> None:
        self._folder, self._options = folder, options
        of_environment = os.environ.get(self.project_variable) if self.project_variable else None
        self.project = project or of_environment or DEFAULT_PROJECT
        self._works = self._concluded = False

    @property
    @abstractmethod
    def errors(self) -> tuple[type[Exception], ...]:
        """What the tracker raises where it cannot be reached or refuses what it is given."""

    @abstractmethod
    def open(self, name: str, known: str | None) -> str:
        """Open a run, or the one that is known already; returns how it is known."""

    @abstractmethod
    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send finite metrics of a step."""

    @abstractmethod
    def send_picture(self, step: int, name: str, path: Path) -> None:
        """Send a .png file."""

    @abstractmethod
    def send_file(self, path: Path) -> None:
        """Send a file to be kept beside the metrics."""

    @abstractmethod
    def end(self, success: bool) -> None:
        """Close the run."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`.

        Raises:
            InputError: the tracker cannot begin a run, because it cannot be reached, say.
        """
        place = self._folder.tracked_run
        if resumed_step is None:
            delete(place)
        known = _known_run(place, self.kind)
        try:
            number = self.open(self._folder.path.resolve().name, known)
        except self.errors as error:
            raise InputError(f"--track {self.kind}: no run can be begun there: {_short(error)}") from None
        write_json(place, {"tracker": self.kind, "run": number})
        self._works = True

    def log(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        self._attempt(lambda: self.send(step, {"epoch": float(epoch), **_finite(values)}))

    def conclude(self, step: int, results: Results) -> None:
        """See `Sink`."""
        self._attempt(lambda: self._send_results(step, results))
        self._concluded = True

    def _send_results(self, step: int, results: Results) -> None:
        scores = {f"final/{name}": value for name, value in _finite(results.scores).items()}
        if scores:
            self.send(step, scores)
        for name, path in results.figures.items():
            self.send_picture(step, name, path)
        for path in (path for path in results.files if path.exists()):
            self.send_file(path)

    def close(self) -> None:
        """See `Sink`."""
        self._attempt(lambda: self.end(self._concluded))

    def _attempt(self, work: Callable[[], None]) -> None:
        """Send something, or nothing once the tracker failed."""
        if not self._works:
            return
        try:
            work()
        except self.errors as error:
            self._works = False
            logger.warning("%s failed, and gets nothing more of this run: %s", self.kind, _short(error))


def check_tracker(tracking: TrackingConfig) -> None:
    """Refuse a tracker that is not there, before any work.

    Raises:
        InputError: it is not installed.
    """
    name = tracking.track
    if name is None:
        return
    if find_spec(name) is None:
        raise InputError(f"--track {name}: it is not installed here: pip install 'aam[{name}]'")
    try:
        import_module(name)
    except ImportError as error:
        raise InputError(
            f"--track {name}: what is installed here cannot be loaded ({error}): pip install --upgrade 'aam[{name}]'"
        ) from None


def _known_run(place: Path, kind: str) -> str | None:
    """The run of a tracker that a resumed run began; None for none, or of another tracker."""
    if not place.exists():
        return None
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        return str(document["run"]) if document["tracker"] == kind else None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{place} is damaged; delete it, and a new run is begun there") from None


def _finite(values: Values) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _short(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The trackers of experiments that a run can be sent to; each is imported where it is asked for alone."""

import re
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from aam.config.tracking import TrackingConfig
from aam.training.run_folder import RunFolder
from aam.training.sinks.tracker import Tracker

_NOT_IN_MLFLOW: Final = re.compile(r"[^\w\-. /:]")
"""What a name of MLflow cannot have."""
_LONGEST: Final = 6000
"""Characters of a parameter that MLflow keeps."""
_PARAMETERS: Final = 100
"""Parameters that MLflow takes at once."""


class Mlflow(Tracker):
    """Writes to the tracking server, the database or the folder of MLFLOW_TRACKING_URI."""

    kind, project_variable = "mlflow", "MLFLOW_EXPERIMENT_NAME"

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See `Tracker`."""
        return (import_module("mlflow").exceptions.MlflowException, OSError)

    def open(self, name: str, known: str | None) -> str:
        """See `Tracker`."""
        self._client: Any = import_module("mlflow").MlflowClient()
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._run = known
            return known
        experiment = self._client.get_experiment_by_name(self.project)
        number = self._client.create_experiment(self.project) if experiment is None else experiment.experiment_id
        self._run = str(self._client.create_run(number, run_name=name).info.run_id)
        parameter = import_module("mlflow").entities.Param
        parameters = [parameter(option, str(value)[:_LONGEST]) for option, value in self._options.items()]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + _PARAMETERS])
        return self._run

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        metric, now = import_module("mlflow").entities.Metric, int(1000 * time.time())
        metrics = [metric(_NOT_IN_MLFLOW.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def send_picture(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        self._client.log_artifact(self._run, str(path), "plots")

    def send_file(self, path: Path) -> None:
        """See `Tracker`."""
        self._client.log_artifact(self._run, str(path))

    def end(self, success: bool) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run, "FINISHED" if success else "FAILED")


class Wandb(Tracker):
    """Writes to the server of WANDB_BASE_URL, or with WANDB_MODE=offline to the folder of WANDB_DIR."""

    kind, project_variable = "wandb", "WANDB_PROJECT"

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See `Tracker`."""
        return (import_module("wandb").errors.Error, OSError)

    def open(self, name: str, known: str | None) -> str:
        """See `Tracker`."""
        wandb = import_module("wandb")
        self._run: Any = wandb.init(
            project=self.project,
            name=name,
            id=known,
            resume=None if known is None else "allow",
            config=dict(self._options),
            reinit="create_new",  # a run of the user's own, in a notebook, goes on
            settings=wandb.Settings(console="off"),
        )
        return str(self._run.id)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def send_picture(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        self._run.log({name: import_module("wandb").Image(str(path))}, step=step)

    def send_file(self, path: Path) -> None:
        """See `Tracker`."""
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def end(self, success: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if success else 1)


class Trackio(Tracker):
    """Writes to the folder of TRACKIO_DIR, or to the server of TRACKIO_SERVER_URL or the Space of TRACKIO_SPACE_ID."""

    kind, project_variable = "trackio", None

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See `Tracker`."""
        return (import_module("trackio").exceptions.TrackioAPIError, ValueError, OSError)

    def open(self, name: str, known: str | None) -> str:
        """See `Tracker`."""
        resume = "never" if known is None else "allow"
        self._run: Any = import_module("trackio").init(
            project=self.project, name=known or name, config=dict(self._options), resume=resume, embed=False
        )
        return str(self._run.name)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def send_picture(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        self._run.log({name: import_module("trackio").Image(str(path))}, step=step)

    def send_file(self, path: Path) -> None:
        """See `Tracker`."""
        self._run.log_artifact(str(path), type="report")

    def end(self, success: bool) -> None:
        """See `Tracker`."""
        import_module("trackio").finish()


TRACKERS: Final[Mapping[str, type[Tracker]]] = {kind.kind: kind for kind in (Mlflow, Wandb, Trackio)}


def trackers_of(folder: RunFolder, tracking: TrackingConfig, options: Mapping[str, Any]) -> list[Tracker]:
    """The tracker that was asked for, or none; not begun yet.

    Args:
        folder: the output folder.
        tracking: the options.
        options: all of the run, by name.
    """
    if tracking.track is None:
        return []
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    return [TRACKERS[tracking.track](folder, plain, tracking.track_project)]


def _plain(value: Any) -> Any:
    """A value as JSON has it: paths and lists as texts."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value

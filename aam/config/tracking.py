"""Section about trackers of experiments."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from aam.config.base import Section

Tracker = Literal["mlflow", "wandb", "trackio"]


class TrackingConfig(Section):
    """Programs that keep metrics of many runs side by side."""

    panel: ClassVar[str] = "Tracking"

    track: Tracker | None = None
    """Also send options, metrics and plots to MLflow, Weights & Biases or Trackio, which must be installed. Where that
    is, and whether it stays on this machine, they read from their own environment variables, such as
    MLFLOW_TRACKING_URI, WANDB_MODE, TRACKIO_DIR."""
    track_project: str | None = None
    """Project (MLflow: experiment) to which the run belongs there. Default: what MLFLOW_EXPERIMENT_NAME or
    WANDB_PROJECT say, else aam."""

    @model_validator(mode="after")
    def _project_is_of_a_tracker(self) -> Self:
        if self.track is None:
            self._refuse_unused("track_project", "--track")
        if self.track_project is not None and not self.track_project.strip():
            raise ValueError("--track-project is empty: name a project, or leave it out")
        return self

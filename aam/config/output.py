"""Sections about the output folder of a run."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from aam.config.base import MAIN, Positive, Section


class FolderConfig(Section):
    """Where results go."""

    panel: ClassVar[str] = "Output"

    output_dir: Path
    """Folder for results; made if absent."""
    overwrite: Annotated[bool, MAIN] = False
    """Replace what an earlier run left in --output-dir."""


class ResumableConfig(FolderConfig):
    """Where the results of a run go that can be continued."""

    resume: Annotated[bool, MAIN] = False
    """Continue the run in --output-dir at the step where it stopped."""
    report: bool = True
    """At the end write report.html, a page that shows what came of the run."""

    @model_validator(mode="after")
    def _resume_or_overwrite(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run and --overwrite deletes it: give one of them")
        return self


class OutputConfig(ResumableConfig):
    """Where the results of a run go, and what it leaves on the way."""

    log_every: Positive = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints, besides the one at the end of every epoch."""
    keep_checkpoints: Positive = 1
    """Newest checkpoints to keep, besides the best one."""

"""The options of `aam report`."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from aam.config.base import Names, RunConfig, Section


class ReportSection(Section):
    """What a report is about."""

    panel: ClassVar[str] = "Report"

    runs: tuple[Path, ...]
    """Output folders of aam pretrain, train, evaluate, explain or tune: their results go onto one page."""
    output: Path
    """File to write, one page that needs no other file and no network: .html."""
    overwrite: bool = False
    """Replace the file if it is there already."""
    errors_by: Names = ()
    """Columns of the metadata by which errors are shown, such as delivery,diet. Default: those that tell errors apart
    the most."""

    @model_validator(mode="after")
    def _named_well(self) -> Self:
        if not self.runs:
            raise ValueError("RUN: name one output folder or several")
        twice = [str(run) for run in self.runs if self.runs.count(run) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {self.output}: a report is an .html file")
        repeated = [name for name in self.errors_by if self.errors_by.count(name) > 1]
        if repeated:
            raise ValueError(f"--errors-by names {repeated[0]} twice")
        return self


class ReportConfig(RunConfig):
    """Options of `aam report`."""

    report: ReportSection

"""The options of `aam methods`."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from aam.config.base import RunConfig, Section


class MethodsRunConfig(Section):
    """The run."""

    panel: ClassVar[str] = "Run"

    run: Path
    """Output folder of `aam evaluate`, `aam train` or `aam pretrain`."""


class MethodsOutputConfig(Section):
    """Where citations go."""

    panel: ClassVar[str] = "Citations"

    bibtex: Path | None = None
    """Also write the works that the paragraph cites to this file, as BibTeX."""
    overwrite: bool = False
    """Replace the file of --bibtex if it is there already."""

    @model_validator(mode="after")
    def _overwrites_something(self) -> Self:
        if self.bibtex is None:
            self._refuse_unused("overwrite", "--bibtex")
        return self


class MethodsConfig(RunConfig):
    """Options of `aam methods`."""

    described: MethodsRunConfig
    citations: MethodsOutputConfig = MethodsOutputConfig()

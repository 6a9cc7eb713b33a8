"""Options of prediction intervals."""

from typing import Annotated, ClassVar

from pydantic import Field

from aam.config.base import MAIN, Section

Level = Annotated[float, Field(gt=0, lt=1)]


class IntervalConfig(Section):
    """How far off predictions may be."""

    panel: ClassVar[str] = "Intervals"

    interval: Annotated[Level | None, MAIN] = None
    """Also write an interval (columns low and high), or the likely classes (column set), which hold the true value with
    this probability, such as 0.9, for samples of new groups (subjects, sites, studies), if --group-column of the
    training named them. The network gives none."""


class CoverageConfig(Section):
    """How often intervals hold the true value."""

    panel: ClassVar[str] = "Intervals"

    interval: Annotated[Level, MAIN] = 0.9
    """Probability with which an interval, or for classes a set, is to hold the true value of a sample of a new group;
    coverage.tsv says how often it does on held-out groups."""

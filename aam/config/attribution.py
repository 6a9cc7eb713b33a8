"""The options of explanations by sample: which samples, compared with which."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from aam.config.base import MAIN, Names, Section


class ExplainedSamplesConfig(Section):
    """Which samples are explained, and what they are compared with."""

    panel: ClassVar[str] = "Samples to explain"

    samples: Annotated[Names, MAIN] = ()
    """Samples to explain: their ids with commas between them, or one number for so many, drawn by --seed. Default: all
    of the table."""
    background: Annotated[int, Field(ge=1, le=1000)] = 10
    """So many samples of the table, drawn by --seed, are what others are compared with: attributions of a sample add
    up to its prediction minus the mean of theirs."""
    column: str | None = None
    """Which column of the metadata to explain, of a model that predicts several."""
    importance: Path | None = None
    """File importance.tsv of --what importance: --what deletion then also removes ASVs in that order."""

"""The options of `aam publish`."""

import re
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import model_validator

from aam.config.base import Names, RunConfig, Section

_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9])?"
HUB_NAME: Final = re.compile(f"{_PART}/{_PART}")
"""What the Hugging Face Hub calls a model."""
SampleIds = Literal["hashed", "plain", "none"]


class PublishSection(Section):
    """What is published, and where it is written."""

    panel: ClassVar[str] = "Model"

    run: Path
    """Output folder or checkpoint of aam pretrain, or of aam train for the network."""
    output_dir: Path
    """Folder to write, which must not exist: weights, options and the model card README.md."""
    sample_ids: SampleIds = "hashed"
    """How the ids of the samples that the model has seen are kept. hashed: who has one of these samples is warned when
    the model is judged on it, and no id can be read. none: nobody is warned."""


class CardConfig(Section):
    """What the model card says that aam cannot know."""

    panel: ClassVar[str] = "Model card"

    licence: str | None = None
    """Under which terms others may use the model, such as cc-by-4.0. Default: the card says that none was given."""
    studies: Names = ()
    """Studies that the samples are from, such as 'American Gut,EMP'. Default: names of the tables."""
    region: str | None = None
    """Region of the gene that the ASVs are from, such as '16S V4, 515F-806R'."""


class HubConfig(Section):
    """Where the model goes on the Hugging Face Hub."""

    panel: ClassVar[str] = "Hugging Face Hub"

    name: str | None = None
    """What the model is called there, as owner/name."""
    push: bool = False
    """Also send the folder there, with the account of `hf auth login`. Needs pip install 'aam[hub]'."""
    public: bool = False
    """With --push: everyone may see the model. Default: only its owner, who may change that there."""

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if self.name is not None and HUB_NAME.fullmatch(self.name) is None:
            raise ValueError(f"--name {self.name}: models are called owner/name, in letters, digits, -, _ and .")
        if self.push and self.name is None:
            raise ValueError("--push needs --name: what the model is called on the hub, as owner/name")
        if not self.push:
            self._refuse_unused("public", "--push")
        return self


class PublishConfig(RunConfig):
    """Options of `aam publish`."""

    published: PublishSection
    card: CardConfig = CardConfig()
    hub: HubConfig = HubConfig()

"""Sections about augmentation: how training samples are varied from epoch to epoch."""

from typing import Annotated, ClassVar

from pydantic import Field

from aam.config.base import Fraction, Section


class AugmentationConfig(Section):
    """Vary training samples, so that the model does not learn them by heart; validation samples stay as they are."""

    panel: ClassVar[str] = "Augmentation"

    asv_dropout: Fraction = 0.0
    """Probability that an ASV is left out of a training sample in an epoch; at least one stays."""
    depth_jitter: Fraction = 0.0
    """Vary the sampling depth: in an epoch a training sample has between 1 minus this and all of its reads."""
    sequence_noise: Fraction = 0.0
    """Probability that a nucleotide is read as another one in a training step, as by a sequencing error."""

    @property
    def varies_reads(self) -> bool:
        """Whether reads or ASVs are taken from training samples."""
        return self.asv_dropout > 0 or self.depth_jitter > 0


class TargetAugmentationConfig(AugmentationConfig):
    """Vary training samples, where samples may have classes."""

    mix_samples: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that reads of another training sample of its class are mixed into a training sample in an epoch."""

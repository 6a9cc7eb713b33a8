"""What the models return, and what they need to know of categories.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, M hidden nucleotides, D width, V vocabulary, K outputs,
C classes of all taxonomic ranks together; of categories K columns, C width.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class CategorySpec:
    """The categorical columns of samples: index 0 is a missing category, 1 one that no training sample has."""

    sizes: tuple[int, ...]
    """Rows of each column's table, missing and unseen among them."""
    parents: tuple[int | None, ...]
    """Index of each column's parent; None for none."""
    fused: int
    """The first so many columns condition the prediction; others are parents, or scale it."""
    scaled: int | None = None
    """The column that has a learned output scale for each category."""


class CategoryVectors(NamedTuple):
    """What an embedder of categories returns."""

    columns: Tensor
    """[B, K, C], a vector for each column."""
    joined: Tensor
    """[B, K C], the same beside one another."""


class SampleOutput(NamedTuple):
    """What the sample level returns."""

    embedding: Tensor
    """[B, D], one vector for each sample."""
    asv_context: Tensor | None
    """[B, S, D], each ASV in the light of its sample; None unless asked for."""


class EncoderOutput(NamedTuple):
    """What `SequenceEncoder` returns."""

    sample_embedding: Tensor
    """[B, D]."""
    z: Tensor
    """[B, D], the embedding divided by the learned scale: all that the distance between two samples depends on."""
    nucleotide_logits: Tensor | None
    """[M, V] at the hidden nucleotides, in row-major order of the mask; None where nothing was hidden."""
    asv_embedding: Tensor
    """[U, D]."""
    faith_pd: Tensor | None
    """[B], predicted Faith's PD; None without that head."""
    taxonomy_logits: Tensor | None
    """[U, C], logits of the classes of one taxonomic rank after the other; None without these heads."""


class PredictorOutput(NamedTuple):
    """What `SequencePredictor` returns."""

    prediction: Tensor
    """[B, K], the target on its transformed scale, or the logits of the classes."""
    sample_embedding: Tensor
    """[B, D], which does not depend on categories."""
    counts: Tensor | None
    """[B, S], predicted log relative abundances; None where no abundance was hidden."""

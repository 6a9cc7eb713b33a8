"""What the models return, and what they need to know of categories.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, P patches, M masked nucleotides, D width, V vocabulary,
K outputs; of categories K columns, C width.
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


class EncodedAsvs(NamedTuple):
    """What the nucleotide level makes of unique ASVs."""

    embedding: Tensor
    """[U, D]."""
    patches: Tensor
    """[U, P, D], each patch in the light of its ASV."""


class EncodedSamples(NamedTuple):
    """What the sample level makes of samples."""

    embedding: Tensor
    """[B, D]."""
    asv_context: Tensor
    """[B, S, D], each ASV in the light of its sample."""


class EncoderOutput(NamedTuple):
    """What `SequenceEncoder` returns."""

    sample_embedding: Tensor
    """[B, D]."""
    z: Tensor
    """[B, D], the embedding divided by the learned scale: all that the distance between two samples depends on."""
    nucleotide_logits: Tensor | None
    """[M, V] at the masked nucleotides, in row-major order of the mask; None where nothing was masked."""
    asv_embedding: Tensor
    """[U, D]."""
    heads: dict[str, Tensor]
    """What the other heads predict, by name: [U, ...] of ASVs, [B, ...] of samples, or [B, S] of ASVs in samples."""


class PredictorOutput(NamedTuple):
    """What `SequencePredictor` returns."""

    prediction: Tensor
    """[B, K], the target on its transformed scale, or the logits of the classes."""
    sample_embedding: Tensor
    """[B, D], which does not depend on categories."""
    abundances: Tensor | None
    """[B, S], predicted log relative abundances; None where no abundance was masked."""
    head_input: Tensor
    """[B, width of the target head], what the prediction was made from."""

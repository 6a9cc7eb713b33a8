"""The sample level by learned clades: which groups of related ASVs a sample holds, and how much of each.

UniFrac compares samples by the branches of a tree above their ASVs: unweighted by which have reads below them, weighted
by the fraction of reads. Here the branches are learned: every ASV belongs to each of K clades to a degree that is a
function of its nucleotides, and two samples are compared by those clades in the same way. So the form of the distance
is known, which ASVs go together is learned, and ASVs that were never seen need no tree.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, D width, H hidden width, K clades.
"""

import math
from typing import Final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.models.initial import Linear, SeededModule
from aam.models.sample_encoder import AbundanceEmbedding
from aam.models.types import EncodedSamples

SHARPNESS: Final = 4.0
"""Deviation of the first degrees of membership, before the softplus: how clearly an ASV belongs, or does not."""
RAREST, WIDEST = -4 * SHARPNESS, -2 * SHARPNESS
"""First offsets of the clades: from those of few ASVs to those of many, as the clades of a tree are."""
SMALLEST: Final = 1e-3
"""Fraction of reads below which the logarithm of a clade's proportion is linear."""


class Membership(SeededModule):
    """To what degree each ASV belongs to each clade: a linear map of its embedding, and one through a hidden layer."""

    def __init__(self, width: int, hidden: int, clades: int) -> None:
        super().__init__()
        self.expand = Linear(width, hidden, std=width**-0.5)
        self.contract = Linear(hidden, clades, std=0.5 * SHARPNESS * hidden**-0.5, bias=False)
        self.straight = Linear(width, clades, std=SHARPNESS * width**-0.5, bias=False)
        self.offset = nn.Parameter(torch.empty(clades))
        self.shift = nn.Parameter(torch.empty(width), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(width), requires_grad=False)
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """The first offsets, and a standardization that is fitted later: no draws; see `SeededModule`."""
        width, clades = self.shift.shape[0], self.offset.shape[0]
        offset = torch.linspace(RAREST, WIDEST, clades, device="cpu")
        return {
            "offset": offset,
            "shift": torch.zeros(width, device="cpu"),
            "scale": torch.ones(width, device="cpu"),
        }

    def forward(self, asv_embedding: Tensor) -> Tensor:
        """Degrees, -log(1 - the probability to belong): [U, D] -> [U, K], not negative."""
        standard = (asv_embedding - self.shift) * self.scale
        hidden = functional.gelu(self.expand(standard))
        return functional.softplus(self.straight(standard) + self.contract(hidden) + self.offset)


class CladeWeights(SeededModule):
    """From the embedding of a sample to what distances compare: its clades, each times a learned length."""

    def __init__(self, clades: int, *, weighted: bool) -> None:
        """Build the weights; distances compare the fractions of reads where `weighted`, else presence."""
        super().__init__()
        self.weighted = weighted
        self.raw_length = nn.Parameter(torch.empty(clades))
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Equal lengths, which are no draw; see `SeededModule`."""
        return {"raw_length": torch.zeros(self.raw_length.shape, device="cpu")}

    def forward(self, sample_embedding: Tensor) -> Tensor:
        """Give z: [B, 2 K] -> [B, K], not negative, in single precision or better."""
        presence, logarithm = sample_embedding.chunk(2, dim=1)
        compared = torch.expm1(logarithm * _LARGEST) * SMALLEST if self.weighted else presence
        return compared * functional.softplus(self.raw_length)


_LARGEST: Final = math.log1p(1 / SMALLEST)


class CladeSampleEncoder(nn.Module):
    """Samples as their clades: [presence of each clade, logarithm of its fraction of the reads], all from 0 to 1.

    A clade is present unless all ASVs of the sample are outside of it: 1 - product of (1 - probability to belong). ASVs
    do not look at one another. The context of an ASV is itself, its abundance and the whole sample.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.membership = Membership(width, config.feedforward_ratio * width, config.learned_clades)
        self.asv_project = Linear(width, width, std=width**-0.5)
        self.abundance = AbundanceEmbedding(width, width)
        self.sample_project = Linear(2 * config.learned_clades, width, std=(2 * config.learned_clades) ** -0.5)

    @property
    def inner_units(self) -> list[nn.Module]:
        """Modules that are called by themselves, besides the whole."""
        return []

    @property
    def sample_parts(self) -> list[nn.Module]:
        """Modules that samples need, and ASVs in their context do not."""
        return []

    @property
    def context_parts(self) -> list[nn.Module]:
        """Modules that ASVs in their context need, and samples do not."""
        return [self.asv_project, self.abundance, self.sample_project]

    def forward(self, samples: Samples) -> EncodedSamples:
        """Encode samples whose ASVs are embedded.

        Returns:
            Sample embeddings [B, 2 K], and each ASV in the light of its sample [B, S, D], arbitrary but finite where
            padding. The order of the ASVs does not matter.
        """
        with torch.autocast(samples.asvs.device.type, enabled=False):
            embedding = self._embed(samples._replace(asvs=samples.asvs.to(self.membership.offset.dtype)))
        context = functional.embedding(samples.asv_index, self.asv_project(samples.asvs))
        depth = samples.depth[:, None].expand_as(samples.counts)
        context = context + self.abundance(samples.counts, depth, samples.masked_abundances)
        return EncodedSamples(embedding, context + self.sample_project(embedding)[:, None])

    def pool(self, context: Tensor, padding: Tensor) -> Tensor:
        """ASVs in context cannot be pooled anew: clades are of ASVs alone.

        Raises:
            ValueError: always.
        """
        raise ValueError("a sample of learned clades cannot be pooled from ASVs in their context")

    def _embed(self, samples: Samples) -> Tensor:
        degree = self.membership(samples.asvs)
        reads = samples.counts.to(degree.dtype)
        if samples.masked_abundances is not None:  # known to be there, and not how much
            reads = reads.masked_fill(samples.masked_abundances, 0.0)
        here = samples.counts.clamp(max=1).to(degree.dtype)
        presence = -torch.expm1(-(_by_asv(samples, here) @ degree))
        proportion = (_by_asv(samples, reads) @ -torch.expm1(-degree)) / samples.depth.clamp_min(1)[:, None]
        return torch.cat([presence, (proportion / SMALLEST).log1p() / _LARGEST], dim=1)


def _by_asv(samples: Samples, values: Tensor) -> Tensor:
    """Values of the ASVs of samples as a matrix: [B, S] -> [B, U]; padding, which is 0, adds to whatever it names."""
    matrix = values.new_zeros(values.shape[0], samples.asvs.shape[0])
    return matrix.scatter_add(1, samples.asv_index, values)

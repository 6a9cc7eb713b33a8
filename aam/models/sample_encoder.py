"""The sample level: from the ASVs of each sample, with their abundances, to one vector.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.models.induced import InducedAttention
from aam.models.initial import Linear
from aam.models.pooling import AttentionPooling
from aam.models.transformer import SelfAttention, Transformer
from aam.models.types import EncodedSamples


class AbundanceEmbedding(nn.Module):
    """A learned function of the count and the relative abundance of an ASV in its sample."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.expand = Linear(3, width)
        self.contract = Linear(width, outputs, std=0.5 * width**-0.5)

    def forward(self, counts: Tensor, depth: Tensor, masked: Tensor | None) -> Tensor:
        """Embed abundances.

        Args:
            counts: [...], reads; 0 where padding.
            depth: [...], reads of the whole sample, also of ASVs that are not read.
            masked: bool [...], abundances to mask; they still add to the depth of the sample.

        Returns:
            [..., outputs].
        """
        dtype = self.expand.weight.dtype
        reads = counts.clamp_min(1).to(dtype)
        whole = depth.clamp_min(1).to(dtype)
        # shifted and scaled so that common values lie within about one unit of zero
        features = torch.stack([reads.log() / 3 - 1, (reads / whole).log() / 3 + 1.5, torch.zeros_like(reads)], dim=-1)
        if masked is not None:
            unknown = torch.tensor([0.0, 0.0, 1.0], dtype=dtype, device=counts.device)
            features = torch.where(masked[..., None], unknown, features)
        embedded: Tensor = self.contract(functional.gelu(self.expand(features)))
        return embedded


class SampleEncoder(nn.Module):
    """Transformer over the set of ASVs of a sample, pooled to one vector.

    Abundance joins each ASV as ``count_embedding`` says: ``add`` to it; ``concat``, beside it, before a linear map;
    ``film``, (1 + gamma) * x + beta with gamma and beta of the abundance (Perez et al. 2018); or ``none``, not at all.
    ASVs attend to one another, or through learned points (`aam.models.induced`), as ``sample_attention`` says.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.joins = config.embedding_dim, config.count_embedding
        self.asv_norm = nn.LayerNorm(width)
        self.asv_project = Linear(width, width, std=width**-0.5)
        outputs = 2 * width if self.joins == "film" else width
        self.abundance = None if self.joins == "none" else AbundanceEmbedding(width, outputs)
        self.join = Linear(2 * width, width, std=width**-0.5) if self.joins == "concat" else None
        self.input_norm = nn.LayerNorm(width)
        attention = InducedAttention if config.sample_attention == "induced" else SelfAttention
        self.transformer = Transformer(config, config.sample_dropout, attention=attention)
        self.pooling = AttentionPooling(width, config.attention_heads)

    @property
    def inner_units(self) -> list[nn.Module]:
        """Modules that are called by themselves, besides the whole."""
        return [self.pooling]

    @property
    def sample_parts(self) -> list[nn.Module]:
        """Modules that samples need, and ASVs in their context do not."""
        return [self.pooling]

    @property
    def context_parts(self) -> list[nn.Module]:
        """Modules that ASVs in their context need, and samples do not."""
        return []

    def forward(self, samples: Samples) -> EncodedSamples:
        """Encode samples whose ASVs are embedded.

        Returns:
            Sample embeddings [B, D], and each ASV in the light of its sample [B, S, D], arbitrary but finite where
            padding. The order of the ASVs does not matter.
        """
        # projected before the gather: there are fewer unique ASVs than ASVs of samples
        projected = self.asv_project(self.asv_norm(samples.asvs))
        layout = self.transformer.layout(samples.padding)
        x = functional.embedding(layout.pack(samples.asv_index), projected)
        if self.abundance is not None:
            masked = None if samples.masked_abundances is None else layout.pack(samples.masked_abundances)
            depth = layout.pack(samples.depth[:, None].expand_as(samples.counts))
            x = self._join_abundance(x, self.abundance(layout.pack(samples.counts), depth, masked))
        context = layout.unpack(self.transformer.transform(self.input_norm(x), layout.attend))
        return EncodedSamples(self.pool(context, samples.padding), context)

    def pool(self, context: Tensor, padding: Tensor) -> Tensor:
        """Pool ASVs, in full precision under autocast too: [B, S, D] and bool [B, S], True where padding -> [B, D]."""
        # samples differ by little of their embeddings: rounding these to half precision would blur small distances
        with torch.autocast(context.device.type, enabled=False):
            embedding: Tensor = self.pooling(context.to(self.pooling.value.weight.dtype), padding)
        return embedding

    def _join_abundance(self, x: Tensor, abundance: Tensor) -> Tensor:
        """Join ASVs and their abundance: [..., D] and [..., D or 2 D] -> [..., D]."""
        if self.join is not None:
            joined: Tensor = self.join(torch.cat([x, abundance], dim=-1))
            return joined
        if self.joins == "film":
            gamma, beta = abundance.chunk(2, dim=-1)
            return x + gamma * x + beta
        return x + abundance

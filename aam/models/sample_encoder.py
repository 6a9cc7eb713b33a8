"""The sample level: from the ASVs of each sample, with their abundances, to one vector.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.models.initial import Linear
from aam.models.pooling import AttentionPooling
from aam.models.transformer import Transformer
from aam.models.types import SampleOutput


class AbundanceEmbedding(nn.Module):
    """A learned function of the count and the relative abundance of an ASV in its sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = Linear(3, width)
        self.contract = Linear(width, width, std=0.5 * width**-0.5)

    def forward(self, count: Tensor, depth: Tensor, hidden: Tensor | None) -> Tensor:
        """Embed abundances.

        Args:
            count: int [B, S], reads; 0 where padding.
            depth: int [B], reads of the whole sample, also of ASVs that are not among the S.
            hidden: bool [B, S], abundances to conceal; they still add to the depth of the sample.

        Returns:
            [B, S, D].
        """
        dtype = self.expand.weight.dtype
        reads = count.clamp_min(1).to(dtype)
        whole = depth.clamp_min(1).to(dtype)[:, None]
        # shifted and scaled so that common values lie within about one unit of zero
        features = torch.stack([reads.log() / 3 - 1, (reads / whole).log() / 3 + 1.5, torch.zeros_like(reads)], dim=-1)
        if hidden is not None:
            concealed = torch.tensor([0.0, 0.0, 1.0], dtype=dtype, device=count.device)
            features = torch.where(hidden[..., None], concealed, features)
        embedded: Tensor = self.contract(functional.gelu(self.expand(features)))
        return embedded


class SampleEncoder(nn.Module):
    """Transformer over the set of ASVs of a sample, pooled to one vector."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.asv_norm = nn.LayerNorm(width)
        self.asv_project = Linear(width, width, std=width**-0.5)
        self.abundance = AbundanceEmbedding(width)
        self.input_norm = nn.LayerNorm(width)
        self.transformer = Transformer(config, config.sample_dropout)
        self.pooling = AttentionPooling(width, config.attention_heads)

    def forward(
        self,
        asv_embedding: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None = None,
        return_context: bool = False,
    ) -> SampleOutput:
        """Encode samples.

        Args:
            asv_embedding: [U, D].
            slot: int64 [B, S], which of the U each ASV is; any valid index where padding.
            count: int [B, S], reads of the ASV; 0 marks padding.
            depth: int [B], reads of the sample, also of ASVs that are not among the S.
            hidden_count: bool [B, S], ASVs whose abundance is concealed.
            return_context: also return each ASV in the light of its sample.

        Returns:
            Sample embeddings [B, D], and [B, S, D] if asked for. The order of the ASVs does not matter.
        """
        padding = count == 0
        # projected before the gather: there are fewer unique ASVs than ASVs of samples
        projected = self.asv_project(self.asv_norm(asv_embedding))
        x = functional.embedding(slot, projected) + self.abundance(count, depth, hidden_count)
        encoded = self.transformer(self.input_norm(x), padding)
        # samples differ by little of their embeddings: rounding these to half precision would blur small distances
        with torch.autocast(x.device.type, enabled=False):
            embedding = self.pooling(encoded.to(self.pooling.value.weight.dtype), padding)
        return SampleOutput(embedding, encoded if return_context else None)

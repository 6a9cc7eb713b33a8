"""Attention through induced points: each position sees the others by way of a few learned ones.

Shapes: R rows (samples), N positions (ASVs), P induced points, H heads, D width.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import AttnImplementation, ModelConfig
from aam.models.initial import Drawn, Linear, normal
from aam.models.transformer import FeedForward, attention_kernel, residual_std


class CrossAttention(nn.Module):
    """Multi-head attention of some positions to others (Vaswani et al. 2017); no dropout of attention weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.implementation: AttnImplementation = config.attn_implementation
        width = config.embedding_dim
        self.query = Linear(width, width, std=width**-0.5, bias=False)
        self.key_value = Linear(width, 2 * width, std=width**-0.5, bias=False)
        self.output = Linear(width, width, std=residual_std(width, config), bias=False)

    def forward(self, x: Tensor, seen: Tensor, attend: Tensor | None) -> Tensor:
        """Let the positions of x see others: [R, N, D], [R, M, D] -> [R, N, D].

        Args:
            x: what sees.
            seen: what is seen.
            attend: bool [R, 1, 1, M], False where ``seen`` is padding; None where there is none.
        """
        query, key_value = self.query(x), self.key_value(seen)
        dtype = query.dtype
        if query.device.type == "cpu" and dtype == torch.bfloat16:
            # as in SelfAttention
            query, key_value = query.float(), key_value.float()
        parts = (query, *key_value.chunk(2, dim=2))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        kernel = attention_kernel(self.implementation, masked=attend is not None)
        with torch.autocast(query.device.type, enabled=False), kernel:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2).to(dtype))
        return projected


class InducedAttention(Drawn):
    """Mixes the positions of a set at a cost linear in their number; stands where `SelfAttention` does in a block.

    Induced set attention (Lee et al. 2019, Set Transformer), with norms before the layers as everywhere here: P learned
    points see all positions, go through a feed-forward layer, and are seen by every position. Nothing depends on the
    order of positions.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embedding_dim
        self.points = nn.Parameter(torch.empty(config.induced_points, width))
        self.points_norm = nn.LayerNorm(width)
        self.gather = CrossAttention(config)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(config)
        self.summary_norm = nn.LayerNorm(width)
        self.spread = CrossAttention(config)
        self.reset_parameters()

    def draw(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the points, of the size of normed positions; see `Drawn`."""
        return {"points": normal(self.points.shape, 1.0, generator)}

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Mix positions: [R, N, D] -> [R, N, D]; ``attend``: bool [R, 1, 1, N], False where padding."""
        spread: Tensor = self.spread(x, self.summary_norm(self.summarise(x, attend)), None)
        return spread

    def summarise(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Let the points see the positions of each row: [R, N, D] -> [R, P, D]."""
        points = self.points.expand(len(x), -1, -1)
        points = points + self.gather(self.points_norm(points), x, attend)
        summary: Tensor = points + self.feedforward(self.feedforward_norm(points))
        return summary

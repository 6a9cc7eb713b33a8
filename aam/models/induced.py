"""Attention through induced points: each position sees the others by way of a few learned ones.

Shapes: R rows (samples), N positions (ASVs) of a row, M positions that are seen, T real positions of all rows, P
induced points, H heads, E width of a head, D width.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.models.initial import Drawn, Linear, normal
from aam.models.packing import Attend, Lengths
from aam.models.transformer import FeedForward, attention_kernel, residual_std


class CrossAttention(nn.Module):
    """The parts of multi-head attention of some positions to others (Vaswani et al. 2017), to be put together."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.implementation = config.attn_implementation
        width = config.embedding_dim
        self.query = Linear(width, width, std=width**-0.5, bias=False)
        self.key_value = Linear(width, 2 * width, std=width**-0.5, bias=False)
        self.output = Linear(width, width, std=residual_std(width, config), bias=False)

    def ask(self, x: Tensor) -> Tensor:
        """Queries of what sees: [..., D] -> [..., H, E]."""
        return self.query(x).unflatten(-1, (self.heads, -1))  # type: ignore[no-any-return]

    def show(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is seen: [..., D] -> twice [..., H, E]."""
        key, value = self.key_value(x).unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=-2)
        return key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
        """See: [R, N, H, E] and twice [R, M, H, E] -> [R, N, H, E]; ``attend``: bool [R, 1, 1, M], see `Attend`."""
        dtype, parts = query.dtype, (query, key, value)
        if query.device.type == "cpu" and dtype == torch.bfloat16:
            # as in SelfAttention
            parts = (query.float(), key.float(), value.float())
        kernel = attention_kernel(self.implementation, masked=attend is not None)
        with torch.autocast(query.device.type, enabled=False), kernel:
            query, key, value = (part.transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        return mixed.transpose(1, 2).to(dtype)

    def join(self, mixed: Tensor) -> Tensor:
        """Join the heads: [..., H, E] -> [..., D]."""
        joined: Tensor = self.output(mixed.flatten(-2))
        return joined


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

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Mix the positions of each row: [R, N, D] -> [R, N, D], or packed, [T, D] -> [T, D]."""
        if isinstance(attend, Lengths):
            return self._mix(x, attend.runs or ((0, 1),), None)
        rows, positions, _ = x.shape
        return self._mix(x.flatten(0, 1), ((rows, positions),), attend).view_as(x)

    def _mix(self, x: Tensor, runs: tuple[tuple[int, int], ...], attend: Tensor | None) -> Tensor:
        """Mix rows that follow one another, [T, D], in runs of rows of equal length; see `Lengths`."""
        summary = self.summary_norm(self._summarise(x, runs, attend))
        positions, rows = [number * length for number, length in runs], [number for number, _ in runs]
        asked = torch.split(self.spread.ask(x), positions)
        shown = (torch.split(part, rows) for part in self.spread.show(summary))
        mixed = [
            self.spread.mix(query.unflatten(0, run), key, value, None).flatten(0, 1)
            for run, query, key, value in zip(runs, asked, *shown, strict=True)
        ]
        return self.spread.join(torch.cat(mixed))

    def _summarise(self, x: Tensor, runs: tuple[tuple[int, int], ...], attend: Tensor | None) -> Tensor:
        """Let the points see the positions of each row: [T, D] -> [R, P, D]."""
        query = self.gather.ask(self.points_norm(self.points))
        positions = [number * length for number, length in runs]
        shown = (torch.split(part, positions) for part in self.gather.show(x))
        mixed = [
            self.gather.mix(query.expand(run[0], -1, -1, -1), key.unflatten(0, run), value.unflatten(0, run), attend)
            for run, key, value in zip(runs, *shown, strict=True)
        ]
        points = self.points + self.gather.join(torch.cat(mixed))
        summary: Tensor = points + self.feedforward(self.feedforward_norm(points))
        return summary

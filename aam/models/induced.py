"""Attention of many ASVs through a few learned points: time and memory grow with the ASVs, not with their pairs.

Shapes: R rows (samples), N positions (ASVs), T real positions of all rows, M learned points, H heads, E width of a
head, D width.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.models.initial import Linear, SeededModule, normal
from aam.models.packing import Attend, Lengths
from aam.models.transformer import FeedForward, attention_kernel, residual_std


class InducedAttention(SeededModule):
    """Induced set attention (Lee et al. 2019, ISAB): learned points attend to ASVs, and these to what the points found.

    The points gather from all ASVs of a sample and go through a feed-forward network; each ASV then reads from the M
    points: N x M scores in place of N x N. The order of the ASVs does not matter.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.implementation = config.attn_implementation
        width = config.embedding_dim
        self.points = nn.Parameter(torch.empty(config.induced_points, width))
        self.qkv = Linear(width, 3 * width, std=width**-0.5, bias=False)
        self.gather = Linear(width, width, std=width**-0.5, bias=False)
        self.found_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(config)
        self.read_norm = nn.LayerNorm(width)
        self.read = Linear(width, 2 * width, std=width**-0.5, bias=False)
        self.output = Linear(width, width, std=residual_std(width, config), bias=False)
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the points; see `SeededModule`."""
        return {"points": normal(self.points.shape, 1.0, generator)}

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Mix the positions of each row: [R, N, D] -> [R, N, D], or packed, [T, D] -> [T, D]."""
        query, key, value = (self._by_head(part) for part in self.qkv(x).chunk(3, dim=-1))
        if isinstance(attend, Lengths):
            mixed = self._mix_runs(query, key, value, attend)
        else:
            mixed = self._mix(query, *self._found(self._gather(key, value, attend)))
        projected: Tensor = self.output(mixed.flatten(-2))
        return projected

    def weights(self, x: Tensor) -> Tensor:
        """How much positions attend to one another through the points, sum 1 over the last: [R, N, D] -> [R, H, N, N].

        What a position reads from a point, times what the point gathers from every position.
        """
        query, key, value = (self._by_head(part) for part in self.qkv(x).chunk(3, dim=-1))
        read_from, _ = self._found(self._gather(key, value))
        points = self._by_head(self.points).expand(x.shape[0], -1, -1, -1)
        weights: Tensor = _scores(query, read_from) @ _scores(points, key)
        return weights

    def _mix_runs(self, query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
        """Mix packed rows, run by run: [T, H, E] -> [T, H, E]."""
        # where there is nothing to mix, parameters get a gradient of zero: every process sums the same ones
        runs = lengths.runs or ((0, 1),)
        queries, keys, values = (_by_run(part, runs) for part in (query, key, value))
        # all runs at once go through the maps; they differ in their positions, and the points do not
        found = self._found(torch.cat([self._gather(k, v) for k, v in zip(keys, values, strict=True)]))
        found_of_run = (torch.split(part, [number for number, _ in runs]) for part in found)
        return torch.cat([self._mix(*run).flatten(0, 1) for run in zip(queries, *found_of_run, strict=True)])

    def _gather(self, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the points attend to positions: twice [R, N, H, E] -> [R, M, H, E]."""
        return self._mix(self._by_head(self.points).expand(key.shape[0], -1, -1, -1), key, value, mask)

    def _found(self, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what the points gathered, [R, M, H, E] -> two of [R, M, H, E]."""
        found = self.points + self.gather(gathered.flatten(-2))
        found = found + self.feedforward(self.found_norm(found))
        key, value = self.read(self.read_norm(found)).chunk(2, dim=-1)
        return self._by_head(key), self._by_head(value)

    def _by_head(self, x: Tensor) -> Tensor:
        """Tell heads apart: [..., D] -> [..., H, E]."""
        return torch.unflatten(x, -1, (self.heads, -1))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within rows: [R, Q, H, E], twice [R, K, H, E] and bool [R, 1, 1, K] -> [R, Q, H, E]."""
        dtype = key.dtype
        # in single precision on a CPU, as `SelfAttention` does
        within = torch.float32 if key.device.type == "cpu" and dtype == torch.bfloat16 else dtype
        query, key, value = (part.to(within).transpose(1, 2) for part in (query, key, value))
        kernel = attention_kernel(self.implementation, masked=mask is not None)
        with torch.autocast(key.device.type, enabled=False), kernel:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).to(dtype)


def _by_run(x: Tensor, runs: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Cut packed positions into runs of equally long rows: [T, H, E] -> [rows, positions, H, E] for each run."""
    parts = torch.split(x, [number * length for number, length in runs])
    return [torch.unflatten(part, 0, run) for part, run in zip(parts, runs, strict=True)]


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Scaled dot-product attention: [R, Q, H, E] and [R, K, H, E] -> [R, H, Q, K]."""
    scores = query.transpose(1, 2) @ key.transpose(1, 2).transpose(-1, -2)
    weights: Tensor = (scores * query.shape[-1] ** -0.5).softmax(dim=-1)
    return weights

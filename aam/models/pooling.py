"""Attention pooling: many positions to one vector.

Shapes: R rows (ASVs or samples), N positions, H heads, D width.
"""

from torch import Tensor, nn

from aam.models.initial import Linear


class AttentionPooling(nn.Module):
    """Multi-head attention of a learned query over a set (Lee et al. 2019, pooling by multi-head attention).

    The query is the same for every row, so the key projection folds into one score vector a head, and the value
    projection is applied after the weighted mean: neither is ever computed for single positions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.score = Linear(width, heads, std=width**-0.5, bias=False)
        self.value = Linear(heads * width, width, std=(heads * width) ** -0.5)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Pool each row: [R, N, D] and bool [R, N], True where padding, or None where there is none -> [R, D].

        A row that is all padding gives a constant vector.
        """
        score = self.score(x).transpose(1, 2)
        if padding is None:
            weight = score.softmax(dim=-1)
        else:
            absent = padding[:, None, :]
            # the second fill gives rows without any position a mean of zero instead of a mean of padding
            weight = score.masked_fill(absent, -1e4).softmax(dim=-1).masked_fill(absent, 0.0)
        pooled: Tensor = self.value((weight.to(x.dtype) @ x).flatten(1))
        return pooled

    def weights(self, x: Tensor) -> Tensor:
        """How much each head takes of every position of rows without padding, sum 1: [R, N, D] -> [R, H, N]."""
        weight: Tensor = self.score(x).transpose(1, 2).softmax(dim=-1)
        return weight

"""Which samples of a step share a batch, so that none of the batches takes more memory than it may.

Shapes: U unique ASVs of a batch, S ASVs in a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Final, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from aam.data.arrays import Ints
from aam.errors import InputError

Rows = Ints
Parts = tuple[Rows, ...]
"""Rows of each batch of one rank."""


@dataclass(frozen=True)
class BatchCost:
    """Bytes that training on a batch takes: linear in its unique ASVs, and in the ASVs of its samples."""

    unique: float
    """Bytes of a unique ASV, as the shape of the network tells."""
    sampled: float
    """Bytes of an ASV of a sample."""
    paired: float = 0.0
    """Bytes of a pair of ASVs of one sample, where attention keeps the weights of all pairs."""
    padded: bool = False
    """Whether each sample takes what the largest of its batch does."""
    scale: float = 1.0
    """What the bytes are multiplied by, as measured."""
    fixed: float = 0.0
    """Bytes of everything else, as measured."""

    def of(self, unique: int, sampled: int, pairs: int = 0) -> float:
        """Bytes of a batch of U unique ASVs, of so many ASVs over all its samples, and of so many pairs of these."""
        return self.fixed + self.scale * (self.unique * unique + self.sampled * sampled + self.paired * pairs)

    def of_batch(self, unique: int, sizes: Sequence[int]) -> float:
        """Bytes of a batch of U unique ASVs whose samples have these numbers of ASVs."""
        if self.padded:
            sizes = len(sizes) * [max(sizes, default=0)]
        return self.of(unique, sum(sizes), sum(size * size for size in sizes))

    def fit(self, predicted: tuple[float, float], measured: tuple[float, float]) -> Self:
        """Fit scale and fixed part to a smaller and a larger batch: as predicted without these, and as measured."""
        small, large = predicted
        scale = (measured[1] - measured[0]) / max(1.0, large - small)
        # what the smaller one seems to take beside may be noise; less than half of the numbers' own bytes is
        scale = max(0.5, scale)
        return replace(self, scale=scale, fixed=max(0.0, measured[0] - scale * small, measured[1] - scale * large))


@dataclass(frozen=True)
class MemoryBudget:
    """How many bytes a batch may take, and how many it does."""

    limit: float
    cost: BatchCost
    ceiling: float | None = None
    """What the process may take at most, of which the limit leaves some for what varies; None: nobody looks."""

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Rebuild what `dataclasses.asdict` has made of a budget.

        Raises:
            InputError: this is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(document)
        except ValidationError:
            raise InputError("the checkpoint says of the memory what no aam writes; use another checkpoint") from None

    def pack(self, samples: Rows, asvs: Sequence[Rows], ranks: int) -> list[tuple[Rows, ...]]:
        """Divide samples, with the ASVs of each, among ranks, and cut the part of each into batches within the limit.

        Samples of similar size share a batch, so that there is little padding. Every rank gets equally many batches, of
        which the last ones may be empty. A sample above the limit makes a batch of its own.
        """
        by_size = sorted(range(len(samples)), key=lambda i: (-len(asvs[i]), samples[i]))
        known, codes = np.unique(np.concatenate([*asvs, np.zeros(0, np.int64)]), return_inverse=True)
        numbered = np.split(codes, np.cumsum([len(asv) for asv in asvs])[:-1])
        parts = [self._cut(by_size[rank::ranks], numbered, len(known)) for rank in range(ranks)]
        most = max(map(len, parts))
        empty: list[list[int]] = [[]]
        return [
            tuple(samples[np.array(batch, np.int64)] for batch in part + (most - len(part)) * empty) for part in parts
        ]

    def largest_batch(self, asvs: Sequence[Rows]) -> int:
        """How many of these samples, the largest first, fit into one batch, by binary search."""
        by_size = sorted(asvs, key=len, reverse=True)
        low, high = 0, len(by_size)
        while low < high:
            middle = (low + high + 1) // 2
            batch = by_size[:middle]
            unique = len(np.unique(np.concatenate(batch)))
            fits = self.cost.of_batch(unique, [len(asv) for asv in batch]) <= self.limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _cut(self, order: Sequence[int], asvs: Sequence[Rows], count: int) -> list[list[int]]:
        """Cut samples, the largest first, into batches; their ASVs are numbers below a count."""
        batches: list[list[int]] = []
        last = np.full(count, -1)  # the last batch that holds an ASV
        unique = sampled = pairs = 0
        for sample in order:
            own = asvs[sample]
            fresh = int((last[own] != len(batches) - 1).sum())
            # padded to the first one, which is the largest
            size = len(asvs[batches[-1][0]]) if batches and self.cost.padded else len(own)
            if not batches or self.cost.of(unique + fresh, sampled + size, pairs + size * size) > self.limit:
                batches.append([])
                unique, sampled, pairs, fresh, size = 0, 0, 0, len(own), len(own)
            batches[-1].append(sample)
            last[own] = len(batches) - 1
            unique, sampled, pairs = unique + fresh, sampled + size, pairs + size * size
        return batches


@dataclass(frozen=True)
class Cutting:
    """Into which batches the samples of a step are cut: the same on every rank, without a word between them."""

    budget: MemoryBudget | None = None
    """What a batch may take; None: batches are as planned."""
    pieces: int = 1
    """Batches to make of each one."""

    def parts(self, samples: Rows, asvs: Sequence[Rows], planned: Sequence[Parts]) -> tuple[Parts, ...]:
        """Cut the samples of a step [G]; each rank gets equally many batches, none of them empty on all ranks.

        A budget asks for the ASVs of each sample; without one, batches are as planned for each rank.
        """
        parts = planned if self.budget is None else self.budget.pack(samples, asvs, len(planned))
        cut = [tuple(piece for rows in part for piece in np.array_split(rows, self.pieces)) for part in parts]
        # the first pieces are the larger ones: a batch of which no rank has a part is none
        filled = [any(map(len, batch)) for batch in zip(*cut, strict=True)]
        return tuple(tuple(compress(part, filled)) for part in cut)


AS_PLANNED: Final = Cutting()

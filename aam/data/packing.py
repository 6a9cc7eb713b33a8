"""Which samples of a step share a batch, so that none of the batches takes more memory than it may.

Shapes: U unique ASVs of a batch, S ASVs in a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class BatchCost:
    """Bytes that training on a batch takes: linear in its unique ASVs, and in the ASVs of its samples."""

    unique: float
    """Bytes of a unique ASV, as the shape of the network tells."""
    sampled: float
    """Bytes of an ASV of a sample."""
    scale: float = 1.0
    """What the bytes are multiplied by, as measured."""
    fixed: float = 0.0
    """Bytes of everything else, as measured."""

    def of(self, unique: int, sampled: int) -> float:
        """Bytes of a batch of U unique ASVs, and of so many ASVs over all its samples."""
        return self.fixed + self.scale * (self.unique * unique + self.sampled * sampled)

    def fit(self, sizes: tuple[tuple[int, int], tuple[int, int]], measured: tuple[float, float]) -> Self:
        """Fit scale and the fixed part to two measured batches.

        Args:
            sizes: unique ASVs and ASVs of samples, of a smaller and of a larger batch.
            measured: bytes of both.
        """
        small, large = (replace(self, scale=1.0, fixed=0.0).of(*size) for size in sizes)
        scale = (measured[1] - measured[0]) / max(1.0, large - small)
        # what the smaller one seems to take beside may be noise; less than half of the numbers' own bytes is
        scale = max(0.5, scale)
        return replace(self, scale=scale, fixed=max(0.0, measured[0] - scale * small, measured[1] - scale * large))


@dataclass(frozen=True)
class MemoryBudget:
    """How many bytes a batch may take, and how many it does."""

    limit: float
    cost: BatchCost

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Rebuild what `dataclasses.asdict` has made of a budget."""
        return cls(document["limit"], BatchCost(**document["cost"]))

    def pack(self, samples: Rows, asvs: Sequence[Rows], ranks: int) -> list[tuple[Rows, ...]]:
        """Share samples out among ranks, and cut each share into batches within the limit.

        Samples of similar size share a batch, so that there is little padding. Every rank gets equally many batches, of
        which the last ones may be empty. A sample above the limit makes a batch of its own.

        Args:
            samples: rows of the table.
            asvs: the ASVs of each sample, columns of the table.
            ranks: over which to share.

        Returns:
            For each rank, the rows of each of its batches.
        """
        by_size = sorted(range(len(samples)), key=lambda i: (-len(asvs[i]), samples[i]))
        shares = [self._cut(by_size[rank::ranks], asvs) for rank in range(ranks)]
        most = max(map(len, shares))
        empty: list[list[int]] = [[]]
        return [
            tuple(samples[np.array(batch, np.int64)] for batch in share + (most - len(share)) * empty)
            for share in shares
        ]

    def largest_batch(self, asvs: Sequence[Rows]) -> int:
        """How many of these samples, the largest first, fit into one batch, by binary search."""
        by_size = sorted(asvs, key=len, reverse=True)
        low, high = 0, len(by_size)
        while low < high:
            middle = (low + high + 1) // 2
            batch = by_size[:middle]
            fits = self.cost.of(len(np.unique(np.concatenate(batch))), sum(map(len, batch))) <= self.limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _cut(self, order: Sequence[int], asvs: Sequence[Rows]) -> list[list[int]]:
        batches: list[list[int]] = []
        known: set[int] = set()
        sampled = 0
        for sample in order:
            joined = known.union(asvs[sample].tolist())
            if not batches or self.cost.of(len(joined), sampled + len(asvs[sample])) > self.limit:
                batches.append([])
                joined, sampled = set(asvs[sample].tolist()), 0
            batches[-1].append(sample)
            known, sampled = joined, sampled + len(asvs[sample])
        return batches

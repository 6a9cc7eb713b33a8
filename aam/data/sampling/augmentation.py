"""How training samples are varied: reads that are mixed, taken away, and ASVs that are left out, in every epoch anew.

Sources of the idea of mixing: Zhang et al. 2018, mixup: beyond empirical risk minimization; Gordon-Rodriguez, Quinn and
Cunningham 2022, Data augmentation for compositional data: advancing predictive models of the microbiome (here reads are
pooled, not proportions added, and labels are equal).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from aam.config import AugmentationConfig
from aam.data.arrays import Ints
from aam.data.sampling.reads import draw_reads
from aam.data.sampling.seeded import derived_seed, generator, uniforms

Reads = tuple[Ints, Ints]
"""Columns of the ASVs of a sample, ascending, and their counts, both int64 [ASVs of the sample]."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """Which sample is mixed with which."""

    probability: float
    """Of a sample in an epoch."""
    peers: Mapping[int, Ints]
    """For each row of the table that may be mixed, all rows of its label, in the order of their ids."""

    @classmethod
    def of(cls, probability: float, samples: Ints, labels: Sequence[str], sample_ids: Sequence[str]) -> Self:
        """Group by label the rows of the table that may be mixed; labels and ids are of all its rows."""
        groups: dict[str, list[int]] = {}
        for row in sorted(samples.tolist(), key=sample_ids.__getitem__):
            groups.setdefault(labels[row], []).append(row)
        arrays = [np.array(rows, dtype=np.int64) for rows in groups.values()]
        return cls(probability, {row: rows for rows in arrays for row in rows.tolist()})

    def largest_of_label(self, sizes: Ints) -> Ints:
        """The largest of some sizes, one for each row of the table, among the samples of its label; 0 if not mixed."""
        largest = np.zeros_like(sizes)
        if self.probability > 0:
            for rows in {id(rows): rows for rows in self.peers.values()}.values():
                if len(rows) > 1:
                    largest[rows] = sizes[rows].max()
        return largest

    def partner(self, sample: int, rng: np.random.Generator) -> int | None:
        """Choose one of the other samples of the label, all alike; None where the sample is not mixed."""
        peers = self.peers.get(sample)
        if peers is None or len(peers) < 2 or rng.random() >= self.probability:
            return None
        others = peers[peers != sample]
        return int(others[rng.integers(len(others))])


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Variations of training samples, each a function of (seed, epoch, sample id) and, of an ASV, its sequence."""

    config: AugmentationConfig
    seed: int
    sample_ids: Sequence[str]
    """Of the samples of the table."""
    asv_keys: Tensor
    """int64 [ASVs of the table], keys of the ASVs."""
    mixing: Mixing | None = None

    def reads(self, sample: int, epoch: int | str, reads_of: Callable[[int], Reads]) -> Reads:
        """Vary the reads of one sample, a row of the table, in an epoch.

        `reads_of` gives the reads of a row as they are. `depth_jitter` takes reads away, a mixed sample has as many
        reads as it would have had by itself, and `asv_dropout` takes ASVs away last, with their reads.
        """
        own = reads_of(sample)
        available = int(own[1].sum())
        # uniform between (1 - depth_jitter) and 1 times the reads that there are
        spare = int(self.config.depth_jitter * available)
        depth = available - int(self._generator("jitter depth", sample, epoch).integers(spare + 1))
        rng = self._generator("mix", sample, epoch)
        other = None if self.mixing is None else self.mixing.partner(sample, rng)
        if other is None:
            return self._thin(sample, epoch, _draw(own, depth, self._generator("jitter reads", sample, epoch)))
        others = reads_of(other)
        # as many of the other's reads as it has, where these are too few
        of_own = max(round(rng.random() * depth), depth - int(others[1].sum()))
        pooled = _pool(_draw(own, of_own, rng), _draw(others, depth - of_own, rng))
        return self._thin(sample, epoch, pooled)

    def _thin(self, sample: int, epoch: int | str, reads: Reads) -> Reads:
        """Leave ASVs out, each by itself; of a sample that would lose all, the one that was drawn highest stays."""
        asv, count = reads
        if self.config.asv_dropout == 0 or not len(asv):
            return reads
        seed = derived_seed(self.seed, "drop ASVs", epoch, self.sample_ids[sample])
        draw = uniforms(seed, self.asv_keys[torch.from_numpy(asv)], 1)[:, 0].numpy()
        kept = draw >= min(self.config.asv_dropout, draw.max())
        return asv[kept], count[kept]

    def _generator(self, purpose: str, sample: int, epoch: int | str) -> np.random.Generator:
        return generator(self.seed, purpose, epoch, self.sample_ids[sample])


def _draw(reads: Reads, depth: int, rng: np.random.Generator) -> Reads:
    """Draw reads without replacement; ASVs stay that are seen."""
    asv, count = reads
    if depth == count.sum():
        return reads
    drawn = draw_reads(rng, count, depth)
    return asv[drawn > 0], drawn[drawn > 0]


def _pool(one: Reads, other: Reads) -> Reads:
    asv, place = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    count = np.zeros(len(asv), dtype=np.int64)
    np.add.at(count, place, np.concatenate([one[1], other[1]]))
    return asv, count

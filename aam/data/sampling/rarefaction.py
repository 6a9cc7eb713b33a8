"""Which reads and which ASVs of a sample are seen in an epoch."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from aam.config import TargetSamplingConfig
from aam.data.arrays import Ints
from aam.data.files.counts import blocks_of, row_sizes
from aam.data.files.tables import FeatureTable
from aam.data.sampling.augmentation import Augmentation, Reads
from aam.data.sampling.reads import draw_reads
from aam.data.sampling.seeded import generator

FIXED = "fixed"
"""The epoch of draws that stay the same: validation, prediction, and ``--rarefaction fixed``."""


def row_of(counts: csr_array, row: int) -> Reads:
    """Columns and values of one row of a sparse matrix, both int64."""
    span = slice(counts.indptr[row], counts.indptr[row + 1])
    return counts.indices[span].astype(np.int64), counts.data[span]


def mean_log_abundance(table: FeatureTable, samples: Ints) -> float:
    """Mean over samples and their ASVs of the natural logarithm of the relative abundance; samples hold reads."""
    sizes, depth = row_sizes(table.counts)[samples], table.depth[samples]
    total = 0.0
    for block in blocks_of(sizes):
        counts = table.counts[samples[block]].data
        total += float(np.log(counts / np.repeat(depth[block], sizes[block])).sum())
    return total / int(sizes.sum())


@dataclass(frozen=True, eq=False)
class SampleDraws:
    """The counts of any sample in any epoch, as a function of (seed, epoch, sample id).

    Samples are augmented in the numbered epochs of training, never in `FIXED`; with ``--rarefaction fixed`` too.
    """

    table: FeatureTable
    config: TargetSamplingConfig
    seed: int
    augmentation: Augmentation | None = None

    @property
    def is_settled(self) -> bool:
        """Whether every epoch sees of every sample what `FIXED` does."""
        depth = self.config.depth
        draws_anew = depth is not None and bool((self.table.depth > depth).any())
        chooses_anew = self.config.asv_choice == "random" and self.config.max_asvs > 0
        return self.augmentation is None and (self.config.rarefaction == "fixed" or not (draws_anew or chooses_anew))

    def counts(self, sample: int, epoch: int | str) -> Reads:
        """Draw the reads of one sample, without replacement, at the sampling depth, and vary them if asked.

        A sample at or below the depth is returned as it is, unless it is augmented.
        """
        if self.augmentation is None or epoch == FIXED:
            return self._rarefy(sample, epoch)
        return self.augmentation.reads(sample, epoch, lambda row: self._rarefy(row, epoch))

    def _rarefy(self, sample: int, epoch: int | str) -> Reads:
        asv, count = row_of(self.table.counts, sample)
        depth = self.config.depth
        if depth is None or count.sum() <= depth:
            return asv, count
        drawn = draw_reads(self._generator("rarefy", sample, epoch), count, depth)
        seen = drawn > 0
        return asv[seen], drawn[seen]

    def rows(self, samples: Ints, epoch: int | str) -> csr_array:
        """Stack the drawn counts of several samples: int64 [samples, ASVs of the table]."""
        drawn = [self.counts(int(sample), epoch) for sample in samples]
        indptr = np.cumsum([0] + [len(asv) for asv, _ in drawn])
        none = np.zeros(0, dtype=np.int64)
        asv = np.concatenate([none, *(asv for asv, _ in drawn)])
        count = np.concatenate([none, *(count for _, count in drawn)])
        return csr_array((count, asv, indptr), shape=(len(samples), self.table.n_asvs))

    def choose(self, sample: int, epoch: int | str, drawn: Reads) -> Reads:
        """Keep at most ``max_asvs`` (0: all) of a sample's drawn ASVs, still in ascending order of column."""
        asv, count = drawn
        limit = self.config.max_asvs
        if limit == 0 or len(asv) <= limit:
            return drawn
        if self.config.asv_choice == "abundance":
            kept = np.sort(np.argsort(-count, kind="stable")[:limit])
        elif self.config.asv_choice == "random":
            kept = np.sort(self._generator("choose", sample, epoch).choice(len(asv), limit, replace=False))
        else:
            kept = np.arange(limit)
        return asv[kept], count[kept]

    def most_asvs(self, samples: Ints, mixed: bool = True) -> Ints:
        """The most ASVs of each sample that the model can meet, whatever is drawn, and mixed in training: [samples]."""
        depth, sampling = self.table.depth, self.config
        if sampling.depth is not None:
            depth = np.minimum(depth, sampling.depth)
        held = np.minimum(row_sizes(self.table.counts), depth)
        mixing = None if self.augmentation is None else self.augmentation.mixing
        most = held[samples]
        if mixed and mixing is not None:
            most = np.minimum(most + mixing.largest_of_label(held)[samples], depth[samples])
        return self.capped(most)

    def capped(self, sizes: Ints) -> Ints:
        """Numbers of ASVs as far as the model reads them."""
        return np.minimum(sizes, self.config.max_asvs) if self.config.max_asvs else sizes

    def _generator(self, purpose: str, sample: int, epoch: int | str) -> np.random.Generator:
        when = FIXED if self.config.rarefaction == "fixed" else epoch
        return generator(self.seed, purpose, when, self.table.sample_ids[sample])

"""Exchange the reads of some ASVs among samples, so that whatever is computed from reads can be computed anew.

A sample gets from a donor the fraction of reads that these ASVs have there, and how it is divided among them; its
other ASVs keep their proportions to each other, and its depth stays. So the sample is one that might have been: the
proportions of single ASVs are not moved into a sample whose total then no longer fits.

Shapes: m samples, A ASVs, c samples that change.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aam.data.files.counts import Counts
from aam.learners.base import Floats, Rows

Columns = NDArray[np.int64]
"""Columns of the table: ASVs."""


class Exchanged(NamedTuple):
    """Samples whose reads differ after an exchange."""

    rows: Rows
    """Which samples [c]."""
    counts: Counts
    """Their reads now [c, A]."""
    before: Floats
    """Fraction of their reads that the exchanged ASVs had [c]."""
    after: Floats
    """The fraction that they have now [c]."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """Reads of samples among which ASVs are exchanged."""

    counts: Counts
    """[m, A]; no sample is without reads."""
    depth: Floats
    """[m]."""

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """Take the reads of some samples."""
        return cls(counts, np.asarray(counts.sum(axis=1), dtype=np.float64).ravel())

    def exchange(self, columns: Columns, donors: Rows) -> Exchanged:
        """Give every sample the reads of some ASVs that another sample has.

        Counts are rounded, and what was there stays with one read at least. A sample that would be left without
        reads, having none of other ASVs and getting none of these, is left as it is.

        Args:
            columns: the ASVs.
            donors: the sample from which each sample gets them [m].
        """
        inside = np.zeros(self.counts.shape[1], dtype=bool)
        inside[columns] = True
        kept = inside[self.counts.indices]
        row = np.repeat(np.arange(len(self.depth)), np.diff(self.counts.indptr))
        fraction = np.bincount(row[kept], self.counts.data[kept], minlength=len(self.depth)) / self.depth
        given = fraction[donors]
        emptied = (given == 0) & (fraction >= 1)
        rows = np.flatnonzero(((fraction > 0) | (given > 0)) & (donors != np.arange(len(donors))) & ~emptied)
        old, new, giver = fraction[rows], given[rows], donors[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(old < 1, (1 - new) / (1 - old), 0.0)
        counts = _scaled(self.counts[rows], ~inside, factor)
        counts = counts + _scaled(self.counts[giver], inside, self.depth[rows] / self.depth[giver])
        return Exchanged(rows, _canonical(counts), old, new)


def _scaled(counts: Counts, kept: NDArray[np.bool_], factor: Floats) -> Counts:
    """Multiply the counts of some ASVs, of each row by its factor, and drop those of others."""
    each = np.repeat(factor, np.diff(counts.indptr))
    scaled = np.where(each > 0, np.maximum(np.rint(counts.data * each), 1.0), 0.0)
    data = np.where(kept[counts.indices], scaled, 0.0).astype(np.int64)
    return sparse.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


def _canonical(counts: Counts) -> Counts:
    """Sort the columns of each row, and store no zeros."""
    rows = sparse.csr_array(counts)
    rows.eliminate_zeros()
    rows.sort_indices()
    return rows

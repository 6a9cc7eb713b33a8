"""Reads below every branch of the tree, sample by sample, as sparse rows: the features that a phylogeny gives."""

import numpy as np
from scipy import sparse

from aam.data.arrays import Bools, Ints
from aam.data.distances.unifrac import StudyTree, kept_branches, places_of
from aam.data.files.counts import Counts

Rows = sparse.csr_array
"""Sparse rows of float64, one for each sample."""
_CELLS = 4_000_000
"""Cells of the dense block in which the reads of some samples are summed."""


def branch_proportions(tree: StudyTree, counts: Counts) -> Rows:
    """Fraction of each sample's reads below every branch: float64 [B, N], no zeros stored.

    A branch lies above an interval of tips, so its reads are a difference of one running sum over the sample's tips.
    Samples without reads have empty rows.
    """
    samples = counts.shape[0]
    # of the tips between the kept ones nothing is summed, so a block is as wide as its own ASVs and branches
    step = max(1, _CELLS // max(1, len(tree.start)))
    blocks = [_block(tree, counts[start : start + step]) for start in range(0, samples, step)]
    if not blocks:
        return sparse.csr_array((0, len(tree.start)), dtype=np.float64)
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _block(tree: StudyTree, counts: Counts) -> Rows:
    """As `branch_proportions`, of a few samples."""
    rank = tree.rank[counts.indices]
    kept = np.unique(rank)
    place = np.searchsorted(kept, np.arange(len(tree.rank) + 1))  # tips that are kept before each
    start, stop = place[tree.start], place[tree.stop]
    branch = np.flatnonzero(stop > start)
    dense = np.zeros((counts.shape[0], len(kept) + 1))
    sample = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    np.add.at(dense, (sample, place[rank] + 1), counts.data)
    np.cumsum(dense, axis=1, out=dense)
    below = dense[:, stop[branch]] - dense[:, start[branch]]
    depth = np.maximum(dense[:, -1:], 1.0)
    row, column = np.nonzero(below)
    proportions = below[row, column] / depth[row, 0]
    return sparse.csr_array((proportions, (row, branch[column])), shape=(counts.shape[0], len(tree.start)))


def asv_proportions(counts: Counts) -> Rows:
    """Fraction of each sample's reads that an ASV has, float64 [B, ASVs]; samples without reads have empty rows."""
    sizes = np.diff(counts.indptr)
    depth = np.repeat(np.asarray(counts.sum(axis=1), np.float64), sizes)
    return sparse.csr_array((counts.data / np.maximum(depth, 1.0), counts.indices, counts.indptr), shape=counts.shape)


def distinct_branches(tree: StudyTree, held: Bools) -> Ints:
    """Branches above different sets of the held ASVs [ASVs], the uppermost of each set; not those above none."""
    branch, _, _, first = kept_branches(tree.start, tree.stop, places_of(held[tree.order]))
    return branch[first]

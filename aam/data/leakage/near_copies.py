"""Pairs of samples that are almost the same: technical replicates and duplicates; without comparing all pairs.

The square roots of relative abundances are projected to a few dimensions (Johnson and Lindenstrauss 1984), in which all
pairs are compared in blocks. Since sum sqrt(p q) >= sum min(p, q), samples at Bray-Curtis distance t are at a squared
distance of 2 t at most there, so pairs beyond that, with room for the projection's error, are ruled out. Those left are
compared exactly.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from aam.data.arrays import Floats, Ints
from aam.data.distances.branches import asv_proportions
from aam.data.files.counts import blocks_of, row_sizes
from aam.data.leakage.group_evidence import bray_curtis, jaccard, rows_to_compare, unifrac_or
from aam.data.sampling.seeded import derived_seed, uniforms
from aam.data.study import Study

Index = Ints

WIDTH: Final = 64
ROOM: Final = 1.9
"""Factor for the error of the projection: a squared distance in 64 dimensions exceeds it with probability 1e-5."""
ROWS: Final = 500
"""Samples that are compared with all at once."""
MOST_CANDIDATES: Final = 500_000
MOST_PAIRS: Final = 5_000
"""Pairs whose ASVs are compared, the closest by abundance."""
TOGETHER: Final = 100
"""Pairs that are compared at once."""
CLOSE: Final = 0.15
"""Fraction of the study's median Bray-Curtis distance below which two samples are near copies."""
CLOSE_SETS: Final = 0.3
"""The same of unweighted UniFrac, or of Jaccard without a tree. Reads drawn again from samples of real studies, as a
replicate is at best, stay below both in 94 to 100% of them."""


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Pairs of near copies, the closest first."""

    pairs: Index
    """Rows of the samples, the lower one first [pairs, 2]."""
    bray_curtis: float
    """Distance that no pair exceeds."""
    presence: float
    """The same of unweighted UniFrac, or of the Jaccard distance where the study has no tree."""
    is_cut: bool
    """Whether there were too many candidates to look at all of them."""


def near_copies(study: Study, apart: Index, seed: int) -> NearCopies:
    """Find pairs whose distances are almost zero, compared with the median of the study.

    Args:
        study: the samples, two at least.
        apart: side or group of each sample [samples]; pairs of equal ones are left out, unless it is negative.
        seed: of the projection and of the samples that the median is taken over.
    """
    counts = study.table.counts
    rows = rows_to_compare(study, np.zeros(len(apart), dtype=np.int64), seed)
    most = CLOSE * _median(bray_curtis(counts[rows]))
    pairs, is_cut = _candidates(_projected(study, seed), apart, 2 * most * ROOM)
    distance = _bray_curtis_of(study, pairs)
    kept = np.flatnonzero(distance <= most)
    kept = kept[np.lexsort((pairs[kept, 1], pairs[kept, 0], distance[kept]))]
    pairs, is_cut = pairs[kept[:MOST_PAIRS]], is_cut or len(kept) > MOST_PAIRS
    presence = CLOSE_SETS * _median(unifrac_or(jaccard, study, rows))
    return NearCopies(pairs[_presence_of(study, pairs) <= presence], most, presence, is_cut)


def _median(distance: Floats) -> float:
    upper = distance[np.triu_indices(len(distance), 1)]
    return float(np.median(upper)) if len(upper) else 0.0


def _projected(study: Study, seed: int) -> Floats:
    """Square roots of relative abundances in a few dimensions [samples, WIDTH]; signs are drawn by ASV."""
    keys = torch.from_numpy(study.asv_keys)
    signs = np.where(uniforms(derived_seed(seed, "near copies"), keys, WIDTH).numpy() < 0.5, -1.0, 1.0) / WIDTH**0.5
    table = study.table.counts
    parts = [asv_proportions(table[block]).sqrt() @ signs for block in blocks_of(row_sizes(table))]
    return np.concatenate([np.zeros((0, WIDTH)), *parts])


def _candidates(points: Floats, apart: Index, most: float) -> tuple[Index, bool]:
    """Pairs up to a squared distance, the closest of them where they are too many."""
    squares = np.square(points).sum(axis=1)
    pairs, sizes = np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    is_cut = False
    for start in range(0, len(points), ROWS):
        block = slice(start, start + ROWS)
        # pairs of a later sample with an earlier one, each once
        squared = squares[block, None] + squares[start:] - 2 * points[block] @ points[start:].T
        close = np.triu(squared <= most, 1) & ((apart[block, None] != apart[start:]) | (apart[start:] < 0))
        first, second = np.nonzero(close)
        pairs = np.concatenate([pairs, np.stack([first, second], axis=1) + start])
        sizes = np.concatenate([sizes, squared[first, second]])
        if len(pairs) > MOST_CANDIDATES:
            nearest = np.sort(np.argsort(sizes, kind="stable")[:MOST_CANDIDATES])
            pairs, sizes, is_cut = pairs[nearest], sizes[nearest], True
    return pairs, is_cut


def _bray_curtis_of(study: Study, pairs: Index) -> Floats:
    """Bray-Curtis distance of each pair."""
    found = np.ones(len(pairs))
    for start in range(0, len(pairs), 10 * TOGETHER):
        block = slice(start, start + 10 * TOGETHER)
        first, second = (asv_proportions(study.table.counts[pairs[block, side]]) for side in (0, 1))
        found[block] = 1 - np.asarray(first.minimum(second).sum(axis=1))
    return found


def _presence_of(study: Study, pairs: Index) -> Floats:
    """Unweighted UniFrac, or Jaccard distance without a tree, of each pair."""
    found = np.ones(len(pairs))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # so that pairs of one sample are computed together
    for start in range(0, len(pairs), TOGETHER):
        some = order[start : start + TOGETHER]
        rows, places = np.unique(pairs[some], return_inverse=True)
        first, second = places.reshape(-1, 2).T
        found[some] = unifrac_or(jaccard, study, rows)[first, second]
    return found

"""Exact UniFrac and Faith's PD of the samples of a batch, straight from the tree; no matrix over all samples.

In preorder every branch lies above a contiguous interval of tips, so the reads below all branches are differences of
one prefix sum over the tips. The sum is of integers, so presence is exact on every device.

Shape letters: B samples, G other samples, U unique ASVs of both, M branches above them (at most 2U), N branches of the
study, ASVs of the study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from aam.config import UnifracConfig
from aam.data.arrays import Bools, Floats, Ints
from aam.data.distances.phylogeny import Phylogeny
from aam.data.files.tables import FeatureTable
from aam.errors import InputError, first_ids

_FAITH_BLOCK = 256
"""Samples whose branches are in memory at a time for Faith's PD."""


@dataclass(frozen=True, eq=False)
class StudyTree:
    """A phylogeny cut to the ASVs of a feature table: plain arrays, cheap to share with other processes.

    Branch n lies above the ASVs ``order[start[n]:stop[n]]``. Branches are in preorder, each interval occurs once: at
    most 2 x ASVs branches.
    """

    length: Floats
    """Length of every branch [N]; that of a chain of branches above the same ASVs is their sum."""
    start: Ints
    """Rank of the first ASV below every branch [N]."""
    stop: Ints
    """One past the rank of the last ASV below every branch [N]."""
    order: Ints
    """Columns of the table in the order of the tips [ASVs]."""
    rank: Ints
    """Place of every column of the table in that order [ASVs]."""

    @classmethod
    def cut(cls, phylogeny: Phylogeny, tips: Ints, include_root_length: bool = False) -> Self:
        """Keep the branches above the ASVs of a table, up to the root.

        Args:
            phylogeny: the whole tree.
            tips: tip of every ASV (column of the table) [ASVs], as `missing_tips` finds them; none missing.
            include_root_length: keep a length on the root itself (scikit-bio does, `unifrac` and `ssu` do not).

        Raises:
            InputError: two ASVs are the same tip.
        """
        if (tips < 0).any():
            raise ValueError(f"{np.count_nonzero(tips < 0)} ASVs have no tip: leave them out of the table first")
        kept = np.zeros(len(phylogeny.tip_names), dtype=bool)
        kept[tips] = True
        if np.count_nonzero(kept) < len(tips):
            tip, times = np.unique(tips, return_counts=True)
            names = first_ids(phylogeny.tip_names[i] for i in tip[times > 1])
            raise InputError(
                f"several ASVs of the table are the same tip of the tree: {names}; merge them in the table"
            )
        length = phylogeny.length.copy()
        if not include_root_length:
            length[0] = 0.0
        order = np.argsort(tips)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(*_cut(length, phylogeny.start, phylogeny.stop, places_of(kept)), order, rank)


def missing_tips(phylogeny: Phylogeny, table: FeatureTable) -> Ints:
    """Find the tip of every ASV by its id, else by its sequence: tip numbers [ASVs], -1 where the tree lacks it."""
    return tips_of(phylogeny, table.asv_ids, table.sequences)


def tips_of(phylogeny: Phylogeny, *names: Sequence[str]) -> Ints:
    """Find the tip of every ASV by the first of its names that is one: tip numbers [ASVs], -1 where there is none."""
    tip = {name: number for number, name in enumerate(phylogeny.tip_names)}
    found = [next((tip[name] for name in each if name in tip), -1) for each in zip(*names, strict=True)]
    return np.array(found, dtype=np.int64)


def distances(
    tree: StudyTree, counts: sp.csr_array, config: UnifracConfig, device: torch.device | str = "cpu"
) -> Tensor:
    """UniFrac distances between all pairs of samples.

    With l the length of a branch, p and q the proportions of the reads of two samples below it, and sums over branches:

    - unweighted (Lozupone & Knight 2005): 1 - (sum of l below which both have reads) / (sum where either has);
    - weighted (Lozupone et al. 2007): sum l |p - q|; normalized: that / sum l (p + q);
    - generalized (Chen et al. 2012): sum l (p + q)^alpha |p - q| / (p + q), / sum l (p + q)^alpha.

    Two samples without reads are at distance 0 (also where all branches that they reach have length zero). A sample
    without reads is at distance 1 from any other, and at the mean distance of the other's reads from the root where
    weighted UniFrac is not normalized.

    Args:
        tree: the tree, cut to the table.
        counts: reads [B, ASVs], columns as in the table.
        config: which distance.
        device: where to compute; the distances lie there.

    Returns:
        float64 [B, B]: symmetric, zero on the diagonal, in [0, 1] (weighted UniFrac that is not normalized: in the
        tree's unit of length).
    """
    with _full_precision(device):
        reads = _reads_below_branches(tree, counts, device)
        upper = _between(reads, reads, config).triu(diagonal=1)
        return upper + upper.T


def cross_distances(
    tree: StudyTree,
    rows: sp.csr_array,
    columns: sp.csr_array,
    config: UnifracConfig,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Distances of samples [B, ASVs] to others [G, ASVs], as `distances` defines them: float64 [B, G] on `device`."""
    with _full_precision(device):
        both = _reads_below_branches(tree, sp.vstack([rows, columns], format="csr"), device)
        samples = rows.shape[0]
        return _between(both.of_samples(slice(samples)), both.of_samples(slice(samples, None)), config)


def faith_pd(tree: StudyTree, counts: sp.csr_array, device: torch.device | str = "cpu") -> Tensor:
    """Faith's phylogenetic diversity (Faith 1992): the length of the branches above the ASVs of each sample.

    From reads [B, ASVs], columns as in the table, to float64 [B] on `device`, in the tree's unit of length.
    """
    with _full_precision(device):
        starts = range(0, max(1, counts.shape[0]), _FAITH_BLOCK)
        blocks = (_reads_below_branches(tree, counts[i : i + _FAITH_BLOCK], device) for i in starts)
        return torch.cat([reads.length @ reads.present for reads in blocks])


class _Reads(NamedTuple):
    """Reads below the branches above a batch."""

    length: Tensor
    """Branch lengths, float64 [M]."""
    below: Tensor
    """Reads below each branch, int64 [M, B]."""
    depth: Tensor
    """Reads of each sample, int64 [B]."""

    @property
    def present(self) -> Tensor:
        """1 where a sample has reads below a branch, else 0: float64 [M, B]."""
        return (self.below > 0).double()

    @property
    def proportion(self) -> Tensor:
        """Fraction of a sample's reads below each branch, 0 in a sample without reads: float64 [M, B]."""
        return self.below.double() / self.depth.clamp(min=1)

    def of_samples(self, samples: slice) -> "_Reads":
        return _Reads(self.length, self.below[:, samples], self.depth[samples])


def _full_precision(device: torch.device | str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, enabled=False)


def _reads_below_branches(tree: StudyTree, counts: sp.csr_array, device: torch.device | str) -> _Reads:
    """Cut the tree to the ASVs of a batch and sum the reads below each branch that is left."""
    samples, asvs = counts.shape
    if asvs != len(tree.rank):
        raise ValueError(f"counts of {asvs} ASVs, but the tree was cut to {len(tree.rank)}")
    rank = tree.rank[counts.indices]
    kept = np.zeros(asvs, dtype=bool)
    kept[rank] = True
    places = places_of(kept)
    length, start, stop = (
        torch.from_numpy(array).to(device) for array in _cut(tree.length, tree.start, tree.stop, places)
    )
    prefix = torch.zeros((int(places[-1]) + 1, samples), dtype=torch.int64, device=device)
    sample = np.repeat(np.arange(samples), np.diff(counts.indptr))
    where = (torch.from_numpy(places[rank] + 1).to(device), torch.from_numpy(sample).to(device))
    reads = torch.from_numpy(counts.data.astype(np.int64)).to(device)
    prefix = prefix.index_put_(where, reads, accumulate=True).cumsum(0)
    return _Reads(length, prefix[stop] - prefix[start], prefix[-1])


def kept_branches(start: Ints, stop: Ints, places: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Number the branches above tips that are kept, with their intervals of these; also the uppermost above the same.

    Tips are renumbered by `places_of`.
    """
    start, stop = places[start], places[stop]
    branch = np.flatnonzero(stop > start)
    start, stop = start[branch], stop[branch]
    # in preorder, branches above the same tips follow each other
    first = np.flatnonzero(np.r_[True, (np.diff(start) != 0) | (np.diff(stop) != 0)][: len(branch)])
    return branch, start, stop, first


def places_of(kept: Bools) -> Ints:
    """How many tips are kept before each: the new place of a kept tip [tips + 1]."""
    places = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=places[1:])
    return places


def _cut(length: Floats, start: Ints, stop: Ints, places: Ints) -> tuple[Floats, Ints, Ints]:
    """Renumber tips, drop branches above none of them, and merge chains of branches above the same ones."""
    branch, start, stop, first = kept_branches(start, stop, places)
    return np.add.reduceat(length[branch], first) if len(first) else length[:0], start[first], stop[first]


def _between(a: _Reads, b: _Reads, config: UnifracConfig) -> Tensor:
    """Distances [B, G]."""
    if config.unifrac_metric == "unweighted_unifrac":
        return _unweighted(a, b)
    if config.unifrac_metric == "weighted_unifrac":
        return _weighted(a, b)
    if config.unifrac_metric == "weighted_normalized_unifrac":
        longest = (a.length @ a.proportion)[:, None] + b.length @ b.proportion
        return _ratio(_weighted(a, b), longest)
    return _generalized(a, b, config.generalized_alpha)


def _unweighted(a: _Reads, b: _Reads) -> Tensor:
    in_a, in_b = a.present, b.present
    shared = (in_a * a.length[:, None]).T @ in_b
    either = (a.length @ in_a)[:, None] + b.length @ in_b - shared
    return _ratio(either - shared, either)


def _weighted(a: _Reads, b: _Reads) -> Tensor:
    return torch.cdist(
        (a.proportion * a.length[:, None]).T.contiguous(), (b.proportion * b.length[:, None]).T.contiguous(), p=1
    )


def _generalized(a: _Reads, b: _Reads, alpha: float) -> Tensor:
    """One sample of `a` at a time, over its own branches: memory and time follow the ASVs of one sample."""
    proportion_a, proportion_b, length = a.proportion, b.proportion, a.length[:, None]
    powered = torch.where(proportion_b > 0, proportion_b**alpha, 0.0) * length
    # where only the other sample has reads, numerator and denominator are both l q^alpha
    only_b = (1 - a.present).T @ powered
    rows = []
    for sample in range(proportion_a.shape[1]):
        branch = proportion_a[:, sample].nonzero()[:, 0]
        p, q = proportion_a[branch, sample, None], proportion_b[branch]
        weight = length[branch] * (p + q) ** alpha
        different = (weight * (p - q).abs() / (p + q)).sum(0) + only_b[sample]
        rows.append(_ratio(different, weight.sum(0) + only_b[sample]))
    return torch.stack(rows) if rows else only_b


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in [0, 1], and 0 where both are 0."""
    return torch.where(whole > 0, part / whole, 0.0).clamp(0, 1)

"""New ASVs in the tree of a study: at which of its branches they hang, by a larger tree that holds both.

Lengths and branches stay those of the study. A new tip adds its reads to the branch along which it splits off, or from
whose lower end it splits off, and to all branches above that one.

Shapes: K ASVs of the study, N branches above them, M new ASVs, P branches of the larger tree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aam.data.arrays import Bools, Ints
from aam.data.distances.phylogeny import Phylogeny
from aam.data.distances.unifrac import StudyTree
from aam.errors import InputError, first_ids

Places = Ints

NOWHERE = -1


class _Clades(NamedTuple):
    """The branches of the larger tree that lie above ASVs of the study, in preorder [P]."""

    branch: Places
    """Their numbers in the larger tree."""
    low: Places
    """The lowest rank in the tree of the study among the ASVs below each."""
    high: Places
    """The highest."""
    size: Places
    """How many ASVs of the study are below each."""


def place_tips(tree: StudyTree, asv_ids: Sequence[str], phylogeny: Phylogeny, known: Places, new: Places) -> Places:
    """Find the branch of a study's tree at which each new ASV hangs.

    Args:
        tree: of the study.
        asv_ids: its ASVs, for messages [K].
        phylogeny: the larger tree.
        known: tip there of every ASV of the study, none missing or twice [K].
        new: tip there of every new ASV, -1 where it has none [M].

    Returns:
        Branches [M]; -1 for ASVs without a tip, and for those that split off above all ASVs of the study.

    Raises:
        InputError: the larger tree joins the ASVs of the study in another way than the study's own.
    """
    clades = _clades_above(phylogeny, known, tree.rank)
    branch = _as_in_study(tree, asv_ids, clades)
    above = _lowest_above(phylogeny, clades, new)
    placed = np.full(len(new), NOWHERE)
    found = np.flatnonzero(above != NOWHERE)
    # above the last branch that has all ASVs of the study below it, a new one has its place outside of them
    everywhere = int(np.flatnonzero(clades.size == len(known))[-1])
    found = found[above[found] >= everywhere]
    placed[found] = branch[above[found]]
    return placed


def with_tips(tree: StudyTree, branch: Places) -> StudyTree:
    """The same branches with new tips, each at a branch or, where that is -1, at none [M].

    The tree has K + M columns; reads of the first K, those of the study, have the same branches above them as before.
    """
    old, new, branches = len(tree.rank), len(branch), len(tree.start)
    # a new tip comes after the last one below its branch, and there before those of the branches that lie higher
    after = tree.stop[branch] - 1
    place = np.concatenate([tree.rank, after])
    order = np.lexsort((np.r_[np.zeros(old, np.int64), -branch], np.r_[np.zeros(old), np.ones(new)], place))
    rank = np.empty_like(order)
    rank[order] = np.arange(old + new)
    keys = np.sort(after * (branches + 1) + branches - branch)
    own = (tree.stop - 1) * (branches + 1) + branches - np.arange(branches)
    start = tree.start + np.searchsorted(np.sort(after), tree.start)
    stop = tree.stop + np.searchsorted(keys, own, side="right")
    return StudyTree(tree.length, start, stop, order, rank)


def _clades_above(phylogeny: Phylogeny, known: Places, rank: Places) -> _Clades:
    """The ASVs of the study below every branch that has some, as ranks in the study's tree."""
    by_tip = np.argsort(known)
    kept = np.zeros(len(phylogeny.tip_names) + 1, dtype=np.int64)
    kept[known + 1] = 1
    before = np.cumsum(kept)
    start, stop = before[phylogeny.start], before[phylogeny.stop]
    branch = np.flatnonzero(stop > start)
    bounds = np.stack([start[branch], stop[branch]], axis=1).ravel()
    ranks = np.append(rank[by_tip], 0)  # a bound may be one past the last, which reduceat does not take
    low, high = (extreme.reduceat(ranks, bounds)[::2] for extreme in (np.minimum, np.maximum))
    return _Clades(branch, low, high, stop[branch] - start[branch])


def _as_in_study(tree: StudyTree, asv_ids: Sequence[str], clades: _Clades) -> Places:
    """The branch of the study's tree above the same of its ASVs, of every branch of the larger one [P]."""
    width = len(tree.rank) + 1
    own = tree.start * width + tree.stop
    order = np.argsort(own)
    other = clades.low * width + clades.high + 1
    at = order[np.minimum(np.searchsorted(own[order], other), len(own) - 1)]
    foreign = (own[at] != other) | (clades.high + 1 - clades.low != clades.size)
    lacking = ~np.isin(own, other[~foreign])
    if foreign.any() or lacking.any():
        raise InputError(
            f"--tree joins the ASVs of the training study in another way than the tree that the model was fitted to: "
            f"{np.count_nonzero(lacking)} of its {len(own)} branches are not there, and {np.count_nonzero(foreign)} "
            f"others are, {_smallest(tree, asv_ids, clades, foreign, lacking)}; give a tree that extends that one, "
            "with the root in the same place"
        )
    return at


def _smallest(
    tree: StudyTree,
    asv_ids: Sequence[str],
    clades: _Clades,
    foreign: Bools,
    lacking: Bools,
) -> str:
    """Name the ASVs of a small clade that one of the trees lacks."""
    if lacking.any():
        candidates = np.flatnonzero(lacking)
        least = candidates[np.argmin((tree.stop - tree.start)[candidates])]
        ranks = np.arange(tree.start[least], tree.stop[least])
        return f"such as the one above {first_ids(asv_ids[asv] for asv in tree.order[ranks])}"
    candidates = np.flatnonzero(foreign)
    least = candidates[np.argmin(clades.size[candidates])]
    ends = tree.order[[clades.low[least], clades.high[least]]]
    return f"such as one above {clades.size[least]} ASVs, {first_ids(asv_ids[asv] for asv in ends)} among them"


def _lowest_above(phylogeny: Phylogeny, clades: _Clades, new: Places) -> Places:
    """The lowest branch above each new tip that has ASVs of the study below it, as a place in `clades` [M]."""
    tips = np.sort(new[new >= 0])
    start = np.searchsorted(tips, phylogeny.start[clades.branch])
    stop = np.searchsorted(tips, phylogeny.stop[clades.branch])
    above = np.full(len(tips), NOWHERE)
    for place in np.flatnonzero(stop > start).tolist():  # in preorder, so that lower ones come later
        above[start[place] : stop[place]] = place
    found = np.full(len(new), NOWHERE)
    found[new >= 0] = above[np.searchsorted(tips, new[new >= 0])]
    return found

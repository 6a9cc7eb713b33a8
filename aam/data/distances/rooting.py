"""Where the root of a tree lies: how many branches leave it, and midpoint rooting, on arrays and without recursion.

Shape letters: N branches, T tips, P branches of a path.
"""

from dataclasses import dataclass

import numpy as np

from aam.data.arrays import Floats, Ints


@dataclass(frozen=True, eq=False)
class Branches:
    """A rooted tree: branch n lies above the tips ``start[n] <= tip < stop[n]``, numbered in preorder.

    Branches are in preorder: the root's own first, and every branch before those below it.
    """

    length: Floats
    """Length of every branch [N], in the tree's unit (substitutions per site as a rule)."""
    start: Ints
    """First tip below every branch [N]."""
    stop: Ints
    """One past the last tip below every branch [N]."""


def root_children(branches: Branches) -> int:
    """Count the branches that leave the root."""
    count, child = 0, 1
    while child < len(branches.start):
        count += 1
        child = int(np.searchsorted(branches.start, branches.stop[child]))  # the next branch outside of this one
    return count


def midpoint(branches: Branches) -> tuple[Branches, Ints]:
    """Put the root halfway between the two tips farthest apart (Farris 1972).

    All pairs at the greatest distance have the same middle, so that ties do not matter. The root is a node with all
    its branches where the middle lies on one; the old root stays as a node. What was above all tips (a length on the
    root, a chain of nodes with one child) is above none afterwards and goes.

    Returns:
        The branches with the new root, and the old number of every tip [T].
    """
    path, above = _path_to_midpoint(branches)
    rest = branches.length[path[0]] - above
    tip_order, rank = _order(branches.start[path], branches.stop[path], int(branches.stop[0]))
    order, place = _order(path, np.searchsorted(branches.start, branches.stop[path]), len(branches.start))
    length = branches.length[order]
    start, stop = rank[branches.start[order]], rank[branches.stop[order] - 1] + 1
    # A branch of the path is turned around: it lies above what it was below, and all that follows.
    turned = place[path]
    start[turned] = np.append(0, branches.stop[path] - branches.start[path])[:-1]
    stop[turned] = len(rank)
    length[turned] = np.append(0.0, branches.length[path[:-1]])
    if above > 0:  # the root is a new node on the first branch of the path
        stop[0], length[0] = branches.stop[path[0]] - branches.start[path[0]], rest
        length[turned[1]] = above
        length, start, stop = np.append(0.0, length), np.append(0, start), np.append(len(rank), stop)
    kept = start < stop
    return Branches(length[kept], start[kept], stop[kept]), tip_order


def _path_to_midpoint(branches: Branches) -> tuple[Ints, float]:
    """Find the middle of the longest path between tips: branches [P] from there up to the root's own.

    Also how far the middle is from the upper end of the first one; 0 where it is the node below that one.
    """
    parent = _parents(branches)
    length = branches.length.tolist()
    farthest, second = [-np.inf] * len(parent), [-np.inf] * len(parent)
    towards = [0] * len(parent)
    for branch in range(len(parent) - 1, 0, -1):
        farthest[branch] = max(farthest[branch], 0.0)  # a tip: nothing below it has come before
        reach, node = farthest[branch] + length[branch], parent[branch]
        if reach > farthest[node]:
            farthest[node], second[node], towards[node] = reach, farthest[node], branch
        elif reach > second[node]:
            second[node] = reach
    across = np.add(farthest, second)  # the longest path with its top at each node; -inf where only one child is
    top = int(across.argmax())
    left = (farthest[top] - second[top]) / 2 if np.isfinite(across[top]) else 0.0
    while left > 0 and length[towards[top]] <= left:
        top = towards[top]
        left -= length[top]
    path = [towards[top] if left > 0 else top]
    while path[-1] > 0:
        path.append(parent[path[-1]])
    return np.array(path, dtype=np.int64), left


def _parents(branches: Branches) -> list[int]:
    """The branch above every branch [N]; -1 for the root's own."""
    stop = branches.stop.tolist()
    parent: list[int] = []
    above = [-1]
    for branch, start in enumerate(branches.start.tolist()):
        while above[-1] >= 0 and stop[above[-1]] <= start:
            above.pop()
        parent.append(above[-1])
        above.append(branch)
    return parent


def _order(start: Ints, stop: Ints, count: int) -> tuple[Ints, Ints]:
    """Order things by the innermost of nested intervals [P] that holds them, and else as they are.

    The innermost interval comes first, and the last one holds all things. Gives the old number of each in the new order
    [count], and the new number of each in the old one [count].
    """
    things = np.arange(count)
    begins_after = len(start) - np.searchsorted(start[::-1], things, side="right")
    ended_before = np.searchsorted(stop, things, side="right")
    order = np.argsort(begins_after + ended_before, kind="stable")
    place = np.empty_like(order)
    place[order] = things
    return order, place

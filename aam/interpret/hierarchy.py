"""Sets of ASVs within sets of ASVs: clades of a tree, or taxa of a taxonomy; and tests from the top down.

Hierarchical testing (Meinshausen 2008, Hierarchical testing of variable importance, Biometrika 95): a set is tested
only where the set above it was found to matter, at the level ``alpha * weight / weight of all``. The weights of sets
within a set add up to at most its own, and so the probability that even one set is found that does not matter is at
most alpha, whatever the dependence between sets. Meinshausen's weight is the number of variables; here it is the number
of samples in which each ASV occurs, which is no less valid, since it depends on no result, and spends less on ASVs that
hardly any sample holds.

Shapes: A ASVs, K nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from aam.data.distances.unifrac import StudyTree
from aam.data.labels.taxonomy import RANKS, parse_lineage

Columns = NDArray[np.int64]
CARRIED: Final = 0.75
"""Fraction of a node's effect that nodes within it must have to be named in its place."""
KEPT: Final = 0.5
"""Fraction of the effect of the first of several nodes, each alone within the one before, that the last must have."""


class Node(NamedTuple):
    """A set of ASVs."""

    id: str
    columns: Columns
    """The ASVs, ascending."""
    parent: int
    """Place of the set above it; -1 for the first."""
    rank: str = ""
    """Taxonomic rank, of a taxon."""
    branch: int = -1
    """Branch of the study's tree, of a clade."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Nodes, each after the one above it; the first holds all."""

    nodes: Sequence[Node]
    weight: NDArray[np.float64]
    """[K]."""
    children: Mapping[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Sequence[Node], prevalence: NDArray[np.int64]) -> Self:
        """Make a hierarchy.

        Args:
            nodes: the sets.
            prevalence: samples in which each ASV occurs [A].
        """
        children: dict[int, list[int]] = {}
        for place, node in enumerate(nodes):
            children.setdefault(node.parent, []).append(place)
        weight = np.array([prevalence[node.columns].sum() for node in nodes], dtype=np.float64)
        return cls(nodes, weight, children)

    @classmethod
    def of_tree(cls, tree: StudyTree, prevalence: NDArray[np.int64]) -> Self:
        """Clades of a tree, down to single ASVs; those above the same ASVs that occur are one.

        Args:
            tree: the tree.
            prevalence: samples in which each ASV occurs [A]; those that do not occur belong to no clade.
        """
        held = prevalence[tree.order] > 0
        places = np.concatenate([[0], np.cumsum(held)])
        start, stop = places[tree.start], places[tree.stop]
        order = tree.order[held]
        nodes: list[Node] = []
        above: list[int] = []  # nodes from the first down to the last that was made
        ends: list[tuple[int, int]] = []
        for branch in np.flatnonzero(stop > start).tolist():
            here = (int(start[branch]), int(stop[branch]))
            while above and not (ends[above[-1]][0] <= here[0] and here[1] <= ends[above[-1]][1]):
                above.pop()
            if above and ends[above[-1]] == here:
                continue
            nodes.append(Node(f"clade_{branch}", np.sort(order[slice(*here)]), above[-1] if above else -1, "", branch))
            ends.append(here)
            above.append(len(nodes) - 1)
        return cls.of(nodes, prevalence)

    @classmethod
    def of_taxonomy(cls, lineages: Sequence[str], prevalence: NDArray[np.int64]) -> Self:
        """Taxa of all ranks, below a node that holds all ASVs that occur; of taxa with the same ASVs, the lowest.

        Args:
            lineages: of every ASV, empty where it is not known [A].
            prevalence: samples in which each ASV occurs [A].
        """
        held = np.flatnonzero(prevalence > 0)
        nodes = [Node("all", held, -1)]
        parsed = {column: parse_lineage(lineages[column]) for column in held.tolist()}
        _add_taxa(nodes, 0, parsed, 0)
        return cls.of(nodes, prevalence)

    def level(self, place: int, alpha: float) -> float:
        """The level at which a node is tested."""
        return float(alpha * self.weight[place] / self.weight[0])


def _add_taxa(nodes: list[Node], above: int, parsed: Mapping[int, tuple[str, ...]], place: int) -> None:
    """Add the taxa of a rank within a node, and those of the ranks below; where the rank has no name, none."""
    if place == len(RANKS):
        return
    by_name: dict[str, list[int]] = {}
    for column, names in parsed.items():
        by_name.setdefault(names[place], []).append(column)
    for name, columns in sorted(by_name.items()):
        own = {column: parsed[column] for column in columns}
        at = above
        if name:
            lineage = "; ".join(part for part in own[columns[0]][: place + 1] if part)
            node = Node(lineage, np.array(sorted(columns)), above, RANKS[place])
            if len(columns) == len(nodes[above].columns) and nodes[above].rank:
                nodes[above] = node._replace(parent=nodes[above].parent)
            else:
                at = len(nodes)
                nodes.append(node)
        _add_taxa(nodes, at, own, place + 1)


@dataclass(frozen=True, eq=False)
class Found:
    """What hierarchical tests found."""

    p: Mapping[int, float]
    """p-value of each node that was tested, adjusted: at most alpha where, and only where, it was found."""
    alpha: float

    @property
    def rejected(self) -> list[int]:
        """Nodes that matter, each after the one above it."""
        return sorted(place for place, p in self.p.items() if p <= self.alpha)

    def smallest(self, hierarchy: Hierarchy, effect_of: Callable[[int], float]) -> list[int]:
        """The smallest nodes that carry the effect.

        A node gives way to those within it that were found, if their effects add up to `CARRIED` of its own. Where a
        model adds up its parts, two of equal effect have together 1 / (1 + r) of the whole, r being their correlation:
        parts that vary together are named as one. One alone gives way to the next within it in the same way, as long as
        that has `KEPT` of the first.

        Args:
            hierarchy: the nodes.
            effect_of: importance of a node that was found.
        """
        found, smallest = set(self.rejected), []
        waiting = [(0, 0.0)] if 0 in found else []
        while waiting:
            place, least = waiting.pop()
            within = [child for child in hierarchy.children.get(place, []) if child in found]
            least = max(least, KEPT * effect_of(place))
            if within and sum(map(effect_of, within)) >= max(CARRIED * effect_of(place), least):
                waiting += [(child, least if len(within) == 1 else 0.0) for child in within]
            else:
                smallest.append(place)
        return sorted(smallest)


def find_downwards(hierarchy: Hierarchy, p_of: Callable[[list[int]], Sequence[float]], alpha: float) -> Found:
    """Test nodes from the top down, all that may be tested at a time.

    Args:
        hierarchy: the nodes.
        p_of: gives the p-values of some nodes.
        alpha: probability with which even one node may be found that does not matter.
    """
    adjusted: dict[int, float] = {}
    wave = [0]
    while wave:
        for place, p in zip(wave, p_of(wave), strict=True):
            own = p * hierarchy.weight[0] / hierarchy.weight[place]
            adjusted[place] = min(1.0, max(own, adjusted.get(hierarchy.nodes[place].parent, 0.0)))
        wave = [child for place in wave if adjusted[place] <= alpha for child in hierarchy.children.get(place, [])]
    return Found(adjusted, alpha)

"""A tree of ASVs without a phylogeny: average linkage of their embeddings."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

from aam.errors import InputError

MOST_ASVS: Final = 25_000
"""Beyond these the distances between all pairs take more than 2.5 GB."""


def check_linkable(asvs: int) -> None:
    """Refuse to join so many ASVs.

    Raises:
        InputError: there are fewer than two, or too many for all distances to be held.
    """
    if not 2 <= asvs <= MOST_ASVS:
        raise InputError(f"--asv-tree: {asvs} ASVs; a tree is made of 2 to {MOST_ASVS:,}")


def linkage_newick(names: Sequence[str], vectors: NDArray[Any]) -> str:
    """Join ASVs by average linkage (UPGMA; Sokal and Michener 1958) of the Euclidean distances of their embeddings.

    Args:
        names: of the tips [A].
        vectors: [A, D].

    Returns:
        A rooted tree in Newick, all tips at the same height: half the distance at which two clusters are joined is the
        height of their node.

    Raises:
        InputError: as `check_linkable`.
    """
    check_linkable(len(names))
    parts = [_quoted(name) for name in names]
    heights = [0.0] * len(names)
    for left, right, distance, _ in linkage(np.asarray(vectors, np.float64), "average"):
        height = float(distance) / 2
        children = (f"{parts[int(at)]}:{max(0.0, height - heights[int(at)]):.8g}" for at in (left, right))
        parts.append(f"({','.join(children)})")
        parts[int(left)] = parts[int(right)] = ""  # joined: only the whole is needed
        heights.append(height)
    return f"{parts[-1]};"


def _quoted(name: str) -> str:
    return name if name.isalnum() else "'" + name.replace("'", "''") + "'"

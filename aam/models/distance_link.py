"""From two embeddings to a distance.

1 - U is a positive-definite kernel of samples for unweighted UniFrac (a weighted Jaccard similarity over branches), so
the distance is modelled as a kernel of embeddings; the Laplace kernel is the default. Embeddings by learned clades
(`aam.models.learned_clades`) are compared as UniFrac compares branches.

Shapes: B and G samples, D width, K clades.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from aam.config import DistanceLink, UnifracMetric

# embeddings closer than this are distinguished less and less, so that the gradient stays finite where they are equal
SOFTENING: Final = 1e-3
TINY: Final = 1e-12
"""The least divisor: two samples without any clade are at distance 0."""


def euclidean(rows: Tensor, columns: Tensor) -> Tensor:
    """Euclidean distances [B, G], sqrt(|x - y|^2 + eps^2) - eps: smooth, and exactly 0 for equal rows.

    Computed from differences, never from scalar products, which lose small distances; in single precision or better.
    """
    x, y = at_least_single(rows), at_least_single(columns)
    plain = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    square = plain.square()
    return square / ((square + SOFTENING**2).sqrt() + SOFTENING)


def laplace(rows: Tensor, columns: Tensor) -> Tensor:
    """Laplace distance 1 - exp(-d) in [0, 1), d the Euclidean distance: [B, D], [G, D] -> [B, G]."""
    return -torch.expm1(-euclidean(rows, columns))


def tanh(rows: Tensor, columns: Tensor) -> Tensor:
    """Hyperbolic tangent of the Euclidean distance, in [0, 1): [B, D], [G, D] -> [B, G]."""
    return euclidean(rows, columns).tanh()


def cosine(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosine distance (1 - cos) / 2 in [0, 1]: [B, D], [G, D] -> [B, G]."""
    # |x - y|^2 = 2 (1 - cos) for unit vectors
    x, y = (functional.normalize(at_least_single(z), dim=1) for z in (rows, columns))
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / 4


def jaccard(rows: Tensor, columns: Tensor) -> Tensor:
    """Weighted Jaccard distance, sum |x - y| / sum max(x, y): [B, K], [G, K] -> [B, G].

    Of vectors that are not negative; that of two vectors of zeros is 0.
    """
    apart, together = _apart_and_together(rows, columns)
    return 2 * apart / (together + apart).clamp_min(TINY)


def bray_curtis(rows: Tensor, columns: Tensor) -> Tensor:
    """Bray-Curtis distance, sum |x - y| / sum (x + y): [B, K], [G, K] -> [B, G]; see `jaccard`."""
    apart, together = _apart_and_together(rows, columns)
    return apart / together.clamp_min(TINY)


def manhattan(rows: Tensor, columns: Tensor) -> Tensor:
    """Manhattan distance, sum |x - y|: [B, K], [G, K] -> [B, G]."""
    return torch.cdist(at_least_single(rows), at_least_single(columns), p=1)


def _apart_and_together(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Sums |x - y| and sums x + y [B, G]."""
    x, y = at_least_single(rows), at_least_single(columns)
    return torch.cdist(x, y, p=1), x.sum(1)[:, None] + y.sum(1)[None, :]


Link = Callable[[Tensor, Tensor], Tensor]
CladeLink = Literal["jaccard", "bray_curtis", "manhattan"]
LinkName = DistanceLink | Literal["euclidean"] | CladeLink
LINKS: Final[dict[LinkName, Link]] = {
    "laplace": laplace,
    "tanh": tanh,
    "cosine": cosine,
    "euclidean": euclidean,
    "jaccard": jaccard,
    "bray_curtis": bray_curtis,
    "manhattan": manhattan,
}
WEIGHTED_LINKS: Final = frozenset({"bray_curtis", "manhattan"})
"""Links of vectors that say how much there is, and not whether."""
LINK_OF_CLADES: Final[dict[UnifracMetric, CladeLink]] = {
    "unweighted_unifrac": "jaccard",
    "weighted_normalized_unifrac": "bray_curtis",
    "weighted_unifrac": "manhattan",
}
"""How learned clades are compared, as each UniFrac compares branches; generalized UniFrac has no such form."""


def at_least_single(x: Tensor) -> Tensor:
    """Bring what autocast computed to single precision; double stays double."""
    return x if x.dtype == torch.float64 else x.float()

"""From two embeddings to a distance.

1 - U is a positive-definite kernel of samples for unweighted UniFrac (a weighted Jaccard similarity over branches), so
the distance is modelled as a kernel of embeddings; the Laplace kernel is the default.

Shapes: B and G samples, D width.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from aam.config import DistanceLink

# embeddings closer than this are distinguished less and less, so that the gradient stays finite where they are equal
SOFTENING: Final = 1e-3


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


Link = Callable[[Tensor, Tensor], Tensor]
LinkName = DistanceLink | Literal["euclidean"]
LINKS: Final[dict[LinkName, Link]] = {
    "laplace": laplace,
    "tanh": tanh,
    "cosine": cosine,
    "euclidean": euclidean,
}


def at_least_single(x: Tensor) -> Tensor:
    """Bring what autocast computed to single precision; double stays double."""
    return x if x.dtype == torch.float64 else x.float()

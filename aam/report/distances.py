"""True and predicted distances between samples of a pretraining.

Shape: n samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances between some validation samples of a pretraining."""

    ids: tuple[str, ...]
    true: NDArray[np.float64]
    """[n, n]."""
    predicted: NDArray[np.float64]
    """[n, n], as of the encoder's embeddings."""
    metric: str
    of: int
    """Validation samples that there are, of which these are a seeded sample."""

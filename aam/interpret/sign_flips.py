"""Whether sums over groups are above zero by more than chance: sign flips of whole groups.

Under the null hypothesis that a taxon does not matter, the loss is as likely to fall as to rise when its reads are
exchanged, so that the signs of the sums of all groups are those of coins. Samples of a group are near copies, so
groups are flipped and not samples.

Source: Winkler et al. 2014, Permutation inference for the general linear model (sign flips; whole blocks); Phipson and
Smyth 2010 (a p-value from draws is never zero).

Shapes: G groups, K quantities.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aam.data.sampling.seeded import generator

Floats = NDArray[np.float64]
DRAWS: Final = 100_000
"""Flips that are drawn where there are too many to go through them all."""
EXACT: Final = 16
"""Groups up to which all flips are gone through."""
OF_FOLDS: Final = 2.0
"""What p-values of sums from cross-validation are multiplied by. What two groups have in common by chance counts twice,
once with each of them held out and the other in training, so sums of groups are not quite independent (Nadeau and
Bengio 2003, Inference for the generalization error), and plain flips find too much: how much is simulated in
``benchmarks/importance_errors.py``."""
_BLOCK: Final = 2_000_000
"""Cells of the largest matrix of flips and groups that is in memory at a time."""
_ROUNDING: Final = 1e-9
"""Relative differences below it are none."""


def sign_flip_p(sums: Floats, seed: int) -> Floats:
    """One-sided p-values of the hypothesis that sums over groups are symmetric about zero [K].

    Args:
        sums: sum over each group [G, K].
        seed: of the flips that are drawn.
    """
    groups = len(sums)
    observed = sums.sum(axis=0) - _ROUNDING * np.abs(sums).sum(axis=0)
    draws = 2**groups if groups <= EXACT else DRAWS
    step = max(1, _BLOCK // max(1, groups))
    random = generator(seed, "sign flips")
    reached = np.zeros(sums.shape[1])
    for start in range(0, draws, step):
        numbers = np.arange(start, min(start + step, draws))
        if groups <= EXACT:
            negative = (numbers[:, None] >> np.arange(groups)) & 1
        else:
            negative = random.integers(0, 2, size=(len(numbers), groups), dtype=np.int8)
        reached += ((1.0 - 2.0 * negative) @ sums >= observed).sum(axis=0)
    p: Floats = reached / draws if groups <= EXACT else (reached + 1) / (draws + 1)
    return p


def cross_validated_p(sums: Floats, seed: int) -> Floats:
    """p-values as of `sign_flip_p` of sums from cross-validation, `OF_FOLDS` times as large [K]."""
    p: Floats = np.minimum(1.0, OF_FOLDS * sign_flip_p(sums, seed))
    return p


def least_p(groups: int) -> float:
    """The p-value of sums of cross-validation that are the same in so many groups: few give a smaller one."""
    return float(cross_validated_p(np.ones((groups, 1)), 0)[0])

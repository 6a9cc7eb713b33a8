"""Reads drawn from a sample without replacement, however many it has.

NumPy draws hypergeometric numbers of fewer than 10^9 reads. Above that each ASV's reads are drawn in turn, given those
of the ASVs before it, by rejection: a binomial number is proposed, and kept as often as the two laws ask (von Neumann
1951). Their ratio has one summit, at (depth - 1) times the ASV's fraction, so that its height is known.
"""

import math
from typing import Final

import numpy as np

from aam.data.arrays import Ints

NUMPY_READS: Final = 10**9
"""Reads from which `numpy.random.Generator` draws no hypergeometric numbers."""


def draw_reads(rng: np.random.Generator, counts: Ints, depth: int) -> Ints:
    """Draw reads of a sample without replacement.

    Args:
        rng: source of the draw.
        counts: reads of every ASV, int64 [S].
        depth: how many to draw, no more than there are.

    Returns:
        How many of every ASV are drawn, int64 [S].
    """
    left = int(counts.sum())
    if left < NUMPY_READS:
        return rng.multivariate_hypergeometric(counts, depth, method="marginals")
    drawn = np.zeros_like(counts)
    order = np.argsort(-counts, kind="stable")  # the most abundant first: soon NumPy can draw the rest
    for place, asv in enumerate(order.tolist()):
        if left < NUMPY_READS:
            rest = order[place:]
            drawn[rest] = rng.multivariate_hypergeometric(counts[rest], depth, method="marginals")
            break
        drawn[asv] = _hypergeometric(rng, int(counts[asv]), left, depth)
        left -= int(counts[asv])
        depth -= int(drawn[asv])
    return drawn


def _hypergeometric(rng: np.random.Generator, own: int, total: int, depth: int) -> int:
    """How many of `depth` reads, drawn from `total`, are among `own` of them."""
    if own == total or depth == 0:
        return depth
    if depth > total // 2:  # those that stay are fewer, and follow the same law
        return own - _hypergeometric(rng, own, total, total - depth)
    summit = _log_ratio(-(-own * (depth - 1) // total), own, total, depth)
    while True:
        proposed = int(rng.binomial(depth, own / total))
        possible = max(0, depth - total + own) <= proposed <= min(own, depth)
        if possible and math.log(1 - rng.random()) <= _log_ratio(proposed, own, total, depth) - summit:
            return proposed


def _log_ratio(drawn: int, own: int, total: int, depth: int) -> float:
    """Log of how much likelier a number of reads is without replacement than with it, up to a constant.

    The hypergeometric law is that of two binomial numbers given their sum (Loader 2000), which holds its precision for
    huge numbers, where factorials lose theirs.
    """
    from scipy.stats import binom  # noqa: PLC0415  # takes long, and few samples have so many reads

    fraction = depth / total
    chances = binom.pmf([drawn, depth - drawn], [own, total - own], fraction)
    proposal = binom.pmf(drawn, depth, own / total)
    return float(np.log(chances).sum() - np.log(proposal))

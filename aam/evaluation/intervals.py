"""Intervals by bootstrap over groups: samples of a group are near copies, so groups are drawn, not samples.

Shapes: D draws, G groups, n samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from aam.data.sampling.seeded import generator

Floats = NDArray[np.float64]
DRAWS = 2000
FEWEST_GROUPS = 10
"""Groups below which percentiles of the bootstrap say little, so that no interval is given."""
LEVEL = 95.0
_CELLS = 2_000_000
"""Cells of the largest matrix of draws and samples that is in memory at a time."""


class Interval(NamedTuple):
    """Ends of a 95 % interval; NaN where there is none."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class GroupBootstrap:
    """Draws of as many groups as there are, with replacement; the same for all learners, so that they are paired.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13 (percentiles; what is drawn is
    what is independent).
    """

    code: NDArray[np.int64]
    """Number of the group of each sample [n]."""
    times: NDArray[Any]
    """How often each group was drawn [D, G]."""

    @classmethod
    def of(cls, groups: NDArray[np.str_], seed: int, draws: int = DRAWS) -> Self:
        """Draw.

        Args:
            groups: of each sample [n].
            seed: of the draws.
            draws: how many.
        """
        names, code = np.unique(groups, return_inverse=True)
        count = len(names)
        source, chances = generator(seed, "bootstrap"), np.full(count, 1 / count)
        times = np.empty((draws, count), dtype=np.min_scalar_type(count))
        for block in _blocks(draws, count):
            times[block] = source.multinomial(count, chances, size=block.stop - block.start)
        return cls(code, times)

    @property
    def groups(self) -> int:
        """Groups."""
        return int(self.times.shape[1])

    @property
    def enough(self) -> bool:
        """Whether there are groups enough for an interval."""
        return self.groups >= FEWEST_GROUPS

    def sums(self, values: Floats) -> Floats:
        """Sum of values over the samples of each draw: [n] -> [D], [n, K] -> [D, K]."""
        of_group = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(of_group, self.code, values)
        blocks = _blocks(len(self.times), self.groups)
        return np.concatenate([self.times[block].astype(np.float64) @ of_group for block in blocks])

    def weights(self) -> Iterator[Floats]:
        """How often each sample is in each draw, some draws at a time: [of D, n]."""
        for block in _blocks(len(self.times), len(self.code)):
            yield self.times[block][:, self.code].astype(np.float64)

    def interval(self, drawn: Floats) -> Interval:
        """Percentiles of what the draws give [D]; draws for which a score is undefined do not count."""
        known = drawn[np.isfinite(drawn)]
        if not self.enough or len(known) < len(drawn) / 2:
            return Interval(np.nan, np.nan)
        low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
        return Interval(float(low), float(high))


def _blocks(draws: int, width: int) -> Iterator[slice]:
    """The draws in parts of up to `_CELLS` cells."""
    step = max(1, _CELLS // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))

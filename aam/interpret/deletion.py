"""By how much predictions change when ASVs are taken out of samples, in the order that an explanation gives them.

An explanation that finds what a prediction depends on changes it more by its first ASVs than one that does not
(Petsiuk, Das and Saenko 2018). ASVs by abundance are a yardstick: those with many reads change a sample most anyway.

Shapes: m samples, A ASVs, C explained numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from aam.data.sampling.seeded import generator
from aam.interpret.explained import ExplainedModel
from aam.learners.base import Floats, Rows

REMOVED: Final = (1, 2, 5, 10, 20, 50)
"""ASVs that are taken out."""
RANDOM_ORDERS: Final = 5
"""Random orders of the ASVs of each sample, over which is averaged."""
DRAWS: Final = 2000
_LEAST: Final = 1e-6
"""Probability whose logarithm bounds a loss."""

Ranking: TypeAlias = Callable[[int], Floats]
"""Gives a score for each ASV of a sample [A]; the highest is taken out first."""


@dataclass(frozen=True, eq=False)
class Deletion:
    """Samples and orders in which their ASVs are taken out."""

    model: ExplainedModel
    rows: Rows
    """[m]."""
    truth: NDArray[Any] | None
    """True values of the samples, NaN or None where missing [m]; None where they are not known."""
    seed: int

    def table(self, rankings: Mapping[str, Ranking], removed: Sequence[int] = REMOVED) -> pd.DataFrame:
        """Take out the first ASVs by each ranking, and at random.

        Args:
            rankings: by name.
            removed: how many; no more than the largest sample has.

        Returns:
            A row for each order and number of ASVs: ``order``, ``removed``, ``samples``, ``reads`` (mean fraction that
            was taken away), ``change`` (mean size of the change of the prediction; of probabilities, half of the sum
            over classes), ``loss_rise`` (by how much the mean absolute error, or the log loss, is higher), each with
            ``_low`` and ``_high``, 95 % bootstrap intervals over samples.
        """
        before = self.model.predict(self.rows, [np.empty(0, np.int64)] * len(self.rows))
        orders = {
            name: [[self._order(row, ranking(row)) for row in self.rows.tolist()]] for name, ranking in rankings.items()
        }
        orders["random"] = [self._at_random(number) for number in range(RANDOM_ORDERS)]
        most = max(len(order) for order in orders["random"][0])
        numbers = [number for number in removed if number < most]
        return pd.DataFrame(
            [self._row(name, several, number, before) for name, several in orders.items() for number in numbers]
        )

    def _held(self, row: int) -> Rows:
        """ASVs of a sample, the most abundant first; of equally abundant ones in the order of the table."""
        counts = self.model.study.table.counts[[row]]
        return counts.indices[np.lexsort((counts.indices, -counts.data))].astype(np.int64)

    def _order(self, row: int, score: Floats) -> Rows:
        """The ASVs of a sample by a score, equal ones by abundance."""
        asvs = self._held(row)
        return asvs[np.argsort(-score[asvs], kind="stable")]

    def _at_random(self, number: int) -> list[Rows]:
        ids = self.model.study.table.sample_ids
        return [
            generator(self.seed, "delete", ids[row], number).permutation(np.sort(self._held(row)))
            for row in self.rows.tolist()
        ]

    def _row(self, name: str, several: Sequence[Sequence[Rows]], number: int, before: Floats) -> dict[str, Any]:
        parts = [self._effect([order[: min(number, len(order) - 1)] for order in orders], before) for orders in several]
        reads, change, rise = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
        found = {"order": name, "removed": number, "samples": len(self.rows), "reads": reads.mean()}
        return found | _with_interval("change", change) | _with_interval("loss_rise", rise[~np.isnan(rise)])

    def _effect(self, removed: Sequence[Rows], before: Floats) -> tuple[Floats, Floats, Floats]:
        """Reads taken away, change of the prediction and of the loss of each sample [m]."""
        after = self.model.predict(self.rows, removed)
        proportions = self.model.study.asv_proportions[self.rows]
        taken = zip(range(len(self.rows)), removed, strict=True)
        reads = np.array([proportions[[place]].toarray()[0, columns].sum() for place, columns in taken])
        change = np.abs(after - before).sum(axis=1) / (2 if self.model.classes else 1)
        return reads, change, self._loss(after) - self._loss(before)

    def _loss(self, predicted: Floats) -> Floats:
        """Absolute error, or negative log of the probability of the true class; NaN where it is not known [m]."""
        if self.truth is None:
            return np.full(len(predicted), np.nan)
        if not self.model.classes:
            error: Floats = np.abs(predicted[:, 0] - self.truth.astype(np.float64))
            return error
        places = {name: place for place, name in enumerate(self.model.classes)}
        place = np.array([places.get(str(value), -1) for value in self.truth])
        loss: Floats = -np.log(np.maximum(predicted[np.arange(len(place)), place], _LEAST))
        return np.where(place < 0, np.nan, loss)


def _with_interval(name: str, values: Floats) -> dict[str, float]:
    """Mean and ends of its 95 % percentile bootstrap interval; NaN without values, no ends with one alone."""
    if not len(values):
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    low = high = np.nan
    if len(values) > 1:
        drawn = bootstrap((values,), np.mean, n_resamples=DRAWS, method="percentile", rng=np.random.default_rng(0))
        low, high = drawn.confidence_interval
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}

"""What an exchange of reads does to the predictions of held-out samples, by a model that has not learned from them.

Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019): by how much the loss rises when what is to be
judged is exchanged among samples. Everything is computed anew from the changed reads, by `Solution.predict`.

Shapes: m held-out samples, R permutations, C classes (1 for a number).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from aam.data.files.tables import FeatureTable
from aam.data.labels.target_table import Targets
from aam.data.sampling.seeded import generator
from aam.data.study import Study
from aam.interpret.exchange import Columns, Exchange, Exchanged
from aam.learners.base import Floats, Output, Predictions, Rows, Solution

BATCH: Final = 1000
"""Changed samples that are predicted at a time."""
LEAST: Final = 1e-4
"""What is added to a fraction of reads before its logarithm."""


class Effect(NamedTuple):
    """What exchanging some ASVs did in one fold."""

    rise: Floats
    """How much the loss of each sample rises, mean of the permutations [m]."""
    by_permutation: Floats
    """Mean over samples, of each permutation [R]."""
    slope: Floats
    """Covariance of the change of the prediction with that of the ASVs' logarithmic fraction of reads [C]."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out samples of one fold, and a model that predicts them."""

    name: str
    """Of the fold."""
    study: Study
    """The samples, with the ASVs and the tree of the training study; none is without reads."""
    targets: Targets
    solution: Solution
    truth: "pd.Series[Any]"
    """Values of the target by sample id [m]."""

    @property
    def samples(self) -> int:
        """How many."""
        return self.study.table.n_samples

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for a number."""
        encoder = self.targets.columns[0].classes
        return () if encoder is None else encoder.classes

    @cached_property
    def _true(self) -> Floats:
        """Numbers in their own units [m], or indicators of the classes [m, C]."""
        if not self.classes:
            return np.asarray(self.truth, dtype=np.float64)
        indicators: Floats = np.asarray(
            self.truth.to_numpy(dtype=np.str_)[:, None] == np.array(self.classes), np.float64
        )
        return indicators

    @cached_property
    def predicted(self) -> Floats:
        """Predictions of the samples as they are [m, C]."""
        rows = np.arange(self.samples)
        return self._values(self.study, rows)

    def loss(self, predicted: Floats, rows: Rows) -> Floats:
        """Squared error of numbers, or Brier score (sum of squares over classes), of samples."""
        true = self._true[rows]
        losses: Floats = np.square(predicted - (true if self.classes else true[:, None])).sum(axis=1)
        return losses

    @cached_property
    def base(self) -> Floats:
        """Loss of the samples as they are [m]."""
        return self.loss(self.predicted, np.arange(self.samples))

    def _values(self, study: Study, rows: Rows) -> Floats:
        """Numbers in their own units, or probabilities, of samples of a study that are those of `rows` [len, C]."""
        output: Output = self.solution.predict(study, np.arange(study.table.n_samples))
        if self.classes:
            return output.value
        assert self.study.metadata is not None
        table = Predictions(self.targets, (Output(output.value),)).table(self.study.metadata.iloc[rows])
        return table["prediction"].to_numpy(np.float64)[:, None]

    @cached_property
    def _exchange(self) -> Exchange:
        return Exchange.of(self.study.table.counts)

    def effects(self, sets: Sequence[Columns], permutations: int, seed: int) -> list[Effect]:
        """Exchange each of several sets of ASVs among the samples.

        Args:
            sets: columns of the table.
            permutations: how often; every set is exchanged by the same permutations.
            seed: of these.
        """
        donors = [
            generator(seed, "exchange", self.name, number).permutation(self.samples) for number in range(permutations)
        ]
        return [self._effect(parts, permutations) for parts in self._predicted_after(sets, donors)]

    def _predicted_after(
        self, sets: Sequence[Columns], donors: Sequence[Rows]
    ) -> Iterator[list[tuple[Exchanged, Floats]]]:
        """Predictions after the exchanges of every set, computed in batches of about `BATCH` samples."""
        waiting: list[list[Exchanged]] = []
        size = 0
        for place, columns in enumerate(sets):
            parts = [self._exchange.exchange(columns, one) for one in donors]
            waiting.append(parts)
            size += sum(len(part.rows) for part in parts)
            if size < BATCH and place + 1 < len(sets):
                continue
            values = self._predict([part for parts in waiting for part in parts])
            for exchanged in waiting:
                yield [(part, next(values)) for part in exchanged]
            waiting, size = [], 0

    def _predict(self, parts: Sequence[Exchanged]) -> Iterator[Floats]:
        """Predictions of the samples of several exchanges, by one call."""
        rows = np.concatenate([part.rows for part in parts])
        sizes = np.cumsum([len(part.rows) for part in parts])[:-1]
        if not len(rows):
            return iter([np.empty((0, self.predicted.shape[1]))] * len(parts))
        counts = sparse.csr_array(sparse.vstack([part.counts for part in parts if len(part.rows)], format="csr"))
        table = self.study.table
        ids = tuple(f"{number} {table.sample_ids[row]}" for number, row in enumerate(rows.tolist()))
        changed = FeatureTable(counts, ids, table.asv_ids, table.sequences)
        metadata = None if self.study.metadata is None else self.study.metadata.iloc[rows].set_axis(list(ids), axis=0)
        study = replace(self.study, table=changed, metadata=metadata)
        return iter(np.split(self._values(study, rows), sizes))

    def _effect(self, parts: Sequence[tuple[Exchanged, Floats]], permutations: int) -> Effect:
        rise = np.zeros((permutations, self.samples))
        slope = np.zeros(self.predicted.shape[1])
        for number, (exchanged, predicted) in enumerate(parts):
            rows = exchanged.rows
            rise[number, rows] = self.loss(predicted, rows) - self.base[rows]
            moved = np.log(exchanged.after + LEAST) - np.log(exchanged.before + LEAST)
            slope += moved @ (predicted - self.predicted[rows]) / (permutations * self.samples)
        return Effect(rise.mean(axis=0), rise.mean(axis=1), slope)

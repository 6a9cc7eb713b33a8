"""Fixed rarefactions for learners: fit to one draw of the reads, predict by the mean over several."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from aam.config import SamplingConfig
from aam.data.files.tables import FeatureTable
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import Study, select_samples
from aam.errors import InputError
from aam.learners.base import Fitted, Output, Predictions, Rows

logger = logging.getLogger(__name__)

AUTO_SHARE = 0.95
"""Fraction of the samples that the depth of ``--rarefy-depth auto`` keeps."""


class Rarefaction(BaseModel):
    """How many reads are drawn from each sample, how often, and by which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int | None = None
    """None: all reads are used."""
    draws: int = 3
    seed: int = 42

    def drawn(self, study: Study) -> Sequence[Study]:
        """The study once for each draw, without the samples that have fewer reads; itself, where nothing is drawn.

        Draws depend on seed, number of the draw and sample id alone.

        Raises:
            InputError: no sample has enough reads.
        """
        if self.depth is None:
            return (study,)
        deep = np.flatnonzero(study.table.depth >= self.depth)
        if not len(deep):
            most = int(study.table.depth.max())
            raise InputError(f"--rarefy-depth {self.depth}: no sample has as many reads (the most are {most})")
        study = select_samples(study, deep, f"fewer reads than the sampling depth {self.depth}")
        return tuple(self._draw(study, draw) for draw in range(self.draws))

    def _draw(self, study: Study, draw: int) -> Study:
        sampling = SamplingConfig(rarefy_depth=self.depth, rarefaction="fixed")
        draws = SampleDraws(study.table, sampling, self.seed + draw)
        counts = draws.rows(np.arange(study.table.n_samples), FIXED)
        table = study.table
        return replace(study, table=FeatureTable(counts, table.sample_ids, table.asv_ids, table.sequences))


def auto_depth(reads: NDArray[np.integer]) -> int:
    """The largest depth that keeps `AUTO_SHARE` of the samples, by the reads of each.

    Raises:
        InputError: there are no samples.
    """
    if not len(reads):
        raise InputError("--rarefy-depth auto: no sample has a value of the target")
    depth = np.sort(reads)[::-1]
    return int(depth[int(np.ceil(AUTO_SHARE * len(depth))) - 1])


def predict_averaged(fitted: Fitted, drawn: Sequence[Study], rows: Rows, level: float | None = None) -> pd.DataFrame:
    """Predict samples of a study by the mean over its draws, as `Predictions.table`, with intervals for a level."""
    study = drawn[0]
    metadata = study.metadata
    if metadata is None:
        metadata = pd.DataFrame(index=pd.Index(study.table.sample_ids, name="sample_id", dtype=object))
    return mean_predictions([fitted.predict(one, rows) for one in drawn]).table(metadata.iloc[rows], level)


def mean_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Mean of several predictions of the same samples."""
    outputs = zip(*(part.outputs for part in parts), strict=True)
    return Predictions(parts[0].targets, tuple(mean_output(column) for column in outputs), parts[0].conformities)


def mean_output(parts: Sequence[Output]) -> Output:
    """Mean of predictions from several draws; its spread holds the variance within draws and between them."""
    if len(parts) == 1:
        return parts[0]
    values = np.stack([part.value for part in parts])
    spreads = [part.spread for part in parts if part.spread is not None]
    if not spreads:
        return Output(values.mean(axis=0))
    return Output(values.mean(axis=0), np.sqrt(np.mean(np.square(spreads), axis=0) + values.var(axis=0)))

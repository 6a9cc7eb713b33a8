"""The ASVs and the tree that a learner was fitted to, by which other studies are read."""

import logging
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.data.distances.phylogeny import Phylogeny
from aam.data.distances.placement import place_tips, with_tips
from aam.data.distances.unifrac import StudyTree, missing_tips, tips_of
from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.errors import InputError, first_ids
from aam.learners.base import Arrays

logger = logging.getLogger(__name__)

_TREE = ("length", "start", "stop", "order", "rank")


@dataclass(frozen=True, eq=False)
class Reference:
    """What is kept of the training study."""

    asv_ids: tuple[str, ...]
    sequences: tuple[str, ...]
    tree: StudyTree | None

    @classmethod
    def of(cls, study: Study) -> Self:
        """Take ASVs and tree of a study."""
        return cls(study.table.asv_ids, study.table.sequences, study.tree)

    def align(self, study: Study) -> Study:
        """Bring a study to the columns and the tree of this one; reads of ASVs that it lacks are gone."""
        table = study.table
        place = self._places(table)
        counts = table.select_asvs(np.flatnonzero(place >= 0)).counts
        moved = counts.tocoo()
        shape = (table.n_samples, len(self.sequences))
        aligned = type(counts)((moved.data, (moved.row, place[place >= 0][moved.col])), shape=shape)
        aligned.sort_indices()
        known = FeatureTable(aligned, table.sample_ids, self.asv_ids, self.sequences)
        return replace(study, table=known, tree=self.tree, matrix=None, taxonomy=None)

    def extended(self, table: FeatureTable, phylogeny: Phylogeny) -> Self:
        """Add the ASVs of a table that this lacks and that a larger tree has below branches of its own.

        They come last, as columns that lie below branches: `StudyTree` of the result. Others stay unknown.

        Raises:
            InputError: this has no tree, or the larger tree lacks ASVs of it or joins them in another way.
        """
        assert self.tree is not None
        new = np.flatnonzero(self._places(table) < 0)
        named = dict(zip(table.sequences, table.asv_ids, strict=True))
        here = [named.get(sequence, sequence) for sequence in self.sequences]
        known = tips_of(phylogeny, self.asv_ids, self.sequences, here)
        if (known < 0).any():
            lacking = np.flatnonzero(known < 0)
            raise InputError(
                f"--tree has no tip for {len(lacking)} of the {len(known)} ASVs that the model was fitted to: "
                f"{first_ids(self.asv_ids[i] for i in lacking)}; tips are named like "
                f"{first_ids(phylogeny.tip_names, 2)}. Give a tree made for both studies"
            )
        tips = missing_tips(phylogeny, table)[new]
        self._refuse_shared_tips(phylogeny, np.r_[known, tips[tips >= 0]])
        branch = place_tips(self.tree, self.asv_ids, phylogeny, known, tips)
        placed = new[branch >= 0]
        ids, sequences = ([names[i] for i in placed] for names in (table.asv_ids, table.sequences))
        tree = with_tips(self.tree, branch[branch >= 0])
        return type(self)((*self.asv_ids, *ids), (*self.sequences, *sequences), tree)

    @staticmethod
    def _refuse_shared_tips(phylogeny: Phylogeny, tips: NDArray[np.int64]) -> None:
        found, times = np.unique(tips, return_counts=True)
        if (times > 1).any():
            raise InputError(
                "--tree: several ASVs of the table and of the model, with other sequences, are the same tip: "
                f"{first_ids(phylogeny.tip_names[i] for i in found[times > 1])}; name tips by sequences"
            )

    def fraction_of_new(self, study: Study, base: "Reference") -> "pd.Series[float]":
        """Fraction of the reads of each sample, by id, that are of ASVs which this has and another lacks; says so."""
        table = study.table
        new = np.flatnonzero((self._places(table) >= 0) & (base._places(table) < 0))
        fraction = np.asarray(table.select_asvs(new).counts.sum(axis=1), np.float64).ravel() / table.depth
        logger.info(
            "placed %d ASVs that the model was not fitted to on branches that it knows, with %.1f %% of the reads (at "
            "most %.0f %% of those of a sample)",
            *(len(new), 100 * float(fraction.mean()), 100 * float(fraction.max())),
        )
        return pd.Series(fraction, index=list(table.sample_ids))

    def reads_lost(self, study: Study) -> "pd.Series[float]":
        """Fraction of the reads of each sample, by id, that are of ASVs which this lacks; says so where there are some.

        Raises:
            InputError: all of them are.
        """
        table = study.table
        unknown = np.flatnonzero(self._places(table) < 0)
        if len(unknown) == table.n_asvs:
            raise InputError(
                f"none of the {table.n_asvs} ASVs of the table is known to the model, which was fitted to "
                f"{len(self.sequences)} others: the table must hold the same region of the gene, cut to the same length"
            )
        lost = np.asarray(table.select_asvs(unknown).counts.sum(axis=1), np.float64).ravel() / table.depth
        if len(unknown):
            logger.warning(
                "dropped %d of %d ASVs that the model was not fitted to, with %.1f %% of the reads (at most %.0f %% of "
                "those of a sample, %s): %s",
                *(len(unknown), table.n_asvs, 100 * float(lost.mean()), 100 * float(lost.max())),
                table.sample_ids[int(np.argmax(lost))],
                first_ids((table.asv_ids[i] for i in unknown), 3),
            )
        return pd.Series(lost, index=list(table.sample_ids))

    def _places(self, table: FeatureTable) -> NDArray[np.int64]:
        """Column here of every ASV of a table, -1 where there is none [ASVs]."""
        column = {sequence: place for place, sequence in enumerate(self.sequences)}
        return np.array([column.get(sequence, -1) for sequence in table.sequences], dtype=np.int64)

    def arrays(self) -> Arrays:
        """The tree as arrays; nothing without one."""
        return {} if self.tree is None else {name: getattr(self.tree, name) for name in _TREE}

    def to_json(self) -> dict[str, Any]:
        """JSON document of the ASVs."""
        return {"ids": list(self.asv_ids), "sequences": list(self.sequences)}

    @classmethod
    def restore(cls, document: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from `to_json` and `arrays`."""
        tree = StudyTree(**{name: arrays[name] for name in _TREE}) if arrays else None
        return cls(tuple(document["ids"]), tuple(document["sequences"]), tree)

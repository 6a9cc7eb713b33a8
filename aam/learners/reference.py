"""The ASVs and the tree that a learner was fitted to, by which other studies are read."""

import logging
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.data.study import Study, select_samples
from aam.data.tables import FeatureTable
from aam.data.unifrac import StudyTree
from aam.errors import InputError, first_ids
from aam.learners.base import Arrays

logger = logging.getLogger(__name__)

_TREE = ("length", "start", "stop", "order", "rank")


class Aligned(NamedTuple):
    """A study in the columns of a reference."""

    study: Study
    lost: "pd.Series[float]"
    """Share of the reads of each sample, by id, that are of ASVs which the reference lacks."""


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

    def align(self, study: Study) -> Aligned:
        """Bring a study to the columns and the tree of this one, dropping ASVs that it lacks and logging their reads.

        Samples that are left without reads become left out.

        Raises:
            InputError: no sample has a read of an ASV that is known here.
        """
        table = study.table
        column = {sequence: place for place, sequence in enumerate(self.sequences)}
        place = np.array([column.get(sequence, -1) for sequence in table.sequences], dtype=np.int64)
        counts = table.select_asvs(np.flatnonzero(place >= 0)).counts
        into = place[place >= 0]
        moved = counts.tocoo()
        shape = (table.n_samples, len(self.sequences))
        aligned = type(counts)((moved.data, (moved.row, into[moved.col])), shape=shape)
        aligned.sort_indices()
        known = FeatureTable(aligned, table.sample_ids, self.asv_ids, self.sequences)
        lost = 1 - known.depth / table.depth
        self._say_lost(study, place, lost)
        here = replace(study, table=known, tree=self.tree, matrix=None, taxonomy=None)
        held = np.flatnonzero(known.depth)
        if not len(held):
            raise InputError(
                f"none of the {table.n_asvs} ASVs of the table is known to the model, which was fitted to "
                f"{len(self.sequences)} others: the table must hold the same region of the gene, cut to the same length"
            )
        here = select_samples(here, held, "no read of an ASV that the model knows")
        return Aligned(here, pd.Series(lost, index=list(table.sample_ids)))

    def _say_lost(self, study: Study, place: NDArray[np.int64], lost: NDArray[np.float64]) -> None:
        unknown = np.flatnonzero(place < 0)
        if len(unknown):
            worst = study.table.sample_ids[int(np.argmax(lost))]
            logger.warning(
                "dropped %d of %d ASVs that the model was not fitted to, with %.1f %% of the reads (at most %.0f %% of "
                "those of a sample, %s): %s",
                *(len(unknown), study.table.n_asvs, 100 * float(lost.mean()), 100 * float(lost.max()), worst),
                first_ids((study.table.asv_ids[i] for i in unknown), 3),
            )

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

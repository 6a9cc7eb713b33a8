"""A model that is explained sample by sample: what attribution, attention and deletion ask of it.

Shapes: m samples, A ASVs of the study, C explained numbers: 1, or a probability for each class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from aam.data.files.tables import FeatureTable
from aam.data.labels.target_column import TargetColumn
from aam.data.sampling.seeded import generator
from aam.data.study import Study
from aam.errors import InputError, first_ids
from aam.interpret.contributions import Contributions
from aam.learners.base import Floats, Rows


class ExplainedModel(ABC):
    """A trained model, and the samples of a table as it reads them."""

    learner: str
    column: TargetColumn
    study: Study
    """Reads as they are drawn for the model (the first draw of several)."""

    @abstractmethod
    def predict(self, rows: Rows, removed: Sequence[Rows]) -> Floats:
        """Predict samples without some of their ASVs, in the unit of `to_units` [m, C].

        Args:
            rows: samples of the study [m].
            removed: ASVs whose reads are taken away, for each sample.
        """

    @abstractmethod
    def contributions(self, row: int, background: Rows) -> Contributions:
        """What ASVs contribute to the prediction of a sample, in the unit of `to_units`; K is 1.

        Args:
            row: the sample.
            background: samples that it is compared with.
        """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where a number is predicted."""
        return () if self.column.classes is None else self.column.classes.classes

    @property
    def in_units(self) -> bool:
        """Whether numbers are explained in the column's own unit; else, of a logarithm, on the learned scale."""
        return self.column.scale is not None and not self.column.scale.kind.startswith("log-")

    def to_units(self, found: Contributions, row: int) -> Contributions:
        """Bring contributions on the learned scale to the column's own unit, where that is a matter of a factor."""
        if not self.in_units:
            return found
        factor, shift = (float(np.ravel(part)[0]) for part in self.scale_of(np.array([row])))
        return found.scaled(factor, shift)

    def values_in_units(self, values: Floats, rows: Rows) -> Floats:
        """Bring predictions on the learned scale [m, C] to the unit of `to_units`."""
        if not self.in_units:
            return values
        factor, shift = self.scale_of(rows)
        in_units: Floats = values * np.reshape(factor, (-1, 1)) + np.reshape(shift, (-1, 1))
        return in_units

    def scale_of(self, rows: Rows) -> tuple[float | Floats, float | Floats]:
        """Scale and offset of the column, for samples where these have their own."""
        scale = self.column.scale
        if self.column.groups is not None:
            scale = self.column.groups.of(self.study.require_metadata().iloc[rows])
        assert scale is not None
        return scale.scale, scale.offset


def without(study: Study, rows: Rows, removed: Sequence[Rows]) -> Study:
    """Some samples of a study without the reads of some ASVs; the ASVs stay as columns."""
    counts = sparse.csr_array(study.table.counts[rows], copy=True)
    for place, columns in enumerate(removed):
        own = slice(counts.indptr[place], counts.indptr[place + 1])
        counts.data[own][np.isin(counts.indices[own], columns)] = 0
    counts.eliminate_zeros()
    table = study.table
    ids = tuple(table.sample_ids[row] for row in rows)
    metadata = None if study.metadata is None else study.metadata.iloc[rows]
    return replace(study, table=FeatureTable(counts, ids, table.asv_ids, table.sequences), metadata=metadata)


def chosen_rows(study: Study, samples: Sequence[str], seed: int) -> Rows:
    """The samples to explain: those of these ids, so many as a number says, or all.

    Raises:
        InputError: an id is not there, or the number is 0.
    """
    ids = study.table.sample_ids
    if not samples:
        return np.arange(len(ids))
    known = {name: row for row, name in enumerate(ids)}
    if len(samples) == 1 and samples[0].isdecimal() and samples[0] not in known:
        if int(samples[0]) == 0:
            raise InputError("--samples 0: nothing would be explained; give a number above 0, or ids of samples")
        return drawn_rows(study, int(samples[0]), seed, "explained")
    missing = [name for name in samples if name not in known]
    if missing:
        raise InputError(
            f"--samples: {first_ids(missing)} {'is' if len(missing) == 1 else 'are'} not among the samples "
            f"that the model can read, such as {first_ids(ids, 2)}"
        )
    return np.array(sorted({known[name] for name in samples}), dtype=np.int64)


def drawn_rows(study: Study, number: int, seed: int, purpose: str) -> Rows:
    """Draw samples, the same whatever the order of the table; all, where there are no more."""
    ids = study.table.sample_ids
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    return np.sort(generator(seed, "explain", purpose).permutation(order)[:number])

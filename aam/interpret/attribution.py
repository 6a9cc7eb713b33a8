"""Attributions of samples as tables: of ASVs and of clades, and how well they add up.

Shapes: A ASVs of the study, C explained numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from aam.data.study import Study
from aam.interpret.contributions import Contributions
from aam.interpret.explained import ExplainedModel
from aam.interpret.hierarchy import Hierarchy
from aam.interpret.names import Names
from aam.learners.base import Floats, Rows

COLUMNS: Final = (
    "sample_id",
    "level",
    "id",
    "name",
    "class",
    "attribution",
    "proportion",
    "baseline_proportion",
    "asvs",
)


@dataclass(frozen=True, eq=False)
class SampleAttribution:
    """One sample."""

    row: int
    contributions: Contributions

    @property
    def of_asvs(self) -> Floats:
        """[A, C]."""
        value: Floats = self.contributions.value[0]
        return value


def attribute(model: ExplainedModel, rows: Rows, background: Rows) -> Iterator[SampleAttribution]:
    """Explain samples, one after the other.

    Raises:
        InputError: the model cannot be explained this way, or a package is missing.
    """
    for row in rows.tolist():
        yield SampleAttribution(row, model.contributions(row, background))


class Tables:
    """Makes the rows of ``attribution.tsv`` and ``attribution_samples.tsv``."""

    def __init__(self, model: ExplainedModel, background: Rows) -> None:
        self.model, self.study = model, model.study
        self.names = Names.of(self.study.table, self.study.taxonomy)
        self.baseline = self.study.asv_proportions[background].mean(axis=0)

    def of_sample(self, sample: SampleAttribution) -> pd.DataFrame:
        """A row for each ASV and clade with an attribution, for each class; the largest first."""
        value = sample.of_asvs
        held = np.flatnonzero(np.abs(value).sum(axis=1))
        proportion = self.study.asv_proportions[[sample.row]].toarray()[0]
        sets = [("asv", self.study.table.asv_ids[column], np.array([column])) for column in held.tolist()]
        sets += [("clade", *clade) for clade in clades_of(self.study, held)]
        rows = [row for one in sets for row in self._rows(one, value, proportion)]
        table = pd.DataFrame(rows, columns=list(COLUMNS[1:]))
        order = np.lexsort((-table["attribution"].abs(), table["class"], table["level"]))
        table = table.iloc[order]
        table.insert(0, "sample_id", self.study.table.sample_ids[sample.row])
        return table if self.model.classes else table.drop(columns="class")

    def _rows(self, one: tuple[str, str, Rows], value: Floats, proportion: Floats) -> Iterator[tuple[Any, ...]]:
        level, name, columns = one
        reads = float(proportion[columns].sum()), float(self.baseline[columns].sum()), len(columns)
        for number, attribution in enumerate(value[columns].sum(axis=0).tolist()):
            label = self.model.classes[number] if self.model.classes else ""
            yield level, name, self.names.clade(columns), label, attribution, *reads

    def summary(self, sample: SampleAttribution) -> pd.DataFrame:
        """A row for each class: prediction, baseline, their difference as attributions have it, and what is missing."""
        found = sample.contributions
        table = pd.DataFrame(
            {
                "sample_id": self.study.table.sample_ids[sample.row],
                "class": list(self.model.classes) or [""],
                "prediction": found.explained,
                "baseline": found.baseline[0],
                "sum": found.value[0].sum(axis=0),
                "gap": found.gap,
            }
        )
        return table if self.model.classes else table.drop(columns="class")


def clades_of(study: Study, held: Rows) -> list[tuple[str, Rows]]:
    """Clades above some but not all of some ASVs: id, and two or more ASVs that lie below; none without a tree."""
    if study.tree is None or len(held) < 2:
        return []
    occurs = np.zeros(study.table.n_asvs, dtype=np.int64)
    occurs[held] = 1
    nodes = Hierarchy.of_tree(study.tree, occurs).nodes
    return [(node.id, node.columns) for node in nodes if 1 < len(node.columns) < len(held)]


def mean_absolute(samples: list[SampleAttribution]) -> Floats:
    """Mean over samples of the size of attributions, summed over classes [A]."""
    total: Floats = np.mean([np.abs(sample.of_asvs).sum(axis=1) for sample in samples], axis=0)
    return total

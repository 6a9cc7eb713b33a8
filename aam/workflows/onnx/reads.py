"""Features of samples as operators: from reads of ASVs to proportions, log-ratios and clades.

Each function does what its namesake in `aam.learners.features` or `aam.data.distances.branches` does.

Shapes: m samples, A ASVs of the model, N branches.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aam.data.arrays import Ints
from aam.data.distances.unifrac import StudyTree
from aam.data.files.counts import Counts
from aam.learners.features import PSEUDO_PROPORTION
from aam.workflows.onnx.graph import ZERO, Graph


@dataclass(frozen=True, eq=False)
class Reads:
    """Reads of samples, and what is made of them once."""

    graph: Graph
    counts: str
    """Double [m, A]."""
    tree: StudyTree | None

    @classmethod
    def constant(cls, graph: Graph, counts: Counts, tree: StudyTree | None) -> "Reads":
        """Reads that are part of the model; zeros take no room in the file."""
        zeros = graph.add("ConstantOfShape", list(counts.shape), value=ZERO)
        entries = counts.tocoo()
        places = np.stack([entries.row, entries.col], axis=1)
        return cls(graph, graph.add("ScatterND", zeros, places, entries.data.astype(np.float64)), tree)

    @cached_property
    def total(self) -> str:
        """Reads of each sample [m, 1]."""
        return self.graph.sum_rows(self.counts)

    @cached_property
    def depth(self) -> str:
        """The same, 1 where there are none."""
        return self.graph.add("Max", self.total, 1.0)

    @cached_property
    def asv_proportions(self) -> str:
        """Fractions of the reads [m, A]."""
        return self.graph.add("Div", self.counts, self.depth)

    @cached_property
    def _running(self) -> str:
        """Reads of all tips before each [m, A + 1]."""
        assert self.tree is not None
        sums = self.graph.add("CumSum", self.graph.add("Gather", self.counts, self.tree.order, axis=1), np.array(1))
        return self.graph.add("Pad", sums, [0, 1, 0, 0])

    @cached_property
    def branch_proportions(self) -> str:
        """Fractions of the reads below every branch [m, N]."""
        assert self.tree is not None
        return self.below(np.arange(len(self.tree.start)))

    def below(self, branches: Ints) -> str:
        """Fractions of the reads below some branches."""
        assert self.tree is not None
        ends = (self.graph.add("Gather", self._running, end[branches], axis=1) for end in self._ends(self.tree))
        return self.graph.add("Div", self.graph.add("Sub", *ends), self.depth)

    @staticmethod
    def _ends(tree: StudyTree) -> tuple[Ints, Ints]:
        return tree.stop, tree.start

    def log_ratios_of_counts(self, columns: Ints) -> str:
        """Centred log-ratios of some ASVs, with one read added to each count."""
        return self._centred(self.graph.add("Add", self._some(self.counts, columns), 1.0))

    def log_ratios_of_proportions(self, columns: Ints) -> str:
        """Centred log-ratios of some ASVs, with `PSEUDO_PROPORTION` added to each fraction."""
        return self._centred(self.graph.add("Add", self._some(self.asv_proportions, columns), PSEUDO_PROPORTION))

    def log_clades(self, branches: Ints) -> str:
        """Logarithms of the fractions below some branches, `PSEUDO_PROPORTION` added."""
        return self.graph.add("Log", self.graph.add("Add", self.below(branches), PSEUDO_PROPORTION))

    def log_depth(self) -> str:
        """Logarithm of the reads of each sample [m, 1]."""
        return self.graph.add("Log", self.total)

    def _some(self, values: str, columns: Ints) -> str:
        return self.graph.add("Gather", values, columns, axis=1)

    def _centred(self, values: str) -> str:
        logs = self.graph.add("Log", values)
        return self.graph.add("Sub", logs, self.graph.add("ReduceMean", logs, [1], keepdims=1))

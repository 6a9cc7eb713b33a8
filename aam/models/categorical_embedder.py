"""Vectors of categories: one for each categorical column of a sample, with what its parent columns say.

Shapes: B samples, K columns, C width of a category's vector.
"""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Generator, Tensor, nn

from aam.config import HierarchyCombine
from aam.data.categorical import KNOWN, UNSEEN
from aam.models.initial import Linear, SeededModule, normal
from aam.models.types import CategoryVectors


class Embedding(SeededModule, nn.Embedding):
    """A table of categories: rows of unit length about, those of missing and unseen categories zero at first.

    The row of unseen categories gets no gradient and stays zero: nothing is known of them, not even on average.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, padding_idx=UNSEEN)

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the rows; see `SeededModule`."""
        weight = normal(self.weight.shape, self.weight.shape[1] ** -0.5, generator)
        weight[:KNOWN] = 0
        return {"weight": weight}


class CategoricalEmbedder(nn.Module):
    """A vector for the category of each column."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        """Build tables of a width, with the rows of each column, missing and unseen among them."""
        super().__init__()
        self.tables = nn.ModuleList(Embedding(size, width) for size in sizes)

    def forward(self, categories: Tensor) -> CategoryVectors:
        """Look up: int64 [B, K], K at least the number of tables -> [B, K, C] of the columns with a table."""
        return _joined([table(categories[:, column]) for column, table in enumerate(self.tables)])


class ParentGate(nn.Module):
    """Weighs a category's own vector against its parent's, number by number, by a learned function of both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = Linear(2 * width, width, std=(2 * width) ** -0.5)

    def forward(self, own: Tensor, parent: Tensor, known: Tensor) -> Tensor:
        """Mix: [B, C], [B, C] and bool [B] -> [B, C]; the parent's vector alone where the category is not known."""
        gate = self.weigh(torch.cat([own, parent], dim=1)).sigmoid() * known[:, None]
        mixed: Tensor = gate * own + (1 - gate) * parent
        return mixed


class HierarchicalCategoricalEmbedder(nn.Module):
    """Vectors of categories that hold their parents' too: of a city its region's, of that its country's.

    A category that is not known thus has the vector of its parent.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        parents: Sequence[int | None],
        fused: int,
        width: int,
        combine: HierarchyCombine = "sum",
    ) -> None:
        """Build the tables of the columns that are returned, and of all above them.

        Args:
            sizes: rows of each column's table, missing and unseen among them.
            parents: index of each column's parent; None for none.
            fused: the first so many columns are returned.
            width: of a vector.
            combine: ``sum`` of a category's own vector and its parent's, or ``gated``: see `ParentGate`.

        Raises:
            ValueError: a column is above itself.
        """
        super().__init__()
        self.fused = fused
        self.steps = _from_the_top(parents, fused)
        # keyed by column: columns that nothing reads have no table
        self.tables = nn.ModuleDict({str(column): Embedding(sizes[column], width) for column, _ in self.steps})
        children = [column for column, parent in self.steps if parent is not None]
        gated = children if combine == "gated" else []
        self.gates = nn.ModuleDict({str(column): ParentGate(width) for column in gated})

    def forward(self, categories: Tensor) -> CategoryVectors:
        """Look up: int64 [B, K], of all columns -> vectors of the first ``fused`` of them."""
        vectors: dict[int, Tensor] = {}
        for column, parent in self.steps:
            own: Tensor = self.tables[str(column)](categories[:, column])
            if parent is not None and str(column) in self.gates:
                own = self.gates[str(column)](own, vectors[parent], categories[:, column] >= KNOWN)
            elif parent is not None:
                own = own + vectors[parent]
            vectors[column] = own
        return _joined([vectors[column] for column in range(self.fused)])


def _joined(columns: Sequence[Tensor]) -> CategoryVectors:
    stacked = torch.stack(list(columns), dim=1)
    return CategoryVectors(stacked, stacked.flatten(1))


def _from_the_top(parents: Sequence[int | None], fused: int) -> list[tuple[int, int | None]]:
    """Order the columns that the first ``fused`` depend on, parents first, each with its parent."""
    above: dict[int, list[int]] = {}
    waiting = list(range(fused))
    while waiting:
        column = waiting.pop()
        if column not in above:
            parent = parents[column]
            above[column] = [] if parent is None else [parent]
            waiting += above[column]
    try:
        order = list(TopologicalSorter(dict(sorted(above.items()))).static_order())
    except CycleError as error:
        raise ValueError(f"columns {', '.join(map(str, error.args[1]))} are above themselves") from None
    return [(column, parents[column]) for column in order]

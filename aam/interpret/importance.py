"""Importance of clades, taxa and ASVs: which were found to matter, and by how much, as a table.

Shapes: A ASVs, F folds of all repeats, R permutations, C classes (1 for a number).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from aam.data.study import Study
from aam.interpret.hierarchy import Found, Hierarchy, Node, find_downwards
from aam.interpret.kept_folds import KeptFolds, Measured
from aam.interpret.names import Names
from aam.interpret.sign_flips import Floats, cross_validated_p

TOP: Final = 10
"""Rows of a level among which one is among the top."""
STABLE: Final = 0.9
"""Fraction of folds in which a stable row is above zero."""
AGREEING: Final = 0.75
"""Fraction of folds whose slopes have one sign, where the direction is told."""
MOST: Final = 200
"""ASVs below important clades that are exchanged one by one, the most prevalent ones."""
LEVEL: Final = 95.0
COLUMNS: Final = (
    *("level", "id", "name", "importance", "low", "high", "top", "direction", "prevalence", "p_value", "stable"),
    *("forest", "rank", "asvs", "class"),
)


class Row(NamedTuple):
    """What is reported of one set of ASVs."""

    level: str
    node: Node
    p: float


@dataclass(frozen=True, eq=False)
class Importance:
    """What was found."""

    table: pd.DataFrame
    """Columns `COLUMNS`; the most important rows of a level first."""
    asv_score: Floats
    """Importance of the smallest important clade that holds each ASV; 0 where there is none [A]."""
    branches: Mapping[int, tuple[str, str, float]]
    """Important clades by branch of the tree: id, name, importance."""
    tested: Mapping[str, int]
    """Nodes that were tested, by level."""
    correlation: float
    """Spearman's rank correlation of the importance of ASVs with that of the forest; NaN where there are too few."""

    def of_level(self, level: str) -> pd.DataFrame:
        """The rows of a level."""
        return self.table[self.table["level"] == level]


@dataclass(frozen=True, eq=False)
class Inquiry:
    """What importance is asked of."""

    study: Study
    folds: KeptFolds
    names: Names
    alpha: float
    forest: Floats | None = None
    """The forest's importance of each ASV [A]."""

    @property
    def prevalence(self) -> "np.typing.NDArray[np.int64]":
        """Samples in which each ASV occurs [A]."""
        counts = self.study.table.counts
        return np.bincount(counts.indices, minlength=counts.shape[1])

    def hierarchies(self) -> dict[str, Hierarchy]:
        """Clades where there is a tree, and taxa where there is a taxonomy."""
        found = {}
        if self.study.tree is not None:
            found["clade"] = Hierarchy.of_tree(self.study.tree, self.prevalence)
        if any(self.names.lineages):
            found["rank"] = Hierarchy.of_taxonomy(self.names.lineages, self.prevalence)
        return found

    def p_values(self, measured: Sequence[Measured]) -> list[float]:
        """One-sided p-values by sign flips of groups."""
        sums = np.stack([one.sums for one in measured], axis=1)
        p: list[float] = cross_validated_p(sums, self.folds.seed).tolist()
        return p

    def find(self, hierarchy: Hierarchy) -> Found:
        """Test from the top down."""

        def p_of(wave: list[int]) -> Sequence[float]:
            return self.p_values(self.folds.measure([hierarchy.nodes[place].columns for place in wave]))

        return find_downwards(hierarchy, p_of, self.alpha)

    def answer(self) -> Importance:
        """Test clades and taxa, exchange the ASVs below important ones, and make the table."""
        hierarchies = self.hierarchies()
        found = {level: self.find(hierarchy) for level, hierarchy in hierarchies.items()}
        rows: list[Row] = []
        for level, hierarchy in hierarchies.items():
            rows += self._reported(level, hierarchy, found[level])
        main = "clade" if "clade" in hierarchies else "rank"
        rows += self._asvs(hierarchies[main], found[main])
        table = self._table(rows)
        smallest = [row for row in rows if row.level == "clade"]
        return Importance(
            table,
            self._scores(smallest),
            {row.node.branch: (row.node.id, *self._told(table, row)) for row in smallest},
            {level: len(one.p) for level, one in found.items()},
            _correlation(table[table["level"] == "asv"]),
        )

    def _told(self, table: pd.DataFrame, row: Row) -> tuple[str, float]:
        (at,) = np.flatnonzero((table["level"] == row.level) & (table["id"] == row.node.id))
        return str(table["name"].iloc[at]), float(table["importance"].iloc[at])

    def smallest(self, hierarchy: Hierarchy, found: Found) -> list[int]:
        """The smallest nodes that carry the effect."""
        measured = self.folds.measure([hierarchy.nodes[place].columns for place in found.rejected])
        effects = dict(zip(found.rejected, (one.importance for one in measured), strict=True))
        return found.smallest(hierarchy, effects.__getitem__)

    def _reported(self, level: str, hierarchy: Hierarchy, found: Found) -> Iterator[Row]:
        """The smallest clades that carry the effect; of a taxonomy, the taxa of every rank."""
        for place in self.smallest(hierarchy, found) if level == "clade" else found.rejected:
            node = hierarchy.nodes[place]
            if level == "clade" or node.rank:
                yield Row(level, node, found.p[place])

    def _asvs(self, hierarchy: Hierarchy, found: Found) -> Iterator[Row]:
        """The ASVs below the smallest important nodes, with the p-values of all that holds them."""
        prevalence, worst = self.prevalence, np.zeros(self.study.table.n_asvs)
        for place, p in found.p.items():  # every node comes after the one above it
            columns = hierarchy.nodes[place].columns
            worst[columns] = np.maximum(worst[columns], p)
        below = [hierarchy.nodes[place].columns for place in self.smallest(hierarchy, found)]
        chosen = np.concatenate(below) if below else np.empty(0, dtype=np.int64)
        chosen = np.unique(chosen[np.argsort(-prevalence[chosen], kind="stable")][:MOST])
        sets = [np.array([column]) for column in chosen.tolist()]
        if not sets:
            return
        total = hierarchy.weight[0]
        for columns, p in zip(sets, self.p_values(self.folds.measure(sets)), strict=True):
            (column,) = columns.tolist()
            adjusted = min(1.0, max(worst[column], p * total / prevalence[column]))
            yield Row("asv", Node(self.study.table.asv_ids[column], columns, -1), adjusted)

    def _scores(self, rows: Sequence[Row]) -> Floats:
        scores = np.zeros(self.study.table.n_asvs)
        for row, measured in zip(rows, self.folds.measure([row.node.columns for row in rows]), strict=True):
            scores[row.node.columns] = np.maximum(scores[row.node.columns], measured.importance)
        return scores

    def _table(self, rows: Sequence[Row]) -> pd.DataFrame:
        measured = self.folds.measure([row.node.columns for row in rows])
        top = _among_top([f"{row.level} {row.node.rank}" for row in rows], measured)
        told = [self._row(*each) for each in zip(rows, measured, top, strict=True)]
        table = pd.DataFrame(told, columns=list(COLUMNS))
        place = table["level"].map({"clade": 0, "rank": 1, "asv": 2})
        order = np.lexsort((table["id"], -table["importance"].to_numpy(np.float64), place))
        return table.iloc[order].reset_index(drop=True)

    def _row(self, row: Row, measured: Measured, top: float) -> dict[str, Any]:
        columns = row.node.columns
        low, high = np.percentile(measured.by_permutation, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
        held = np.diff(self.study.table.counts[:, columns].tocsr().indptr) > 0
        direction, name = _direction(measured.slope, self.folds.classes())
        positive = float((measured.by_fold > 0).mean())
        return {
            "level": row.level,
            "id": row.node.id,
            "name": self._name(row),
            "importance": measured.importance,
            "low": float(low),
            "high": float(high),
            "top": top,
            "direction": direction,
            "prevalence": float(held.mean()),
            "p_value": row.p,
            "stable": "yes" if positive >= STABLE else "no",
            "forest": np.nan if self.forest is None else float(self.forest[columns].sum()),
            "rank": row.node.rank,
            "asvs": len(columns),
            "class": name,
        }

    def _name(self, row: Row) -> str:
        columns = row.node.columns
        if row.level == "rank":
            return self.names.taxon(row.node.id, columns, row.node.rank)
        if row.level == "clade":
            return self.names.clade(columns)
        return self.names.asv(int(columns[0]))


def _among_top(levels: Sequence[str], measured: Sequence[Measured]) -> Floats:
    """Fraction of folds in which each row is above zero and among the `TOP` of its level."""
    fraction = np.zeros(len(levels))
    for level in set(levels):
        at = np.flatnonzero([one == level for one in levels])
        values = np.stack([measured[place].by_fold for place in at.tolist()])
        rank = (-values).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        fraction[at] = ((rank < TOP) & (values > 0)).mean(axis=1)
    return fraction


def _direction(slope: Floats, classes: Sequence[str]) -> tuple[str, str]:
    """Whether the prediction rises with the reads, and of which class that is said (none for a number).

    Of two classes it is the second; of more, the one whose probability depends on the reads most.
    """
    at = 0 if not classes else 1 if len(classes) == 2 else int(np.abs(slope.sum(axis=0)).argmax())
    own = slope[:, at]
    name = classes[at] if classes else ""
    if (own > 0).mean() >= AGREEING:
        return "rises", name
    return ("falls" if (own < 0).mean() >= AGREEING else "mixed"), name


def _correlation(rows: pd.DataFrame) -> float:
    known = rows[["importance", "forest"]].dropna()
    if len(known) < 3 or known.nunique().min() < 2:
        return float("nan")
    return float(spearmanr(known["importance"], known["forest"]).statistic)

"""Features of samples as sparse rows: proportions of reads by ASV, and below every branch of the tree.

Kernels are made of inner products of these rows (`kernels`), so that no dense row of all features is needed.

Sources: Aitchison 1982 (centred log ratios); Rao 1995 (Hellinger distances); Lozupone and Knight 2005 (branches).

Shapes: n samples of the basis, m samples compared with them, F features, F' that many samples have, N branches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aam.data.distances.branches import Rows, asv_proportions, branch_proportions
from aam.data.distances.unifrac import StudyTree
from aam.data.files.counts import Counts
from aam.data.study import Study
from aam.learners.base import Floats

Places: TypeAlias = NDArray[np.int64]
Rule: TypeAlias = Literal["jaccard", "gaussian", "laplace", "linear", "inner"]
"""How inner products become a similarity."""

DETECTED = 1e-4
"""Fraction of reads from which on abundance counts by its logarithm; below, in proportion."""
_CACHED = 10_000
"""Samples of a study whose proportions are kept."""
_DENSE = 8
"""A feature that one in so many samples has is multiplied as a dense column: faster than sparse ones."""


class Features(NamedTuple):
    """A `Source`: how proportions of reads become the features of a sample."""

    level: Literal["branches", "asvs"]
    value: Callable[[Floats], Floats]
    """Of the proportions that are not 0; it is 0 at 0."""
    centred: bool = False
    """Subtract from a sample's features their mean over the ASVs that samples of the basis hold."""

    def side(self, basis: "Samples") -> "ReadSide":
        """See `Source`."""
        return ReadSide.of(self, basis)


def _presence(proportion: Floats) -> Floats:
    return np.ones_like(proportion)


def _log(proportion: Floats) -> Floats:
    return np.log1p(proportion / DETECTED)


FEATURES: dict[str, Features] = {
    "branch presence": Features("branches", _presence),
    "branch root": Features("branches", np.sqrt),
    "branch log": Features("branches", _log),
    "asv log": Features("asvs", _log, centred=True),
    "asv root": Features("asvs", np.sqrt),
    "asv presence": Features("asvs", _presence),
}
"""Features by name; those of branches are weighted by the square roots of their lengths."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Reads of some samples, their proportions once they are asked for, and what else is known of them."""

    tree: StudyTree | None
    counts: Counts
    """[m, ASVs], in the order of the columns of the study."""
    known: Rows | None = None
    """Their proportions below every branch, where they are known [m, N]."""
    described: Mapping[str, Floats] = field(default_factory=dict)
    """Features that do not come from proportions of reads, by the name of their source [m, F]."""

    @classmethod
    def of(cls, study: Study, rows: Places, described: Mapping[str, Floats] | None = None) -> "Samples":
        """Take samples of a study; of one that is not large, proportions are computed once for all of its samples."""
        cached = study.tree is not None and study.table.n_samples <= _CACHED
        proportions = study.branch_proportions[rows] if cached else None
        return cls(study.tree, study.table.counts[rows], proportions, described or {})

    @cached_property
    def branches(self) -> Rows:
        """Proportions below every branch [m, N]."""
        assert self.tree is not None
        return branch_proportions(self.tree, self.counts) if self.known is None else self.known

    @cached_property
    def asvs(self) -> Rows:
        """Proportions of every ASV [m, ASVs]."""
        return asv_proportions(self.counts)


class Products(NamedTuple):
    """Inner products of the features of samples with those of the basis."""

    inner: Floats
    """[m, n]."""
    own: Floats
    """Of the samples with themselves [m]."""
    others: Floats
    """Of those of the basis with themselves [n]."""

    @property
    def squared(self) -> Floats:
        """Squared Euclidean distances [m, n]."""
        squared: Floats = np.maximum(self.own[:, None] + self.others - 2 * self.inner, 0.0)
        return squared


class Side(Protocol):
    """One kind of features of the samples of a basis, ready to be multiplied."""

    def products(self, samples: Samples) -> Products:
        """Inner products of some samples with those of the basis."""
        ...


class Source(Protocol):
    """Where the features of samples come from: branches, ASVs, a column of the metadata, an encoder."""

    def side(self, basis: Samples) -> Side:
        """Prepare the features of the samples of a basis."""
        ...


class _Values(NamedTuple):
    """Features of some samples."""

    rows: Rows
    """[m, F]."""
    mean: Floats
    """Mean of a sample's features times the root of their number, 0 where they are not centred [m]."""
    own: Floats
    """Squared length of a sample's features [m]."""


@dataclass(frozen=True, eq=False)
class ReadSide:
    """Features that come from reads; see `Side`."""

    features: Features
    root: Floats | None
    """Square root of the length of every branch."""
    held: Floats
    """1 for the features that a sample of the basis has, else 0 [F]."""
    common: Places
    """The features that many samples have [F'], by number."""
    dense: Floats
    """Those of the basis [F', n]."""
    rest: Rows
    """The others of the basis [F, n]."""
    mean: Floats
    own: Floats

    @classmethod
    def of(cls, features: Features, basis: Samples) -> "ReadSide":
        """Prepare the features of the basis."""
        root = None if basis.tree is None or features.level == "asvs" else np.sqrt(basis.tree.length)
        proportions = basis.branches if features.level == "branches" else basis.asvs
        often = np.bincount(proportions.indices, minlength=proportions.shape[1])
        common = np.flatnonzero(often * _DENSE > proportions.shape[0])
        empty = np.empty((0, 0))
        side = cls(features, root, (often > 0).astype(np.float64), common, empty, proportions, empty, empty)
        values = side.values(basis)
        dense = values.rows[:, common].toarray().T
        rest = sparse.csr_array(_without(values.rows, common).T)
        return replace(side, dense=dense, rest=rest, mean=values.mean, own=values.own)

    def values(self, samples: Samples) -> _Values:
        """Features of some samples; ASVs that follow those of the basis are none."""
        proportions = samples.branches if self.features.level == "branches" else samples.asvs[:, : len(self.held)]
        data = self.features.value(proportions.data)
        if self.root is not None:
            data = data * self.root[proportions.indices]
        if self.features.centred:
            data = data * self.held[proportions.indices]
        rows = sparse.csr_array((data, proportions.indices, proportions.indptr), shape=proportions.shape)
        mean = np.zeros(rows.shape[0])
        if self.features.centred:
            mean = _row_sums(rows, data) / np.sqrt(max(1.0, self.held.sum()))
        return _Values(rows, mean, _row_sums(rows, data**2) - mean**2)

    def products(self, samples: Samples) -> Products:
        """Inner products of some samples with those of the basis."""
        values = self.values(samples)
        inner = values.rows[:, self.common].toarray() @ self.dense
        inner += (_without(values.rows, self.common) @ self.rest).toarray()
        inner -= values.mean[:, None] * self.mean
        return Products(inner, values.own, self.own)


def _row_sums(rows: Rows, data: Floats) -> Floats:
    """Sum the entries of every row, one after the other."""
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    sums: Floats = np.bincount(row, weights=data, minlength=rows.shape[0]).astype(np.float64)
    return sums


def _without(rows: Rows, columns: Places) -> Rows:
    """Drop the entries of some columns, whose places stay."""
    kept = np.ones(rows.shape[1], dtype=bool)
    kept[columns] = False
    kept = kept[rows.indices]
    before = np.concatenate([[0], np.cumsum(kept)])
    return sparse.csr_array((rows.data[kept], rows.indices[kept], before[rows.indptr]), shape=rows.shape)

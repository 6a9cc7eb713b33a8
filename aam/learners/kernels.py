"""Kernels between samples, all from inner products of sparse rows: what two samples share by tree, ASVs and reads.

A kernel is a kind of `Features` (sparse rows of each sample) and a `Rule` that makes of inner products a similarity.
Every one is positive semidefinite by construction. Another kernel is another line in `FEATURES` and `KERNELS`.

Sources: Lozupone and Knight 2005 (UniFrac; its similarity is a weighted Jaccard index, which is positive semidefinite:
Gower and Legendre 1986, Bouchard et al. 2013); Schoenberg 1938 (exp(-d^2 / h) and exp(-d / h) of Euclidean distances);
Aitchison 1982 (centred log ratios); Rao 1995 (Hellinger distances).

Shapes: n samples of the basis, m samples compared with them, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aam.data.branches import Rows, asv_shares, branch_shares
from aam.data.counts import Counts
from aam.data.study import Study
from aam.data.unifrac import StudyTree
from aam.learners.base import Arrays, Floats

Places: TypeAlias = NDArray[np.int64]
Rule: TypeAlias = Literal["jaccard", "gaussian", "laplace", "linear"]

_DETECTED = 1e-4
"""Share of reads from which on abundance counts by its logarithm; below, in proportion."""
_CACHED = 10_000
"""Samples of a study whose shares are kept."""
_DENSE = 8
"""A feature that one in so many samples has is multiplied as a dense column: faster than sparse ones."""


class Features(NamedTuple):
    """How shares of reads become the features of a sample."""

    level: Literal["branches", "asvs"]
    value: Callable[[Floats], Floats]
    """Of the shares that are not 0; it is 0 at 0."""
    centred: bool = False
    """Subtract from a sample's features their mean over the ASVs that samples of the basis hold."""


def _presence(share: Floats) -> Floats:
    return np.ones_like(share)


def _log(share: Floats) -> Floats:
    return np.log1p(share / _DETECTED)


FEATURES: dict[str, Features] = {
    "branch presence": Features("branches", _presence),
    "branch root": Features("branches", np.sqrt),
    "branch log": Features("branches", _log),
    "asv log": Features("asvs", _log, centred=True),
    "asv root": Features("asvs", np.sqrt),
    "asv presence": Features("asvs", _presence),
}
"""Features by name; those of branches are weighted by the square roots of their lengths."""

KERNELS: dict[str, tuple[str, Rule]] = {
    "unifrac": ("branch presence", "jaccard"),
    "branch_root": ("branch root", "gaussian"),
    "branch_log": ("branch log", "laplace"),
    "log_ratio": ("asv log", "laplace"),
    "log_ratio_linear": ("asv log", "linear"),
    "hellinger": ("asv root", "gaussian"),
    "jaccard": ("asv presence", "jaccard"),
}
"""Features and rule of every kernel."""


def kernel_names(tree: StudyTree | None) -> tuple[str, ...]:
    """Every kernel that can be had with or without a tree."""
    return tuple(name for name, (kind, _) in KERNELS.items() if tree is not None or FEATURES[kind].level == "asvs")


@dataclass(frozen=True, eq=False)
class Samples:
    """Reads of some samples, and their shares once they are asked for."""

    tree: StudyTree | None
    counts: Counts
    """[m, ASVs], in the order of the columns of the study."""
    known: Rows | None = None
    """Their shares below every branch, where they are known [m, N]."""

    @classmethod
    def of(cls, study: Study, rows: Places) -> "Samples":
        """Take samples of a study; of one that is not large, shares are computed once for all of its samples."""
        cached = study.tree is not None and study.table.n_samples <= _CACHED
        return cls(study.tree, study.table.counts[rows], study.branch_shares[rows] if cached else None)

    @cached_property
    def branches(self) -> Rows:
        """Shares below every branch [m, N]."""
        assert self.tree is not None
        return branch_shares(self.tree, self.counts) if self.known is None else self.known

    @cached_property
    def asvs(self) -> Rows:
        """Shares of every ASV [m, ASVs]."""
        return asv_shares(self.counts)


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


class _Values(NamedTuple):
    """Features of some samples."""

    rows: Rows
    """[m, F]."""
    mean: Floats
    """Mean of a sample's features times the root of their number, 0 where they are not centred [m]."""
    own: Floats
    """Squared length of a sample's features [m]."""


@dataclass(frozen=True, eq=False)
class Side:
    """One kind of features of the samples of the basis, ready to be multiplied."""

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
    def of(cls, features: Features, basis: Samples) -> "Side":
        """Prepare the features of the basis."""
        root = None if basis.tree is None or features.level == "asvs" else np.sqrt(basis.tree.length)
        shares = basis.branches if features.level == "branches" else basis.asvs
        often = np.bincount(shares.indices, minlength=shares.shape[1])
        common = np.flatnonzero(often * _DENSE > shares.shape[0])
        empty = np.empty((0, 0))
        side = cls(features, root, (often > 0).astype(np.float64), common, empty, shares, empty, empty)
        values = side.values(basis)
        dense = values.rows[:, common].toarray().T
        rest = sparse.csr_array(_without(values.rows, common).T)
        return replace(side, dense=dense, rest=rest, mean=values.mean, own=values.own)

    def values(self, samples: Samples) -> _Values:
        """Features of some samples."""
        shares = samples.branches if self.features.level == "branches" else samples.asvs
        data = self.features.value(shares.data)
        if self.root is not None:
            data = data * self.root[shares.indices]
        if self.features.centred:
            data = data * self.held[shares.indices]
        rows = sparse.csr_array((data, shares.indices, shares.indptr), shape=shares.shape)
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


class Scale(NamedTuple):
    """What a kernel takes from the samples of a basis."""

    width: float
    """Bandwidth of a radial kernel, in the unit of its distances; of a linear one, its mean diagonal; else 1."""
    centre: Floats
    """Mean inner product of every sample of the basis with all of them, where the kernel is linear, else 0 [n]."""

    @classmethod
    def of(cls, rule: Rule, products: Products) -> "Scale":
        """Find the scale of the samples of the basis, from their inner products with each other [n, n]."""
        centre = products.inner.mean(axis=0) if rule == "linear" else np.zeros(len(products.others))
        if rule == "jaccard":
            return cls(1.0, centre)
        if rule == "linear":
            return cls(_or_one(float((products.own - 2 * centre).mean() + centre.mean())), centre)
        squared = products.squared[np.triu_indices(len(centre), 1)]
        width = float(np.median(squared)) if len(squared) else 1.0
        return cls(_or_one(np.sqrt(width) if rule == "laplace" else width), centre)


def _or_one(width: float) -> float:
    """A width that can be divided by: where all samples have the same features, any will do."""
    return float(width) if width > 1e-12 else 1.0


def combine(rule: Rule, products: Products, scale: Scale) -> tuple[Floats, Floats]:
    """The kernel between samples and those of the basis [m, n], and of the samples with themselves [m]."""
    ones = np.ones(len(products.own))
    if rule == "jaccard":
        either = products.own[:, None] + products.others - products.inner
        return np.divide(products.inner, either, out=np.ones_like(either), where=either > 0), ones
    if rule == "gaussian":
        return np.exp(products.squared / -scale.width), ones
    if rule == "laplace":
        return np.exp(np.sqrt(products.squared) / -scale.width), ones
    towards = products.inner.mean(axis=1)
    middle = scale.centre.mean()
    centred = products.inner - towards[:, None] - scale.centre + middle
    return centred / scale.width, (products.own - 2 * towards + middle) / scale.width


@dataclass(frozen=True, eq=False)
class Basis:
    """Samples that others are compared with, by some kernels."""

    names: tuple[str, ...]
    samples: Samples
    scales: tuple[Scale, ...]
    """One for each kernel."""

    @classmethod
    def build(cls, names: Sequence[str], samples: Samples) -> tuple["Basis", Floats]:
        """Find the scales of some samples, and their kernels with each other: float64 [kernels, n, n]."""
        unscaled = cls(tuple(names), samples, ())
        size = samples.counts.shape[0]
        stack = np.empty((len(names), size, size))
        scales = []
        products: dict[str, Products] = {}
        for number, name in enumerate(names):
            kind, rule = KERNELS[name]
            if kind not in products:
                products = {kind: _symmetric(unscaled.sides[kind].products(samples))}
            scales.append(Scale.of(rule, products[kind]))
            kernel = combine(rule, products[kind], scales[-1])[0]
            stack[number] = (kernel + kernel.T) / 2  # means of rows and columns are summed in different orders
        return replace(unscaled, scales=tuple(scales)), stack

    @property
    def widths(self) -> Floats:
        """Widths of the kernels [kernels]."""
        return np.array([scale.width for scale in self.scales])

    def in_tree(self, tree: StudyTree | None) -> "Basis":
        """Put the samples into a tree that has the same ASVs."""
        return replace(self, samples=Samples(tree, self.samples.counts))

    def arrays(self) -> Arrays:
        """What `restore` needs; the tree is not part of it."""
        counts = self.samples.counts
        reads = {"reads": counts.data, "asvs": counts.indices, "ends": counts.indptr}
        return reads | {"widths": self.widths, "centres": np.stack([scale.centre for scale in self.scales])}

    @classmethod
    def restore(cls, names: Sequence[str], asvs: int, arrays: Arrays) -> "Basis":
        """Rebuild from arrays, without a tree.

        Args:
            names: of the kernels.
            asvs: columns of the table.
            arrays: what `arrays` gave.
        """
        ends = arrays["ends"]
        counts = sparse.csr_array((arrays["reads"], arrays["asvs"], ends), shape=(len(ends) - 1, asvs))
        scales = map(Scale, arrays["widths"].tolist(), map(np.array, arrays["centres"]))
        return cls(tuple(names), Samples(None, counts), tuple(scales))

    @cached_property
    def sides(self) -> dict[str, Side]:
        """The features of the samples, by name."""
        kinds = dict.fromkeys(KERNELS[name][0] for name in self.names)
        return {kind: Side.of(FEATURES[kind], self.samples) for kind in kinds}

    def weighted(self, samples: Samples, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted sum of the kernels: between samples and those of the basis [m, n], and with themselves [m]."""
        total = np.zeros((samples.counts.shape[0], self.samples.counts.shape[0]))
        own = np.zeros(len(total))
        products: dict[str, Products] = {}
        for name, scale, weight in zip(self.names, self.scales, weights.tolist(), strict=True):
            kind, rule = KERNELS[name]
            if kind not in products:
                products = {kind: self.sides[kind].products(samples)}
            cross, alone = combine(rule, products[kind], scale)
            total += weight * cross
            own += weight * alone
        return total, own


def _symmetric(products: Products) -> Products:
    """Inner products of samples with each other, equal both ways and on the diagonal to the last bit."""
    inner = (products.inner + products.inner.T) / 2
    np.fill_diagonal(inner, products.own)
    return products._replace(inner=inner)

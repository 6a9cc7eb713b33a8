"""Kernels between samples, all from inner products of sparse rows: what two samples share by tree, ASVs and reads.

A kernel is a kind of features (`kernel_features`) and a `Rule` that makes of inner products a similarity. Every one is
positive semidefinite by construction. Another one is another line of `KERNELS`, and of `FEATURES` where it needs that.

Sources: Lozupone and Knight 2005 (UniFrac; its similarity is a weighted Jaccard index, which is positive semidefinite:
Gower and Legendre 1986, Bouchard et al. 2013); Schoenberg 1938 (exp(-d^2 / h) and exp(-d / h) of Euclidean distances).

Shapes: n samples of the basis, m samples compared with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from aam.data.unifrac import StudyTree
from aam.learners.base import Arrays, Floats
from aam.learners.kernel_features import FEATURES, Products, Samples, Side

Rule: TypeAlias = Literal["jaccard", "gaussian", "laplace", "linear"]

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

    @property
    def reads_branches(self) -> bool:
        """Whether one of the kernels is of branches."""
        return any(FEATURES[KERNELS[name][0]].level == "branches" for name in self.names)

    def in_tree(self, tree: StudyTree | None) -> "Basis":
        """Put the samples into a tree that has the same ASVs; more may follow them."""
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

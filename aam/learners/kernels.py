"""Kernels between samples, from inner products of their features: what two share by tree, ASVs, reads and metadata.

A kernel is a source of features (`kernel_features`, `kernel_sources`) and a `Rule` that makes of inner products a
similarity. Every one is positive semidefinite by construction. Another one of reads is another line of `KERNELS`, and
of `FEATURES` where it needs that; another one of what is known besides is another class of `kernel_sources`.

Sources: Lozupone and Knight 2005 (UniFrac; its similarity is a weighted Jaccard index, which is positive semidefinite:
Gower and Legendre 1986, Bouchard et al. 2013); Schoenberg 1938 (exp(-d^2 / h) and exp(-d / h) of Euclidean distances).

Shapes: n samples of the basis, m samples compared with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from aam.data.distances.unifrac import StudyTree
from aam.data.study import Study
from aam.learners.base import Arrays, Floats, below, prefixed
from aam.learners.kernel_features import FEATURES, Places, Products, Rule, Samples, Side, Source
from aam.learners.kernel_sources import Described, describe, restore_described

KERNELS: dict[str, tuple[str, Rule]] = {
    "unifrac": ("branch presence", "jaccard"),
    "branch_root": ("branch root", "gaussian"),
    "branch_log": ("branch log", "laplace"),
    "log_ratio": ("asv log", "laplace"),
    "log_ratio_linear": ("asv log", "linear"),
    "hellinger": ("asv root", "gaussian"),
    "jaccard": ("asv presence", "jaccard"),
}
"""Features and rule of every kernel of reads."""


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
        if rule in ("jaccard", "inner"):
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
    if rule == "inner":
        return products.inner, products.own
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
    described: tuple[Described, ...] = ()
    """What is known of samples besides their reads; each is a kernel of its own, under its name."""

    @classmethod
    def build(
        cls, names: Sequence[str], samples: Samples, described: Sequence[Described] = ()
    ) -> tuple["Basis", Floats]:
        """Find the scales of some samples, and their kernels with each other: float64 [kernels, n, n].

        Args:
            names: of kernels of reads.
            samples: those of the basis.
            described: what else is known of them; its kernels come after those of reads.
        """
        unscaled = cls((*names, *(one.name for one in described)), samples, (), tuple(described))
        size = samples.counts.shape[0]
        stack = np.empty((len(unscaled.names), size, size))
        scales = []
        products: dict[str, Products] = {}
        for number, (source, rule) in enumerate(unscaled.kernels):
            if source not in products:
                products = {source: _symmetric(unscaled.sides[source].products(samples))}
            scales.append(Scale.of(rule, products[source]))
            kernel = combine(rule, products[source], scales[-1])[0]
            stack[number] = (kernel + kernel.T) / 2  # means of rows and columns are summed in different orders
        return replace(unscaled, scales=tuple(scales)), stack

    @property
    def kernels(self) -> list[tuple[str, Rule]]:
        """Source and rule of every kernel."""
        own = {one.name: (one.name, one.rule) for one in self.described}
        return [own[name] if name in own else KERNELS[name] for name in self.names]

    @property
    def widths(self) -> Floats:
        """Widths of the kernels [kernels]."""
        return np.array([scale.width for scale in self.scales])

    def view(self, study: Study, rows: Places) -> Samples:
        """Samples of a study, with all that is compared.

        Raises:
            InputError: the study lacks a column of the metadata.
        """
        return Samples.of(study, rows, describe(self.described, study, rows))

    @property
    def reads_branches(self) -> bool:
        """Whether one of the kernels is of branches."""
        return any(
            KERNELS[name][0] in FEATURES and FEATURES[KERNELS[name][0]].level == "branches" for name in self.names
        )

    def in_tree(self, tree: StudyTree | None) -> "Basis":
        """Put the samples into a tree that has the same ASVs; more may follow them."""
        return replace(self, samples=replace(self.samples, tree=tree, known=None))

    def arrays(self) -> Arrays:
        """What `restore` needs; the tree is not part of it."""
        counts = self.samples.counts
        arrays = {"reads": counts.data, "asvs": counts.indices, "ends": counts.indptr}
        arrays |= {"widths": self.widths, "centres": np.stack([scale.centre for scale in self.scales])}
        for place, one in enumerate(self.described):
            arrays |= {f"source{place}/features": self.samples.described[one.name]}
            arrays |= prefixed(f"source{place}/learned", one.arrays())
        return arrays

    def settings(self) -> dict[str, Any]:
        """What `restore` needs besides; sources only where something is described."""
        settings = {"kernels": list(self.names), "asvs": self.samples.counts.shape[1]}
        sources = [{"kind": one.kind, **one.settings()} for one in self.described]
        return settings | ({"sources": sources} if sources else {})

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> "Basis":
        """Rebuild from what `settings` and `arrays` gave, without a tree."""
        ends = arrays["ends"]
        shape = (len(ends) - 1, settings["asvs"])
        counts = sparse.csr_array((arrays["reads"], arrays["asvs"], ends), shape=shape)
        scales = map(Scale, arrays["widths"].tolist(), map(np.array, arrays["centres"]))
        sources = settings.get("sources", ())  # there where something is described
        learned = [below(f"source{place}/learned", arrays) for place in range(len(sources))]
        described = tuple(restore_described(*both) for both in zip(sources, learned, strict=True))
        rows = {one.name: arrays[f"source{place}/features"] for place, one in enumerate(described)}
        return cls(tuple(settings["kernels"]), Samples(None, counts, None, rows), tuple(scales), described)

    @cached_property
    def sides(self) -> dict[str, Side]:
        """The features of the samples, by source."""
        sources: dict[str, Source] = {**FEATURES, **{one.name: one for one in self.described}}
        return {name: sources[name].side(self.samples) for name in dict.fromkeys(name for name, _ in self.kernels)}

    def weighted(self, samples: Samples, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted sum of the kernels: between samples and those of the basis [m, n], and with themselves [m]."""
        total = np.zeros((samples.counts.shape[0], self.samples.counts.shape[0]))
        own = np.zeros(len(total))
        products: dict[str, Products] = {}
        for (source, rule), scale, weight in zip(self.kernels, self.scales, weights.tolist(), strict=True):
            if source not in products:
                products = {source: self.sides[source].products(samples)}
            cross, alone = combine(rule, products[source], scale)
            total += weight * cross
            own += weight * alone
        return total, own


def _symmetric(products: Products) -> Products:
    """Inner products of samples with each other, equal both ways and on the diagonal to the last bit."""
    inner = (products.inner + products.inner.T) / 2
    np.fill_diagonal(inner, products.own)
    return products._replace(inner=inner)

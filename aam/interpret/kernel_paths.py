"""Contributions of ASVs to the predictions of the kernel learner: integrated gradients between two samples.

From the baseline to the sample the proportion of every ASV changes along a straight line, and branches have the sums of
the ASVs below them, as they do in a sample. Presence, which is 0 or 1 in a sample, is relaxed: that of an ASV which
only one of the two holds changes from 0 to 1 (or back) along with the line, and a branch is present unless all ASVs
below it are absent, with their presences taken for independent probabilities (the multilinear extension; Owen 1972).
At both ends the function is the prediction itself, so that contributions (Sundararajan, Taly and Yan 2017), summed over
the proportion and the presence of an ASV, add up to the difference of the two predictions.

Roots of proportions have infinite slopes where these are 0. The line is therefore walked slowly at both ends,
u = s^2 (3 - 2 s) for s from 0 to 1, which changes no integral and leaves a smooth function of s, integrated by
Gauss-Legendre quadrature.

Shapes: n samples of the basis, S ASVs that one of the two samples holds, G branches that differ in which of these lie
below them, Q points of the quadrature, A ASVs of the study, K baselines, P columns that are learned together.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from aam.data.distances.unifrac import StudyTree
from aam.data.study import Study
from aam.errors import InputError
from aam.interpret.contributions import Contributions, contributions, through_softmax
from aam.learners.base import Floats, Rows
from aam.learners.kernel_features import FEATURES, ReadSide, Samples
from aam.learners.kernel_solution import KernelSolution
from aam.learners.kernel_sources import Described, describe
from aam.learners.kernels import Basis, Scale, combine

POINTS: Final = 32
MOST_POINTS: Final = 1024
TOLERANCE: Final = 1e-5
"""Of the sum, in standard deviations of the target: points are doubled until it is met, or there are `MOST_POINTS`."""
_LEAST_SQUARE: Final = 1e-24
"""Of a distance, so that its root has a slope."""
_ZERO: Final = 1e-4
"""Fraction of reads below which abundance counts in proportion; `aam.learners.kernel_features`."""
_OF_METADATA: Final = ("categorical", "numeric")


@contributions.register
def _(solution: KernelSolution, study: Study, row: int, background: Rows) -> Contributions:
    """Integrate the gradient; see above."""
    _refuse_embeddings(solution.basis.described)
    model = _model(solution, study.tree)
    value = np.zeros((len(background), study.table.n_asvs, solution.regression.alpha.shape[1]))
    explained = _predicted(solution, study, row, row)
    baseline = np.stack([_predicted(solution, study, other, row) for other in background.tolist()])
    constant = _of_metadata(model.basis, solution.weights.kernels, study, row)
    for place, other in enumerate(background.tolist()):
        line = Line.of(study, other, row)
        value[place, line.asvs] = _integrated(Path(model, line, constant), explained - baseline[place])
    unit = solution.unit
    scores = solution.scores
    if scores is None:
        return Contributions(value, explained, baseline).scaled(unit)
    shift = np.log(scores.prior) - scores.prior / scores.temperature
    factor = unit / scores.temperature
    logits = Contributions(factor * value, factor * explained + shift, factor * baseline + shift)
    return through_softmax(logits, scores.present, scores.classes)


def _refuse_embeddings(described: tuple[Described, ...]) -> None:
    others = [one.name for one in described if one.kind not in _OF_METADATA]
    if others:
        raise InputError(
            "--what attribution: the kernel of this model also compares samples by the embedding of an encoder "
            f"({', '.join(others)}), which is not divided among ASVs; explain a model trained without it"
        )


def _predicted(solution: KernelSolution, study: Study, row: int, described: int) -> Floats:
    """Prediction in standard deviations [P], of the reads of a sample with the metadata of another."""
    basis = solution.basis_in(study.tree)
    known = describe(basis.described, study, np.array([described]))
    cross, _ = basis.weighted(Samples.of(study, np.array([row]), known), solution.weights.kernels)
    predicted: Floats = solution.regression.mean(cross)[0]
    return predicted


def _of_metadata(basis: Basis, weights: Floats, study: Study, row: int) -> Floats:
    """Weighted sum of the kernels of metadata, which do not change along the path [n]."""
    total = np.zeros(basis.samples.counts.shape[0])
    samples = basis.view(study, np.array([row]))
    for (source, rule), scale, weight in zip(basis.kernels, basis.scales, weights.tolist(), strict=True):
        if source not in FEATURES:
            total += weight * combine(rule, basis.sides[source].products(samples), scale)[0][0]
    return total


class Line(NamedTuple):
    """The reads of two samples, and how those of one become those of the other."""

    asvs: Rows
    """ASVs that one of them holds, columns of the study [S]."""
    start: Floats
    """Their proportions in the baseline [S]."""
    stop: Floats
    """And in the sample [S]."""

    @classmethod
    def of(cls, study: Study, baseline: int, row: int) -> "Line":
        """Between two samples of a study."""
        both = study.asv_proportions[[baseline, row]]
        asvs = np.unique(both.indices).astype(np.int64)
        start, stop = both[:, asvs].toarray()
        return cls(asvs, start, stop)


class Bundle(NamedTuple):
    """Branches above the same ASVs of a line, taken together."""

    below: Tensor
    """1 where an ASV lies below [S, G]."""
    member: sparse.csr_array
    """1 where a branch is one of a bundle [N, G]."""
    length: Tensor
    """Sum of the lengths [G]."""

    @classmethod
    def of(cls, tree: StudyTree, asvs: Rows) -> "Bundle":
        """Bundle the branches that have some of the ASVs below them."""
        order = np.sort(tree.rank[asvs])
        start, stop = np.searchsorted(order, tree.start), np.searchsorted(order, tree.stop)
        branch = np.flatnonzero(stop > start)
        spans, bundle = np.unique(np.stack([start[branch], stop[branch]], axis=1), axis=0, return_inverse=True)
        shape = (len(tree.length), len(spans))
        member = sparse.csr_array((np.ones(len(branch)), (branch, bundle.ravel())), shape=shape)
        place = np.searchsorted(order, tree.rank[asvs])[:, None]
        below = (place >= spans[:, 0]) & (place < spans[:, 1])
        length = np.bincount(bundle.ravel(), tree.length[branch], len(spans))
        return cls(torch.from_numpy(below.astype(np.float64)), member, torch.from_numpy(length))


@dataclass(frozen=True, eq=False)
class Model:
    """A solution as a function of proportions and presences."""

    basis: Basis
    weights: Floats
    alpha: Tensor
    """[n, P]."""

    @cached_property
    def columns(self) -> dict[str, sparse.csc_array]:
        """Features of the samples of the basis by source, those of branches times their lengths [n, N or ASVs]."""
        columns = {}
        for name in {source for source, _ in self.basis.kernels} & FEATURES.keys():
            features, samples = FEATURES[name], self.basis.samples
            rows = samples.branches if features.level == "branches" else samples.asvs
            data = features.value(rows.data)
            if features.level == "branches":
                assert samples.tree is not None
                data = data * samples.tree.length[rows.indices]
            columns[name] = sparse.csc_array(sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape))
        return columns

    @cached_property
    def own(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Squared lengths and means of the features of the basis, by source [n]."""
        empty = torch.zeros(self.basis.samples.counts.shape[0], dtype=torch.float64)
        found = {}
        for name in self.columns:
            side = self.side(name)
            mean = torch.from_numpy(side.mean) if FEATURES[name].centred else empty
            found[name] = torch.from_numpy(side.own), mean
        return found

    def side(self, name: str) -> ReadSide:
        """The features of the basis from a source of reads."""
        side = self.basis.sides[name]
        assert isinstance(side, ReadSide)
        return side


@lru_cache(maxsize=4)
def _model(solution: KernelSolution, tree: StudyTree | None) -> Model:
    basis = solution.basis_in(tree)
    return Model(basis, solution.weights.kernels, torch.from_numpy(solution.regression.alpha))


class Path:
    """The prediction along a line, as a differentiable function of proportions and presences."""

    def __init__(self, model: Model, line: Line, constant: Floats) -> None:
        self.model, self.line = model, line
        self.constant = torch.from_numpy(constant)
        tree = model.basis.samples.tree
        self.bundle = None if tree is None else Bundle.of(tree, line.asvs)
        self.known = line.asvs < model.basis.samples.counts.shape[1]  # ASVs beyond are reads below branches alone
        self.stays = torch.from_numpy((line.start > 0) & (line.stop > 0))
        self.others = {name: self._others(name) for name in model.columns}

    def _others(self, name: str) -> Tensor:
        """Features of the basis for those of the line, times lengths: [n, G] or [n, S]."""
        columns = self.model.columns[name]
        if FEATURES[name].level == "branches":
            assert self.bundle is not None
            return torch.from_numpy((columns @ self.bundle.member).toarray())
        others = np.zeros((columns.shape[0], len(self.line.asvs)))
        others[:, self.known] = columns[:, self.line.asvs[self.known]].toarray()
        return torch.from_numpy(others)

    def __call__(self, proportion: Tensor, presence: Tensor) -> Tensor:
        """Predict, in standard deviations and without the offset: twice [Q, S] -> [Q, P]."""
        total = self.constant.expand(len(proportion), -1)
        basis = self.model.basis
        done: dict[str, tuple[Tensor, Tensor]] = {}
        for (source, rule), scale, weight in zip(basis.kernels, basis.scales, self.model.weights.tolist(), strict=True):
            if source not in FEATURES or weight == 0:
                continue
            if source not in done:
                done[source] = self._products(source, proportion, presence)
            total = total + weight * _similarity(rule, *done[source], self.model.own[source][0], scale)
        return total @ self.model.alpha

    def _products(self, source: str, proportion: Tensor, presence: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products with the basis [Q, n], and with themselves [Q]."""
        branches = FEATURES[source].level == "branches"
        values = self._values(source, proportion, presence)
        inner = values @ self.others[source].T
        if branches:
            assert self.bundle is not None
            return inner, values.square() @ self.bundle.length
        if not FEATURES[source].centred:
            return inner, values.square().sum(dim=1)
        held = self.model.side(source).held
        mean = values.sum(dim=1) / np.sqrt(max(1.0, held.sum()))
        inner = inner - mean[:, None] * self.model.own[source][1]
        return inner, values.square().sum(dim=1) - mean.square()

    def _values(self, source: str, proportion: Tensor, presence: Tensor) -> Tensor:
        """Features along the line, without lengths: [Q, G] or [Q, S]."""
        kind = source.split()[1]
        if FEATURES[source].level == "branches":
            assert self.bundle is not None
            below = self.bundle.below
            if kind == "presence":
                always = self.stays.to(below.dtype) @ below > 0
                absent = torch.log1p(-presence.masked_fill(self.stays, 0.0)) @ below
                return torch.where(always, torch.ones_like(absent), -torch.expm1(absent))
            return _VALUES[kind](proportion @ below)
        values = presence if kind == "presence" else _VALUES[kind](proportion)
        return values * self._counted(source)

    def _counted(self, source: str) -> Tensor:
        """1 for the ASVs of the line that are features [S]."""
        counted = self.known.astype(np.float64)
        if FEATURES[source].centred:
            held = self.model.side(source).held
            counted[self.known] = held[self.line.asvs[self.known]]
        return torch.from_numpy(counted)


_VALUES = {"root": torch.sqrt, "log": lambda proportion: torch.log1p(proportion / _ZERO)}
"""The functions of `FEATURES`, for tensors."""


def _similarity(rule: str, inner: Tensor, own: Tensor, others: Tensor, scale: Scale) -> Tensor:
    """As `aam.learners.kernels.combine`, for tensors: [Q, n]."""
    if rule == "jaccard":
        either = own[:, None] + others - inner
        # where neither has anything they are alike
        return torch.where(either > 0, inner / either.clamp_min(_LEAST_SQUARE), torch.ones_like(inner))
    squared = (own[:, None] + others - 2 * inner).clamp_min(_LEAST_SQUARE)
    if rule == "gaussian":
        return torch.exp(squared / -scale.width)
    if rule == "laplace":
        return torch.exp(squared.sqrt() / -scale.width)
    centre = torch.from_numpy(scale.centre)
    return (inner - inner.mean(dim=1, keepdim=True) - centre + centre.mean()) / scale.width


def _integrated(path: Path, difference: Floats) -> Floats:
    """Contributions of the ASVs of a line, which add up to a difference [P]: [S, P]."""
    points = POINTS
    found = _quadrature(path, points)
    while np.abs(difference - found.sum(axis=0)).max() > TOLERANCE and points < MOST_POINTS:
        points *= 2
        found = _quadrature(path, points)
    return found


def _quadrature(path: Path, points: int) -> Floats:
    line = path.line
    node, weight = np.polynomial.legendre.leggauss(points)
    node, weight = (node + 1) / 2, weight / 2
    along = node**2 * (3 - 2 * node)
    weight = weight * 6 * node * (1 - node)
    held = [(part > 0).astype(np.float64) for part in (line.start, line.stop)]
    moves = [torch.from_numpy(stop - start) for start, stop in ((line.start, line.stop), (held[0], held[1]))]
    inputs = []
    for start, move in zip((line.start, held[0]), moves, strict=True):
        point = torch.from_numpy(start) + torch.from_numpy(along)[:, None] * move
        inputs.append(point.requires_grad_())
    predicted = path(*inputs)
    columns = []
    for column in range(predicted.shape[1]):
        total = torch.from_numpy(weight) @ predicted[:, column]
        slopes = torch.autograd.grad(total, inputs, retain_graph=True, materialize_grads=True)
        parts = [slope.sum(dim=0) * move for slope, move in zip(slopes, moves, strict=True)]
        columns.append(parts[0] + parts[1])
    return torch.stack(columns, dim=1).numpy()

"""The kernel learner as operators: samples are compared with those of the basis, whose reads are part of the model.

Shapes: m samples, b samples of the basis, F features, C columns that are learned with the same weights.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from aam.errors import InputError
from aam.learners.class_scores import ClassScores
from aam.learners.kernel_features import DETECTED, ReadSide, Rule
from aam.learners.kernel_solution import KernelSolution
from aam.learners.kernels import Basis, Scale
from aam.workflows.onnx.graph import Graph
from aam.workflows.onnx.reads import Reads


class Compared(NamedTuple):
    """Inner products of features, as `aam.learners.kernel_features.Products`."""

    inner: str
    """[m, b]."""
    own: str
    """[m, 1]."""
    others: str
    """[b]."""


def add_kernel(reads: Reads, solution: KernelSolution) -> tuple[str, str | None]:
    """Predict one column: numbers [m] and their standard deviations [m]; or probabilities [m, C] and None.

    Raises:
        InputError: the learner reads more than ASVs.
    """
    if solution.basis.described:
        more = ", ".join(one.name for one in solution.basis.described)
        raise InputError(
            f"the kernel reads more than ASVs ({more}), which no file of ONNX can: predict by --checkpoint"
        )
    graph, regression = reads.graph, solution.regression
    cross, own = _weighted(reads, solution.basis_in(reads.tree), solution.weights.kernels.tolist())
    mean = graph.add("Add", graph.add("MatMul", cross, regression.alpha), regression.offset)
    value = graph.add("Mul", mean, solution.unit)
    if solution.scores is not None:
        return _probabilities(graph, value, solution.scores), None
    known = graph.sum_rows(graph.add("Mul", graph.add("MatMul", cross, regression.square), cross))
    line = graph.add("MatMul", cross, 2 * regression.line[:, None])
    variance = graph.add("Add", graph.add("Add", graph.add("Sub", own, known), line), regression.level)
    noisy = graph.add("Add", graph.add("Max", variance, 0.0), solution.weights.noise)
    spread = graph.add("Mul", graph.add("Sqrt", noisy), solution.unit)
    return graph.add("Squeeze", value, [1]), graph.add("Squeeze", spread, [1])


def _weighted(reads: Reads, basis: Basis, weights: list[float]) -> tuple[str, str]:
    """Weighted sums of the kernels with the samples of the basis [m, b], and of samples with themselves [m, 1].

    Kernels of weight 0 are left out, but for the first.
    """
    graph = reads.graph
    of_basis = Reads.constant(graph, basis.samples.counts, reads.tree)
    compared: dict[str, Compared] = {}
    sums: list[str] = []
    for (source, rule), scale, weight in zip(basis.kernels, basis.scales, weights, strict=True):
        if weight or not sums:
            if source not in compared:
                side = basis.sides[source]
                assert isinstance(side, ReadSide)
                compared[source] = _compare(reads, of_basis, source, side)
            parts = [graph.add("Mul", part, weight) for part in _combine(graph, rule, compared[source], scale)]
            sums = [graph.add("Add", *both) for both in zip(sums, parts, strict=True)] if sums else parts
    cross, own = sums
    return cross, own


def _compare(reads: Reads, of_basis: Reads, source: str, side: ReadSide) -> Compared:
    graph = reads.graph
    values, others = (_values(each, source, side) for each in (reads, of_basis))
    inner = graph.add("MatMul", values, graph.add("Transpose", others, perm=[1, 0]))
    own = graph.sum_rows(graph.add("Mul", values, values))
    if side.features.centred:
        mean = graph.add("Mul", graph.sum_rows(values), 1 / np.sqrt(max(1.0, float(side.held.sum()))))
        inner = graph.add("Sub", inner, graph.add("Mul", mean, side.mean[None, :]))
        own = graph.add("Sub", own, graph.add("Mul", mean, mean))
    return Compared(inner, own, graph.constant(side.own))


def _values(reads: Reads, source: str, side: ReadSide) -> str:
    """Features of samples [m, F], not centred yet; see `ReadSide.values`."""
    graph, features = reads.graph, side.features
    proportions = reads.branch_proportions if features.level == "branches" else reads.asv_proportions
    values = _OF_PROPORTIONS[source.split()[1]](graph, proportions)
    if side.root is not None:
        values = graph.add("Mul", values, side.root[None, :])
    return graph.add("Mul", values, side.held[None, :]) if features.centred else values


def _log(graph: Graph, proportions: str) -> str:
    return graph.add("Log", graph.add("Add", graph.add("Div", proportions, DETECTED), 1.0))


# by the second word of their names in `FEATURES`
_OF_PROPORTIONS: Final[dict[str, Callable[[Graph, str], str]]] = {
    "presence": lambda graph, proportions: graph.add("Sign", proportions),
    "root": lambda graph, proportions: graph.add("Sqrt", proportions),
    "log": _log,
}


def _combine(graph: Graph, rule: Rule, compared: Compared, scale: Scale) -> tuple[str, str]:
    """Kernels of samples with those of the basis [m, b] and with themselves [m, 1]; see `combine` of the learners."""
    one = graph.constant(np.ones((1, 1)))
    if rule == "jaccard":
        either = graph.add("Sub", graph.add("Add", compared.own, compared.others), compared.inner)
        some = graph.add("Greater", either, 0.0)
        shared = graph.add("Div", compared.inner, graph.add("Where", some, either, 1.0))
        return graph.add("Where", some, shared, 1.0), one
    if rule in ("gaussian", "laplace"):
        doubled = graph.add("Mul", compared.inner, 2.0)
        squared = graph.add("Max", graph.add("Sub", graph.add("Add", compared.own, compared.others), doubled), 0.0)
        distance = squared if rule == "gaussian" else graph.add("Sqrt", squared)
        return graph.add("Exp", graph.add("Mul", distance, -1 / scale.width)), one
    middle = float(scale.centre.mean())
    towards = graph.add("ReduceMean", compared.inner, [1], keepdims=1)
    shifted = graph.add("Sub", graph.add("Sub", compared.inner, towards), scale.centre[None, :] - middle)
    alone = graph.add("Add", graph.add("Sub", compared.own, graph.add("Mul", towards, 2.0)), middle)
    return graph.add("Mul", shifted, 1 / scale.width), graph.add("Mul", alone, 1 / scale.width)


def _probabilities(graph: Graph, values: str, scores: ClassScores) -> str:
    """See `ClassScores.probabilities`: [m, P] -> [m, C]."""
    logits = graph.add("Mul", graph.add("Sub", values, scores.prior), 1 / scores.temperature)
    found = graph.add("Softmax", graph.add("Add", logits, np.log(scores.prior)), axis=1)
    return graph.add("MatMul", found, np.eye(scores.classes)[scores.present])

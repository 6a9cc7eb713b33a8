"""Learners as operators: `add_solution` is a function over kinds of solutions, and a new learner is registered here.

Shapes: m samples, A ASVs of the model, C classes.
"""

from functools import singledispatch
from typing import NamedTuple

import numpy as np
from onnx import ModelProto

from aam.errors import InputError
from aam.learners.base import Solution
from aam.learners.calibration import LEAST, Calibration
from aam.learners.ensemble import EnsembleSolution
from aam.learners.kernel_solution import KernelSolution
from aam.learners.linear import LinearSolution
from aam.learners.simple import DepthSolution, NullSolution
from aam.learners.storage import TrainedLearner
from aam.learners.trees import CladesSolution, Forest, ForestSolution
from aam.workflows.onnx.forest import add_forest
from aam.workflows.onnx.graph import Graph
from aam.workflows.onnx.kernel import add_kernel
from aam.workflows.onnx.names import COUNTS, SPREAD, VALUE
from aam.workflows.onnx.reads import Reads


class Added(NamedTuple):
    """What predicts one column."""

    value: str
    """[m], or [m, C]."""
    spread: str | None = None


@singledispatch
def add_solution(solution: Solution, reads: Reads) -> Added:
    """Add what predicts one column.

    Raises:
        InputError: it cannot be had in a file of ONNX.
    """
    kind = type(solution).__name__.removesuffix("Solution").lower()
    raise InputError(f"the model holds a learner ({kind}) that is not exported: predict by --checkpoint")


def graph_of(trained: TrainedLearner) -> ModelProto:
    """The model as a graph from reads to predictions of every column.

    Raises:
        InputError: it cannot be had in a file of ONNX.
    """
    graph, tree = Graph(), trained.reference.tree
    reads = Reads(graph, graph.input(COUNTS, len(trained.reference.sequences)), tree)
    for place, solution in enumerate(trained.fitted.solutions):
        added = add_solution(solution, reads)
        classes = trained.fitted.targets.columns[place].classes
        graph.output(added.value, VALUE.format(place), *(() if classes is None else (len(classes.classes),)))
        if added.spread is not None:
            graph.output(added.spread, SPREAD.format(place))
    return graph.model()


@add_solution.register
def _linear(solution: LinearSolution, reads: Reads) -> Added:
    graph = reads.graph
    ratios = reads.log_ratios_of_proportions(solution.columns)
    scores = graph.add("Add", graph.add("MatMul", ratios, solution.coefficients), solution.intercept)
    return Added(graph.add("Softmax", scores, axis=1) if solution.classes else graph.add("Squeeze", scores, [1]))


def _of_forest(reads: Reads, forest: Forest, features: str) -> Added:
    found = add_forest(reads.graph, forest, features)
    return Added(found if forest.value.shape[1] > 1 else reads.graph.add("Squeeze", found, [1]))


@add_solution.register
def _forest(solution: ForestSolution, reads: Reads) -> Added:
    return _of_forest(reads, solution.forest, reads.log_ratios_of_counts(solution.columns))


@add_solution.register
def _clades(solution: CladesSolution, reads: Reads) -> Added:
    return _of_forest(reads, solution.forest, reads.log_clades(solution.columns))


@add_solution.register
def _depth(solution: DepthSolution, reads: Reads) -> Added:
    return _of_forest(reads, solution.forest, reads.log_depth())


@add_solution.register
def _null(solution: NullSolution, reads: Reads) -> Added:
    graph = reads.graph
    same = graph.add("Add", graph.add("Mul", reads.total, 0.0), np.atleast_2d(solution.value))
    return Added(same if solution.value.ndim else graph.add("Squeeze", same, [1]))


@add_solution.register
def _kernel(solution: KernelSolution, reads: Reads) -> Added:
    return Added(*add_kernel(reads, solution))


@add_solution.register
def _ensemble(solution: EnsembleSolution, reads: Reads) -> Added:
    graph, total = reads.graph, None
    for place, (member, weight) in enumerate(zip(solution.members.values(), solution.weights.tolist(), strict=True)):
        value = add_solution(member, reads).value
        if solution.calibrations:
            value = _calibrated(graph, value, solution.calibrations[place])
        part = graph.add("Mul", value, weight)
        total = part if total is None else graph.add("Add", total, part)
    assert total is not None
    return Added(total)


def _calibrated(graph: Graph, probability: str, calibration: Calibration) -> str:
    """See `Calibration.apply`."""
    logs = graph.add("Log", graph.add("Max", probability, LEAST))
    scores = graph.add("Mul", logs, 1 / calibration.temperature)
    known = graph.add("Where", np.array([calibration.present]), scores, np.array([[-np.inf]]))
    return graph.add("Softmax", known, axis=1)

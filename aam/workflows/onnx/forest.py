"""A forest as operators, from the arrays that aam keeps of it.

skl2onnx begins from objects of scikit-learn, which checkpoints do not hold. A leaf of the operator has one number, so
that it is made to tell in which leaf of each tree a sample ends; what leaves predict is looked up and averaged in
double precision. Features and thresholds are float32, as in `Forest`, and divide samples as there.

Shapes: m samples, T trees, N nodes, I inner ones, L leaves, K numbers of a leaf.
"""

from typing import Any, Final

import numpy as np
from onnx import TensorProto, numpy_helper

from aam.data.arrays import Ints
from aam.learners.trees import LEAF, Forest
from aam.workflows.onnx.graph import Graph

_AT_MOST: Final = 0
"""BRANCH_LEQ of the operator: to the true side at or below the threshold."""


def add_forest(graph: Graph, forest: Forest, features: str) -> str:
    """Mean of the trees: double [m, columns] -> [m, K]."""
    is_leaf = forest.left == LEAF
    tree = np.repeat(np.arange(len(forest.root)), np.diff([*forest.root, len(is_leaf)]))
    leaves = np.bincount(tree[is_leaf], minlength=len(forest.root))
    first = np.cumsum(leaves) - leaves
    single = graph.add("Cast", features, to=TensorProto.FLOAT)
    found = graph.add("Cast", graph.trees(single, **_attributes(forest, tree, first)), to=TensorProto.INT64)
    values = graph.add("Gather", forest.value[is_leaf], graph.add("Add", found, first), axis=0)
    return graph.add("ReduceMean", values, [1], keepdims=0)


def _attributes(forest: Forest, tree: Ints, first: Ints) -> dict[str, Any]:
    """What the operator is told; each tree adds the number of a leaf, counted from its own first one, to its column."""
    is_leaf = forest.left == LEAF
    inner, leaf = np.flatnonzero(~is_leaf), np.flatnonzero(is_leaf)
    place = np.where(is_leaf, np.cumsum(is_leaf), np.cumsum(~is_leaf)) - 1
    true, false = (forest.root[tree[inner]] + side[inner] for side in (forest.left, forest.right))
    # a tree of one leaf begins with a node, both sides of which are that leaf
    alone = forest.root[is_leaf[forest.root]]
    root = place[forest.root]
    root[is_leaf[forest.root]] = len(inner) + np.arange(len(alone))
    true, false = np.r_[true, alone], np.r_[false, alone]
    none = np.zeros(len(alone))
    return {
        "n_targets": len(forest.root),
        "tree_roots": root.tolist(),
        "nodes_modes": numpy_helper.from_array(np.full(len(true), _AT_MOST, np.uint8)),
        "nodes_featureids": np.r_[forest.feature[inner], none].astype(int).tolist(),
        "nodes_splits": numpy_helper.from_array(np.r_[forest.threshold[inner], none].astype(np.float32)),
        "nodes_truenodeids": place[true].tolist(),
        "nodes_trueleafs": is_leaf[true].astype(int).tolist(),
        "nodes_falsenodeids": place[false].tolist(),
        "nodes_falseleafs": is_leaf[false].astype(int).tolist(),
        "leaf_targetids": tree[leaf].tolist(),
        "leaf_weights": numpy_helper.from_array((np.arange(len(leaf)) - first[tree[leaf]]).astype(np.float32)),
    }

"""Contributions of ASVs to the predictions of forests: Shapley values of their features (TreeSHAP, by shap).

A sample is compared with one baseline at a time: features are those of the sample or of the baseline, in every
combination (interventional; Lundberg et al. 2020, Janzing, Minorics and Bloebaum 2020), so that the sum is exact.

Shapes: K baselines, A ASVs of the study, F features, S ASVs that the sample or the baseline holds, C numbers of a leaf.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from aam.data.distances.unifrac import StudyTree
from aam.data.study import Study
from aam.errors import InputError
from aam.interpret.contributions import Contributions, contributions
from aam.learners.base import Floats, Rows
from aam.learners.trees import CladesSolution, Forest, ForestSolution

if TYPE_CHECKING:
    from shap import TreeExplainer


def require(package: str) -> None:
    """Refuse to go on without an optional package.

    Raises:
        InputError: it is not installed.
    """
    if find_spec(package) is None:
        raise InputError(f"attribution of this model needs the package {package}: pip install 'aam[explain]'")


@contributions.register
def _(solution: ForestSolution, study: Study, row: int, background: Rows) -> Contributions:
    """Of the log-ratio of an ASV, to the ASV."""
    shares, explained, baseline = _shapley_values(solution, study, row, background)
    value = np.zeros((len(background), study.table.n_asvs, shares.shape[2]))
    value[:, solution.columns] = shares
    return Contributions(value, explained, baseline)


@contributions.register
def _(solution: CladesSolution, study: Study, row: int, background: Rows) -> Contributions:
    """Of a clade, to the ASVs that make it larger (or smaller) than in the baseline, by their reads."""
    tree = study.require_tree()
    shares, explained, baseline = _shapley_values(solution, study, row, background)
    value = np.zeros((len(background), study.table.n_asvs, shares.shape[2]))
    proportions = study.asv_proportions
    for place, other in enumerate(background.tolist()):
        difference = (proportions[[row]] - proportions[[other]]).toarray()[0]
        held = np.flatnonzero(difference)
        value[place, held] = divided(difference[held], below(tree, held, solution.columns)) @ shares[place]
    return Contributions(value, explained, baseline)


def below(tree: StudyTree, asvs: Rows, branches: Rows) -> Floats:
    """Which ASVs lie below which branches: 1 or 0 [S, F]."""
    rank = tree.rank[asvs][:, None]
    return ((rank >= tree.start[branches]) & (rank < tree.stop[branches])).astype(np.float64)


def divided(difference: Floats, lies_below: Floats) -> Floats:
    """How what a clade contributes is divided among ASVs, with sum 1 for each clade that differs [S, F].

    Args:
        difference: of the proportions of ASVs [S].
        lies_below: as of `below` [S, F].
    """
    more, less = (lies_below * np.maximum(part, 0.0)[:, None] for part in (difference, -difference))
    grows = more.sum(axis=0) > less.sum(axis=0)
    weight = np.where(grows, more, less)
    total = weight.sum(axis=0)
    fraction: Floats = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    return fraction


def _shapley_values(
    solution: ForestSolution, study: Study, row: int, background: Rows
) -> tuple[Floats, Floats, Floats]:
    """Of the features [K, F, C], and the predictions of the sample [C] and of the baselines [K, C]."""
    features = solution.features(study, np.r_[row, background], solution.columns)
    predicted = solution.forest.predict(features).reshape(len(features), -1)
    explainers = _explainers(solution, study, tuple(background.tolist()))
    single = features[:1].astype(np.float32)
    values = [one.shap_values(single, check_additivity=False).reshape(features.shape[1], -1) for one in explainers]
    return np.stack(values), predicted[0], predicted[1:]


@lru_cache(maxsize=8)
def _explainers(solution: ForestSolution, study: Study, background: tuple[int, ...]) -> "list[TreeExplainer]":
    """One for each baseline; all samples of a study are explained by the same."""
    require("shap")
    from shap import TreeExplainer  # noqa: PLC0415  # optional

    features = solution.features(study, np.array(background), solution.columns).astype(np.float32)
    model = as_shap(solution.forest)
    return [TreeExplainer(model, row[None], feature_perturbation="interventional") for row in features]


def as_shap(forest: Forest) -> dict[str, Any]:
    """The trees in the form that shap reads: arrays for each, the values of leaves divided by the number of trees."""
    ends = np.r_[forest.root[1:], len(forest.left)]
    trees = []
    for start, end in zip(forest.root.tolist(), ends.tolist(), strict=True):
        part = slice(start, end)
        trees.append(
            {
                "children_left": forest.left[part],
                "children_right": forest.right[part],
                "children_default": forest.left[part],
                "features": forest.feature[part],
                "thresholds": forest.threshold[part].astype(np.float64),
                "values": forest.value[part] / len(forest.root),
                "node_sample_weight": np.ones(end - start),
            }
        )
    return {"trees": trees, "input_dtype": np.float32, "internal_dtype": np.float64, "tree_output": "raw_value"}

"""Every learner by name: how it is made of its options, and how its solutions are read back.

A new learner is a line here. The network is not among them, as training it is the business of a floor above; that
floor gives its own maker to `make_learner` and adds its solutions to `SOLUTIONS`.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from aam.config.learners import LearnersConfig
from aam.errors import InputError
from aam.learners.base import Arrays, Learner, Solution
from aam.learners.ensemble import EnsembleLearner, EnsembleSolution
from aam.learners.kernel import KernelLearner
from aam.learners.kernel_solution import KernelSolution
from aam.learners.kernel_sources import wanted_columns
from aam.learners.linear import LinearLearner, LinearSolution
from aam.learners.simple import DepthLearner, DepthSolution, NullLearner, NullSolution
from aam.learners.trees import CladesLearner, CladesSolution, ForestLearner, ForestSolution

logger = logging.getLogger(__name__)

Maker = Callable[[LearnersConfig], Learner]

MAKERS: Final[Mapping[str, Maker]] = {
    "null": lambda _: NullLearner(),
    "depth": lambda _: DepthLearner(),
    "linear": lambda config: LinearLearner(config.linear, config.trees),
    "forest": lambda config: ForestLearner(config.trees),
    "clades": lambda config: CladesLearner(config.trees),
    "kernel": lambda config: KernelLearner(config.kernel, wanted_columns(config)),
}
SOLUTIONS: Final[dict[str, type[Solution]]] = {
    "null": NullSolution,
    "depth": DepthSolution,
    "linear": LinearSolution,
    "forest": ForestSolution,
    "clades": CladesSolution,
    "kernel": KernelSolution,
    "ensemble": EnsembleSolution,
}


def make_learner(
    name: str, config: LearnersConfig, has_tree: bool = True, more: Mapping[str, Maker] | None = None
) -> Learner:
    """Make a learner of its options.

    Args:
        name: which one.
        config: the options of all.
        has_tree: whether the study has a tree; members of an ensemble that need one are left out without, saying so.
        more: makers of learners that are not made here, by name.

    Raises:
        InputError: there is no such learner, or it needs a tree and there is none.
    """
    makers = {**MAKERS, **(more or {})}
    if name == "ensemble":
        return _ensemble(config, has_tree, more)
    if name not in makers:
        raise InputError(f"there is no learner {name!r}; known are {', '.join([*makers, 'ensemble'])}")
    learner = makers[name](config)
    if learner.needs_tree and not has_tree:
        raise InputError(f"the learner {name} reads clades of the phylogeny: give --tree")
    return learner


def _ensemble(config: LearnersConfig, has_tree: bool, more: Mapping[str, Maker] | None) -> EnsembleLearner:
    made = {**MAKERS, **(more or {})}
    needy = [name for name in config.ensemble.ensemble_members if made[name](config).needs_tree and not has_tree]
    members = [name for name in config.ensemble.ensemble_members if name not in needy]
    if not members:
        raise InputError(f"all members of the ensemble ({', '.join(needy)}) read clades of the phylogeny: give --tree")
    if needy:
        logger.warning("without --tree the ensemble goes without %s", ", ".join(needy))
    return EnsembleLearner(tuple(make_learner(name, config, has_tree, more) for name in members), config.ensemble)


def restore_solution(name: str, settings: Mapping[str, Any], arrays: Arrays) -> Solution:
    """Rebuild what a learner has learned of one column.

    Raises:
        InputError: it is of a learner that is not known here.
    """
    if name not in SOLUTIONS:
        raise InputError(f"the model holds a learner {name!r}, which this part of aam does not know: use `aam predict`")
    return SOLUTIONS[name].restore(settings, arrays)

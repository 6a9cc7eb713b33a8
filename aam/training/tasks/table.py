"""The tasks of pretraining, in the order in which their losses are reported. Another one is another line."""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from aam.config import ModelConfig, PretrainLossConfig
from aam.data.arrays import Ints
from aam.data.study import Study
from aam.training.tasks.abundances import PretrainingAbundances
from aam.training.tasks.distances import UnifracTask
from aam.training.tasks.faith_pd import FaithPdTask
from aam.training.tasks.nucleotides import NucleotideTask
from aam.training.tasks.pretraining import Given, PretrainingTask
from aam.training.tasks.taxonomy import TaxonomyTask

TASKS: Final[tuple[type[PretrainingTask], ...]] = (
    UnifracTask,
    NucleotideTask,
    FaithPdTask,
    TaxonomyTask,
    PretrainingAbundances,
)


def learned(losses: PretrainLossConfig) -> list[type[PretrainingTask]]:
    """The tasks whose loss has a weight."""
    return [kind for kind in TASKS if losses.learns(kind.name)]


def learn_documents(losses: PretrainLossConfig, study: Study, train: Ints) -> dict[str, Any]:
    """What heads are built from, learned from the training samples; see `PretrainingTask.learn`."""
    documents: dict[str, Any] = {}
    for kind in learned(losses):
        documents |= kind.learn(study, train)
    return documents


def heads_of(losses: PretrainLossConfig, model: ModelConfig, documents: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Heads by the names of their tasks."""
    heads = {kind.name: kind.head(model, documents) for kind in learned(losses)}
    return {name: head for name, head in heads.items() if head is not None}


def build_tasks(given: Given) -> list[PretrainingTask]:
    """Make all tasks of a run."""
    return [kind(given) for kind in learned(given.config.losses)]

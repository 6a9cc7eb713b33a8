"""Sections of the learners besides the network, which read the whole table and the tree."""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import Names, Positive, RunConfig, Section
from aam.config.categories import CategoryColumnsConfig
from aam.config.kernel import KernelConfig

LearnerName = Literal["null", "depth", "linear", "forest", "clades", "kernel", "ensemble", "neural"]
Penalty = Literal["l2", "l1", "elasticnet"]
MEMBERS = ("clades", "kernel", "linear")
"""Learners that an ensemble averages unless others are named."""


class TreesConfig(Section):
    """Random forests on ASVs (forest) and extra trees on clades (clades)."""

    panel: ClassVar[str] = "Forest and clades"

    trees: Positive = 500
    """Trees of a forest."""
    min_prevalence: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Fraction of the training samples that must hold an ASV or a clade for it to be looked at; linear uses it too."""


class LinearConfig(Section):
    """Ridge or logistic regression."""

    panel: ClassVar[str] = "Linear"

    linear_penalty: Penalty = "l2"
    """Penalty on the coefficients: l2 (ridge), l1 (few ASVs), or elasticnet (half of each)."""


class EnsembleConfig(Section):
    """The mean of several learners."""

    panel: ClassVar[str] = "Ensemble"

    ensemble_members: Names = MEMBERS
    """Learners that are averaged."""
    ensemble_weights: Literal["stack", "mean"] = "stack"
    """Weigh members by how well they predict groups that they have not seen (stack, half of it), or all alike."""

    @model_validator(mode="after")
    def _members_are_learners(self) -> Self:
        known = ("null", "depth", "linear", "forest", "clades", "kernel", "neural")
        unknown = [name for name in self.ensemble_members if name not in known]
        if unknown or not self.ensemble_members:
            named = f"{', '.join(unknown)} is no learner" if unknown else "no learner is named"
            raise ValueError(f"--ensemble-members: {named}; known are {', '.join(known)}")
        if len(set(self.ensemble_members)) < len(self.ensemble_members):
            raise ValueError(f"--ensemble-members {','.join(self.ensemble_members)} names a learner twice")
        return self


class LearnersConfig(RunConfig):
    """The options of all learners besides the network."""

    trees: TreesConfig = TreesConfig()
    linear: LinearConfig = LinearConfig()
    kernel: KernelConfig = KernelConfig()
    categories: CategoryColumnsConfig = CategoryColumnsConfig()
    ensemble: EnsembleConfig = EnsembleConfig()


SECTIONS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "neural": (),
    "null": (),
    "depth": (),
    "linear": ("linear", "trees"),
    "forest": ("trees",),
    "clades": ("trees",),
    "kernel": ("kernel", "categories"),
    "ensemble": ("trees", "linear", "kernel", "ensemble"),
}
"""Sections of `LearnersConfig` that a learner reads."""
SECTIONS_OF_NETWORK: Final = ("finetune", "model", "optim")
"""Sections that the network reads as one learner among others."""


READ_BY_KERNEL: Final[Mapping[str, frozenset[str]]] = {
    "kernel": frozenset({"numeric_columns"}),
    "categories": frozenset(CategoryColumnsConfig.model_fields),
    "finetune": frozenset({"pretrained_encoder"}),
}
"""Options about metadata and encoders that the kernel reads, by itself or in an ensemble, by section."""


def fitted_learners(learners: Iterable[str], ensemble: EnsembleConfig) -> tuple[str, ...]:
    """Some learners, with the members of an ensemble that is among them."""
    names = tuple(learners)
    return (*names, *ensemble.ensemble_members) if "ensemble" in names else names


def has_network(learners: Iterable[str], ensemble: EnsembleConfig) -> bool:
    """Whether the network is among some learners, or a member of an ensemble that is."""
    return "neural" in fitted_learners(learners, ensemble)

"""Learners besides the network, for the estimators: from arguments of `fit` to what `aam train --learner` does."""

from __future__ import annotations  # what annotations alone name is not imported

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aam.config import RootChoice, SamplingConfig, TargetSamplingConfig, TrainConfig, UnifracConfig
from aam.data.distances.phylogeny import LengthChoices, Phylogeny
from aam.errors import InputError
from aam.estimators.inputs import TreeLike, as_phylogeny

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from aam.data.labels.target_table import Targets
    from aam.data.study import Study
    from aam.learners.storage import LearnerSpec, TrainedLearner
    from aam.training.checkpoints.store import Checkpoint
    from aam.workflows.restore import Restored

Trained: TypeAlias = "Restored | TrainedLearner"
"""What `fit` leaves: the network, or another learner."""


def is_learner(trained: Trained) -> TypeIs[TrainedLearner]:
    """Whether a model is another learner than the network."""
    from aam.learners.storage import TrainedLearner

    return isinstance(trained, TrainedLearner)


def with_tree(study: Study, tree: TreeLike | None, config: TrainConfig, sampling: TargetSamplingConfig) -> Study:
    """The study with the tree that learners read, if there is one.

    Raises:
        InputError: the tree is wrong, or lacks ASVs of the study.
    """
    if tree is None:
        return study
    from aam.data.study import with_phylogeny

    inputs = config.inputs
    phylogeny = as_phylogeny(tree, LengthChoices.of(inputs), inputs.root)
    return with_phylogeny(study, phylogeny, sampling, UnifracConfig(), inputs.drop_missing_tips)


def placement_tree(
    trained: Trained, tree: TreeLike | None, lengths: LengthChoices, root: RootChoice
) -> Phylogeny | None:
    """The tree that puts new ASVs on the branches of a model, if there is one.

    Raises:
        InputError: the tree is wrong, or the model reads no branches.
    """
    if tree is None:
        return None
    if is_learner(trained):
        trained.check_reads_branches()
        return as_phylogeny(tree, lengths, root)
    from aam.workflows.predict import NETWORK_READS_NO_TREE

    raise InputError(NETWORK_READS_NO_TREE)


def read_trained(path: Path) -> tuple[Trained, Mapping[str, Any]]:
    """Read a checkpoint of any kind.

    Returns:
        The model, and the documents of the checkpoint.

    Raises:
        InputError: no whole checkpoint is there, or it is of another version of aam.
    """
    from aam.training.checkpoints.store import read_checkpoint
    from aam.workflows.makers import read_learner
    from aam.workflows.restore import restored

    checkpoint = read_checkpoint(path)
    trained = read_learner(checkpoint) if checkpoint.kind == "learner" else restored(checkpoint)
    return trained, checkpoint.documents


def as_checkpoint(trained: Trained) -> Checkpoint:
    """The checkpoint of a model of any kind."""
    from aam.learners.storage import checkpoint_of as checkpoint_of_learner
    from aam.workflows.restore import checkpoint_of

    return checkpoint_of_learner(trained) if is_learner(trained) else checkpoint_of(trained)


def targets_of(trained: Trained) -> Targets | None:
    """What a model predicts; None for an encoder."""
    return trained.fitted.targets if is_learner(trained) else trained.targets


def require_targets(trained: Trained) -> Targets:
    """What a model predicts, where a caller cannot do without."""
    return trained.fitted.targets if is_learner(trained) else trained.require_targets()


def network_of(trained: Trained) -> Restored:
    """The network.

    Raises:
        InputError: the model is another learner.
    """
    if is_learner(trained):
        raise InputError(
            f"the model is a learner of the kind {trained.name}, which has no embeddings: only the network has "
            '(learner="neural")'
        )
    return trained


def sampling_of(trained: Trained) -> TargetSamplingConfig:
    """Which samples of a table a model can use; learners draw reads by themselves."""
    return SamplingConfig() if is_learner(trained) else trained.config.sampling


def options_of(spec: LearnerSpec) -> dict[str, Any]:
    """Flat options that a learner was trained with, as far as its checkpoint tells."""
    drawn = spec.rarefaction
    sampled = {} if drawn.depth is None else {"rarefy_depth": drawn.depth, "rarefy_draws": drawn.draws}
    return {**spec.options, **sampled, "learner": spec.learner, "seed": drawn.seed}

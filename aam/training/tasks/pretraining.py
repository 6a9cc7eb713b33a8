"""What the tasks of pretraining are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from aam.config import ModelConfig, PretrainConfig
from aam.data.arrays import Ints
from aam.data.sampling.dataset import FixedBatches
from aam.data.study import Study
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import EncoderOutput
from aam.training.inputs import Inputs
from aam.training.machine.compute import Compute
from aam.training.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Given:
    """Everything that a task of pretraining may need."""

    config: PretrainConfig
    study: Study
    train: Ints
    """Rows of the training samples."""
    held_out: FixedBatches
    """The validation samples."""
    model: SequenceEncoder
    inputs: Inputs
    compute: Compute


class PretrainingTask(Task[EncoderOutput]):
    """A task without labels, made of a study; `head` makes what the model needs for it."""

    def __init__(self, given: Given) -> None:
        self.weight = given.config.losses.weights[self.name]
        self.seed = given.config.runtime.seed
        self.held_out = given.held_out
        self.model, self.inputs, self.compute = given.model, given.inputs, given.compute

    @classmethod
    def learn(cls, study: Study, train: Ints) -> dict[str, Any]:
        """What its head is built from and a checkpoint keeps, as JSON by name, learned from the training samples.

        Raises:
            InputError: there is nothing to learn.
        """
        return {}

    @classmethod
    def head(cls, model: ModelConfig, documents: Mapping[str, Any]) -> nn.Module | None:
        """Its head, on embeddings of a model, from what `learn` gave; a `Head` of the name of the task, or None."""
        return None

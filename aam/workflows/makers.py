"""Learners and their checkpoints with all that lies on this floor: the network, and encoders that learners read."""

from functools import cache

from aam.config import EvaluateConfig, LearnersConfig, TrainConfig
from aam.learners.base import Learner
from aam.learners.kernel import KernelLearner
from aam.learners.kernel_sources import wanted_columns
from aam.learners.registry import Maker
from aam.learners.storage import TrainedLearner, learner_of
from aam.training.checkpoints.store import Checkpoint
from aam.workflows import neural_solution  # noqa: F401  # so that ensembles with the network can be read
from aam.workflows.encoder_source import WantedEmbedding


def makers(config: EvaluateConfig | TrainConfig) -> dict[str, Maker]:
    """What `make_learner` needs besides: how the network is made, and the kernel where it reads an encoder."""
    made: dict[str, Maker] = {"neural": lambda _: _network(config)}
    path = config.finetune.pretrained_encoder
    if path is None:
        return made
    device = config.runtime.device if isinstance(config, TrainConfig) else "auto"

    @cache
    def encoder() -> WantedEmbedding:
        return WantedEmbedding.read(path, device)

    def kernel(options: LearnersConfig) -> KernelLearner:
        return KernelLearner(options.kernel, (*wanted_columns(options), encoder()))

    return made | {"kernel": kernel}


def _network(config: EvaluateConfig | TrainConfig) -> Learner:
    from aam.workflows.neural_learner import NeuralLearner  # noqa: PLC0415  # with all of the training, which predicting does without

    return NeuralLearner.of(config)


def read_learner(checkpoint: Checkpoint) -> TrainedLearner:
    """Rebuild a learner from its checkpoint, with the network or an encoder where it holds one.

    Raises:
        InputError: another aam wrote it.
    """
    return learner_of(checkpoint)

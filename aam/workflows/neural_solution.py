"""What the network has learned as one learner among others: predicts, is stored and read back without the training.

Shapes: m samples to predict, C classes.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch

from aam.data.study import Study
from aam.learners.base import Arrays, Output, Rows, Solution
from aam.learners.registry import SOLUTIONS
from aam.training.checkpoints.store import Checkpoint
from aam.training.distributed import World
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import device_for
from aam.workflows.predict_network import predict_study
from aam.workflows.restore import Restored, restored

BATCH: Final = 64
"""Samples that are predicted together; part of what a prediction is, to the last bit."""


@dataclass(eq=False)
class NeuralSolution(Solution):
    """The network with its best weights."""

    trained: Restored
    classes: int
    """0 where numbers are predicted."""

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict samples; classes that no sample of the training had get probability 0."""
        value = np.zeros((len(rows), self.classes) if self.classes else len(rows))
        if not len(rows):
            return Output(value)
        part = Study(study.table.select_samples(rows))
        config = self.trained.config
        with quiet(), World(device_for(config.runtime.device)) as world:
            table = predict_study(self.trained, part, BATCH, Compute.of(world, config.runtime))
        if self.classes:
            value[:, self.places] = table.filter(like="probability_").to_numpy(np.float64)
        else:
            value[:] = table["prediction"]
        return Output(value)

    @property
    def places(self) -> list[int]:
        """Place of every class that the network knows."""
        return [int(name) for name in self.trained.require_targets().only.require_classes().classes]

    def arrays(self) -> Arrays:
        """The weights."""
        return {name: tensor.cpu().numpy() for name, tensor in self.trained.model.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        """The options of the training, and its target."""
        return {
            "config": self.trained.config.model_dump(mode="json"),
            "targets": self.trained.require_targets().to_json(),
            "classes": self.classes,
        }

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild the network.

        Raises:
            InputError: its options are those of another version of aam.
        """
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
        checkpoint = Checkpoint("train", settings["config"], {"targets": settings["targets"]}, weights)
        return cls(restored(checkpoint), settings["classes"])


SOLUTIONS["neural"] = NeuralSolution


@contextmanager
def quiet() -> Iterator[None]:
    """Let aam say errors alone: what a training would say would be said for every fold of every fold."""
    package = logging.getLogger("aam")
    before = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(before)

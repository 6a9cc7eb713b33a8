"""Faith's PD of samples, learned on the logarithm of 1 + PD."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from aam.config import ModelConfig
from aam.data.distances.unifrac import faith_pd
from aam.data.sampling.samples import SampleBatch, Samples
from aam.models.heads import FaithPdHead
from aam.models.types import EncoderOutput
from aam.training.metrics import Better, RegressionMetrics
from aam.training.tasks.base import Judged, Microbatch, OfStep
from aam.training.tasks.pretraining import Given, PretrainingTask


class FaithPdTask(PretrainingTask):
    """Squared error over samples."""

    name = "faith_pd"
    metrics: ClassVar[Better] = {f"faith_pd_{name}": better for name, better in RegressionMetrics.better.items()}

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.tree = given.study.require_tree()

    @classmethod
    def head(cls, model: ModelConfig, documents: Mapping[str, Any]) -> nn.Module:
        """See `PretrainingTask`."""
        return FaithPdHead(model.sample_dim)

    def loss(self, output: EncoderOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        assert micro.step.faith_pd is not None
        predicted = output.heads["faith_pd"][micro.batch.real]
        true = micro.step.faith_pd[micro.own].to(predicted.dtype)
        return (predicted - true.log1p()).square().sum() / sum(micro.step.sizes)

    def judge(self, output: EncoderOutput, batch: SampleBatch, samples: Samples) -> Tensor:
        """Predictions [B, 1]."""
        return output.heads["faith_pd"].double()[:, None]

    def validate(self, rows: Tensor) -> Judged:
        """Loss, on the logarithm, and metrics in the tree's unit of length."""
        predicted, true = rows[:, 0], faith_pd(self.tree, self.held_out.drawn, self.compute.device)
        metrics = RegressionMetrics()
        metrics.update(predicted.expm1(), true)
        loss = float((predicted - true.log1p()).square().mean())
        return Judged(loss, {f"faith_pd_{name}": value for name, value in metrics.compute().items()})

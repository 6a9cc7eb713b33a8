"""Masked abundances: the log relative abundance of some ASVs of a sample, from the others and from which they are.

Shapes: B samples, S ASVs in a sample.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aam.config import ModelConfig, TrainConfig
from aam.data.sampling.samples import SampleBatch, Samples
from aam.data.sampling.seeded import derived_seed, uniforms
from aam.models.distance_link import at_least_single
from aam.models.heads import AbundanceHead
from aam.models.types import EncoderOutput, PredictorOutput
from aam.training.inputs import Inputs
from aam.training.losses import count_errors
from aam.training.metrics import Better
from aam.training.tasks.base import Judged, Microbatch, OfStep, Task
from aam.training.tasks.pretraining import Given, PretrainingTask


class MaskedAbundances:
    """Which abundances are masked, and the error of predicting them; shared by pretraining and fine-tuning."""

    metrics: ClassVar[Better] = {}
    inputs: Inputs
    fraction: float
    """Of a sample's ASVs that are masked."""
    seed: int

    def mask(self, samples: Samples, batch: SampleBatch, step: int | str) -> Samples:
        """Mask abundances by (seed, step, sample, ASV): bool [B, S]."""
        asv_keys, sample_keys = self.inputs.asv_keys, self.inputs.sample_keys
        keys = sample_keys[batch.sample][:, None] ^ asv_keys[batch.asv][batch.asv_index]
        draw = uniforms(derived_seed(self.seed, "hide abundances", step), keys.flatten(), 1).view(keys.shape)
        masked = (draw < self.fraction) & ~batch.padding & (not batch.is_padding)
        return samples._replace(masked_abundances=masked)

    def weigh(self, micro: Microbatch) -> Tensor:
        """How many are masked; see `Task`."""
        assert micro.samples.masked_abundances is not None
        return micro.samples.masked_abundances.sum().double()[None]

    def _loss(self, predicted: Tensor, micro: Microbatch, of_step: OfStep) -> Tensor:
        return self._errors(predicted, micro.batch, micro.samples).sum() / of_step.total[0].clamp_min(1)

    def _judge(self, predicted: Tensor, batch: SampleBatch, samples: Samples) -> Tensor:
        """Sum of errors, and how many were masked [B, 2]."""
        assert samples.masked_abundances is not None
        errors = self._errors(predicted, batch, samples).double().sum(1)
        return torch.stack([errors, samples.masked_abundances.sum(1)], dim=1)

    def validate(self, rows: Tensor) -> Judged:
        """Mean error of masked abundances."""
        error_sum, masked = rows.sum(0).tolist()
        return Judged(error_sum / max(1.0, masked), {})

    def _errors(self, predicted: Tensor, batch: SampleBatch, samples: Samples) -> Tensor:
        """Squared errors of the logarithm, 0 where nothing is masked [B, S]."""
        assert samples.masked_abundances is not None
        errors = count_errors(at_least_single(predicted), batch.counts / batch.depth[:, None])
        return errors * samples.masked_abundances


class PretrainingAbundances(MaskedAbundances, PretrainingTask):
    """Masked abundances as a task of pretraining."""

    name = "abundance"

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.fraction = given.config.losses.abundance_mask_ratio

    @classmethod
    def head(cls, model: ModelConfig, documents: Mapping[str, Any]) -> nn.Module:
        """See `PretrainingTask`."""
        return AbundanceHead(model.embedding_dim)

    def loss(self, output: EncoderOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        return self._loss(output.heads[self.name], micro, of_step)

    def judge(self, output: EncoderOutput, batch: SampleBatch, samples: Samples) -> Tensor:
        """See `Task`."""
        return self._judge(output.heads[self.name], batch, samples)


class TargetAbundances(MaskedAbundances, Task[PredictorOutput]):
    """Masked abundances beside the columns of fine-tuning."""

    name = "count"

    def __init__(self, inputs: Inputs, config: TrainConfig) -> None:
        self.inputs, self.seed = inputs, config.runtime.seed
        self.weight, self.fraction = config.target.count_weight, config.target.count_mask_ratio

    def loss(self, output: PredictorOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        assert output.abundances is not None
        return self._loss(output.abundances, micro, of_step)

    def judge(self, output: PredictorOutput, batch: SampleBatch, samples: Samples) -> Tensor:
        """See `Task`."""
        assert output.abundances is not None
        return self._judge(output.abundances, batch, samples)

"""Metadata columns of samples.

Shapes: B samples, T targets (columns to predict), K outputs over all targets.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aam.config import TrainConfig
from aam.data.arrays import Floats
from aam.data.labels.target_table import Targets
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.samples import SampleBatch, Samples
from aam.models.distance_link import at_least_single
from aam.models.types import PredictorOutput
from aam.training.losses import RegressionLoss, class_errors, target_loss
from aam.training.metrics import Better
from aam.training.tasks.base import Judged, Microbatch, OfStep, Task
from aam.training.tasks.target_metrics import better_metrics, score


@dataclass(frozen=True, eq=False)
class TargetTable:
    """The targets of every sample of the table, on the device, and the truth as users read it."""

    targets: Targets
    value: Tensor
    """[samples, T], scaled numbers (float32) or class indices (int64); 0 where missing."""
    weight: Tensor
    """float32 [samples, T], weight of the sample in the loss; 0 where missing."""
    true: pd.DataFrame
    """[samples, T], in the targets' own units."""
    metadata: pd.DataFrame
    """By sample."""


class TargetTask(Task[PredictorOutput]):
    """Mean over targets of the weighted means of errors over samples."""

    name = "target"

    def __init__(self, table: TargetTable, config: TrainConfig, held_out: FixedBatches) -> None:
        target = config.target
        self.weight = target.target_weight
        self.table, self.targets = table, table.targets
        self.held_out = held_out
        self.label_smoothing = target.label_smoothing
        self.losses = [
            RegressionLoss(column.loss, column.quantiles, target.over_penalty, target.under_penalty)
            for column in self.targets.columns
        ]

    @property
    def outputs(self) -> list[int]:
        """Numbers that the model gives for each target."""
        return [column.outputs for column in self.targets.columns]

    def weigh(self, micro: Microbatch) -> Tensor:
        """Weights of the samples, of each target [T]; see `Task`."""
        return self.table.weight[micro.batch.sample[micro.batch.real]].double().sum(0)

    def loss(self, output: PredictorOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        real = micro.batch.real
        return self.loss_of(at_least_single(output.prediction[real]), micro.batch.sample[real], of_step.total)

    def loss_of(self, prediction: Tensor, sample: Tensor, total: Tensor) -> Tensor:
        """Loss of predictions [B, K] for rows [B] of the table; total: weights [T] of all that it is the mean over."""
        true, weight = self.table.value[sample], self.table.weight[sample]
        if self.targets.is_classes:
            errors = class_errors(prediction, true[:, 0], self.label_smoothing)[:, None]
        else:
            parts = zip(self.losses, torch.split(prediction, self.outputs, dim=1), true.T, strict=True)
            errors = torch.stack([loss.errors(part, each) for loss, part, each in parts], dim=1)
        return target_loss(errors, weight, total)

    def judge(self, output: PredictorOutput, batch: SampleBatch, samples: Samples) -> Tensor:
        """What the model gives for samples [B, K]."""
        return output.prediction.double()

    def validate(self, rows: Tensor) -> Judged:
        """Metrics on all validation samples, in the targets' own units."""
        samples = torch.from_numpy(self.held_out.samples).to(rows.device)
        total = self.table.weight[samples].sum(0)
        loss = float(self.loss_of(rows.float(), samples, total))
        outputs = rows.cpu().numpy()
        return Judged(loss, score(self.targets, self.decode(outputs, self.held_out), self.truth(self.held_out)))

    @property
    def metrics(self) -> Better:
        """See `Task`."""
        return better_metrics(self.targets)

    def truth(self, batches: FixedBatches) -> pd.DataFrame:
        """True values of samples, in their order and their own units."""
        return self.table.true.iloc[batches.samples]

    def decode(self, outputs: Floats, batches: FixedBatches) -> pd.DataFrame:
        """Make a table of predictions of what the model gives for samples [samples, K]."""
        return self.targets.decode(outputs, self.table.metadata.iloc[batches.samples])

    def documents(self) -> dict[str, Any]:
        """See `Task`."""
        return {"targets": self.targets.to_json()}

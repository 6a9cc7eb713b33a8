"""Fine-tuning: a metadata column from samples, and hidden abundances beside it.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, K outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aam.config import TrainConfig
from aam.data.addressed import address_hash, address_keys, uniforms
from aam.data.dataset import FixedBatches, SampleBatch, StepBatch
from aam.data.sequences import sequence_keys
from aam.data.target_column import TargetColumn
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import PredictorOutput
from aam.training.compute import Compute
from aam.training.inference import embed_samples
from aam.training.losses import MultiTaskLoss, at_least_single, class_loss, count_loss, target_loss
from aam.training.metrics import ClassificationMetrics, Metrics, RegressionMetrics
from aam.training.objective import Scale


@dataclass(frozen=True, eq=False)
class TargetTable:
    """The target of every sample of the table, on the device."""

    column: TargetColumn
    value: Tensor
    """[samples], scaled numbers (float32) or class indices (int64)."""
    weight: Tensor
    """float32 [samples], weight of the sample in the loss."""


class TargetObjective:
    """A metadata column, and hidden abundances where the model has a head for them.

    Args:
        model: encoder and heads; with a frozen encoder its ASVs are embedded once, here.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        targets: target and weight of every sample.
        config: losses, weights and seed.
        compute: device and precision.
        held_out: samples to validate on.
    """

    def __init__(
        self,
        model: SequencePredictor,
        nucleotides: Tensor,
        targets: TargetTable,
        config: TrainConfig,
        compute: Compute,
        held_out: FixedBatches,
    ) -> None:
        self.model = model
        self.nucleotides = nucleotides
        self.targets = targets
        self.config = config
        self.compute = compute
        self.held_out = held_out
        self.loss = MultiTaskLoss(
            {"target_loss": config.target.target_weight, "count_loss": config.target.count_weight}
        )
        table = held_out.draws.table
        self.sample_keys = torch.from_numpy(address_keys(table.sample_ids)).to(compute.device)
        self.asv_keys = torch.from_numpy(sequence_keys(table.sequences)).to(compute.device)
        self.asv_embedding = self._embed_frozen() if config.finetune.freeze_base else None

    def _embed_frozen(self) -> Tensor:
        self.model.eval()  # no dropout in what is kept for the whole run
        with torch.no_grad(), self.compute.autocast():
            embedding = self.model.encoder.embed_asvs(self.nucleotides)
        self.model.train()
        return embedding

    def backward(self, step: StepBatch, scale: Scale) -> dict[str, Tensor]:
        """Add the gradient of one optimizer step; see `Objective`. Losses are over all samples of the step."""
        hidden = [self._hide_abundances(batch, step.plan.step) for batch in step.micro]
        total = torch.stack([self.targets.weight[batch.sample].sum() for batch in step.micro]).sum()
        concealed = torch.stack([h.sum() if h is not None else total.new_zeros(()) for h in hidden]).sum()
        sums: dict[str, Tensor] = {}
        for i, (batch, mask) in enumerate(zip(step.micro, hidden, strict=True)):
            # dropout is the one draw of torch's own generator: seeded by address
            torch.manual_seed(address_hash(self.config.runtime.seed, "dropout", step.plan.step, i))
            with self.compute.autocast():
                output = self._predict(batch, mask)
            parts = {"target_loss": self._target_loss(at_least_single(output.prediction), batch.sample, total)}
            if mask is not None:
                assert output.counts is not None
                relative = batch.count / batch.count.sum(dim=1, keepdim=True)
                parts["count_loss"] = count_loss(at_least_single(output.counts), relative, mask, concealed)
            scale(self.loss(parts)).backward()  # type: ignore[no-untyped-call]
            for name, part in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
        return {"loss": self.loss(sums)} | sums

    def _predict(self, batch: SampleBatch, hidden: Tensor | None) -> PredictorOutput:
        if self.asv_embedding is not None:
            return self.model.predict_samples(self.asv_embedding[batch.asv], batch.slot, batch.count, hidden)
        output: PredictorOutput = self.model(self.nucleotides[batch.asv], batch.slot, batch.count, hidden)
        return output

    def _target_loss(self, prediction: Tensor, sample: Tensor, total: Tensor) -> Tensor:
        true, weight = self.targets.value[sample], self.targets.weight[sample]
        if self.targets.column.classes is not None:
            return class_loss(prediction, true, weight, total)
        return target_loss(self.config.target.target_loss, prediction[:, 0], true, weight, total)

    def _hide_abundances(self, batch: SampleBatch, step: int) -> Tensor | None:
        """Choose abundances to hide, a function of (seed, step, sample, ASV): bool [B, S]."""
        if self.model.count_head is None:
            return None
        keys = self.sample_keys[batch.sample][:, None] ^ self.asv_keys[batch.asv][batch.slot]
        address = address_hash(self.config.runtime.seed, "hide abundances", step)
        draw = uniforms(address, keys.flatten(), 1).view(keys.shape)
        return (draw < self.config.target.count_mask_ratio) & (batch.count > 0)

    @torch.no_grad()
    def validate(self) -> dict[str, float | None]:
        """Metrics on all held-out samples, in the target's own units; see `Objective`."""
        outputs = predict_outputs(self.model, self.nucleotides, self.held_out, self.compute)
        samples = torch.from_numpy(self.held_out.samples).to(self.compute.device)
        predicted = torch.from_numpy(outputs).to(self.compute.device, torch.float32)
        loss = float(self._target_loss(predicted, samples, self.targets.weight[samples].sum()))
        metrics = score(self.targets.column, outputs, self.targets.value[samples].cpu().numpy())
        weighted = self.config.target.target_weight * loss
        return {"val/loss": weighted, "val/target_loss": loss} | {f"val/{k}": value for k, value in metrics.items()}

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives; see `Objective`."""
        return {f"val/{name}" for name in ("loss", "target_loss", *_metrics(self.targets.column).compute())}


def predict_outputs(
    model: SequencePredictor, nucleotides: Tensor, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> NDArray[np.float64]:
    """What the model gives for samples, in their order: float64 [samples, K]; each ASV is encoded once."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = [
            model.target_head(embedding.float()).double().cpu()
            for _, embedding in embed_samples(model.encoder, nucleotides, batches, compute, num_workers)
        ]
    model.train(training)
    return torch.cat(outputs).numpy()


def score(column: TargetColumn, outputs: NDArray[np.float64], encoded: NDArray[np.float64]) -> Metrics:
    """Compare what the model gives, [samples, K], with encoded targets, [samples], in the target's own units."""
    metrics = _metrics(column)
    if column.classes is not None:
        metrics.update(torch.from_numpy(outputs).softmax(dim=1), torch.from_numpy(encoded))
    else:
        assert column.scale is not None
        predicted, true = column.scale.inverse(outputs[:, 0]), column.scale.inverse(encoded)
        metrics.update(torch.from_numpy(predicted), torch.from_numpy(true))
    return metrics.compute()


def _metrics(column: TargetColumn) -> ClassificationMetrics | RegressionMetrics:
    return RegressionMetrics() if column.classes is None else ClassificationMetrics(column.outputs)

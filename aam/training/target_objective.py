"""Fine-tuning: metadata columns from samples, and hidden abundances beside them.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, T targets (columns to predict), K
outputs over all targets, C columns of categories.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from aam.config import TrainConfig
from aam.data.addressed import address_hash, address_keys, uniforms
from aam.data.categorical import MISSING, UNSEEN
from aam.data.dataset import FixedBatches, SampleBatch, StepBatch
from aam.data.rarefaction import SampleDraws
from aam.data.sequences import sequence_keys
from aam.data.target_table import Targets
from aam.models.asv_features import standardizing
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import PredictorOutput
from aam.training.asv_embeddings import ROWS, AsvEmbeddings, embeddings_of
from aam.training.compute import Compute, draws_dropout, seeded
from aam.training.divided import fill
from aam.training.inference import asvs_of, hold_asvs, map_samples
from aam.training.losses import (
    MultiTaskLoss,
    RegressionLoss,
    at_least_single,
    class_errors,
    count_errors,
    count_loss,
    target_loss,
)
from aam.training.noise import misread
from aam.training.objective import VALIDATION, Scale
from aam.training.parallel import Parallel
from aam.training.target_metrics import metric_names, score


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
    categories: Tensor | None = None
    """int64 [samples, C], where the prediction depends on categories."""

    def categories_of(self, samples: Tensor) -> Tensor | None:
        """Categories of some samples, [B, C]."""
        return None if self.categories is None else self.categories[samples]


class TargetObjective:
    """Metadata columns, and hidden abundances where the model has a head for them.

    Args:
        model: the bare model; with a frozen encoder the ASVs are embedded once, at the first step, and so are
            the samples where `pools_once` says that they stay the same.
        parallel: how a step calls it: from embedded ASVs, or samples, where these are embedded once.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        table: targets and weight of every sample.
        config: losses, weights and seed.
        held_out: samples to validate on.
    """

    def __init__(
        self,
        model: SequencePredictor,
        parallel: Parallel,
        nucleotides: Tensor,
        table: TargetTable,
        config: TrainConfig,
        held_out: FixedBatches,
    ) -> None:
        self.model = model
        self.parallel = parallel
        self.compute = parallel.compute
        self.nucleotides = nucleotides
        self.table, self.targets = table, table.targets
        target = config.target
        self.losses = [
            RegressionLoss(column.loss, column.quantiles, target.over_penalty, target.under_penalty)
            for column in self.targets.columns
        ]
        self.config = config
        self.held_out = held_out
        self.loss = MultiTaskLoss(
            {"target_loss": config.target.target_weight, "count_loss": config.target.count_weight}
        )
        self.pooled = pools_once(model, held_out.draws, config)
        counts = held_out.draws.table
        self.sample_keys = torch.from_numpy(address_keys(counts.sample_ids)).to(self.compute.device)
        self.asv_keys = torch.from_numpy(sequence_keys(counts.sequences)).to(self.compute.device)
        self.draws_dropout = draws_dropout(model)
        self.sound = torch.ones((), dtype=torch.bool, device=self.compute.device)

    @cached_property
    def frozen_asvs(self) -> AsvEmbeddings:
        """Embeddings of all ASVs of the table; not before the weights of a resumed run are loaded."""
        return self._embed_asvs()

    @cached_property
    def frozen_samples(self) -> Tensor:
        """All samples of the table as of `pool_samples`, [samples, D + F], where they stay the same."""
        every = replace(self.held_out, samples=np.arange(self.held_out.draws.table.n_samples))
        workers = self.config.runtime.num_workers or 0

        def pool(batch: SampleBatch, asvs: Tensor) -> Tensor:
            return self.model.pool_samples(asvs, batch.slot, batch.count, batch.depth)

        return map_samples(pool, self._embed_asvs(), every, self.compute, workers)

    def _embed_asvs(self) -> AsvEmbeddings:
        every, cache = np.arange(len(self.nucleotides)), self.config.finetune.embedding_cache
        return embeddings_of(self.model, self.nucleotides, every, self.compute, cache)

    def backward(self, step: StepBatch, scale: Scale) -> dict[str, Tensor]:
        """Add the gradient of one optimizer step; see `Objective`. Losses are over all samples of the step."""
        world = self.parallel.world
        hidden = [self._hide_abundances(batch, step.plan.step) for batch in step.micro]
        weight = torch.stack([self.table.weight[batch.sample[batch.real]].double().sum(0) for batch in step.micro])
        concealed = torch.stack([weight.new_zeros(()) if mask is None else mask.sum().double() for mask in hidden])
        sums_of_step = world.sum(torch.cat([weight.sum(0), concealed.sum(0, keepdim=True)]))
        total, concealed = sums_of_step[:-1], sums_of_step[-1]
        sums: dict[str, Tensor] = {}
        for i, (batch, mask) in enumerate(zip(step.micro, hidden, strict=True)):
            with self.parallel.quiet() if i < len(step.micro) - 1 else nullcontext():
                output = self._predict(step, i, mask)
                real = batch.real
                prediction = at_least_single(output.prediction[real])
                parts = {"target_loss": self._target_loss(prediction, batch.sample[real], total)}
                if mask is not None:
                    parts["count_loss"] = _count_loss(output, batch, mask, concealed)
                # strategies take the mean over ranks, while every part is this rank's share of a sum
                scale(world.size * self.loss(parts)).backward()  # type: ignore[no-untyped-call]
            for name, part in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
        losses = {"loss": self.loss(sums)} | sums
        self.sound = losses["loss"].isfinite()
        return losses

    def _predict(self, step: StepBatch, index: int, hidden: Tensor | None) -> PredictorOutput:
        # dropout is the one draw of torch's own generator: seeded by address
        number = index * self.parallel.world.size + self.parallel.world.rank
        seed = address_hash(self.config.runtime.seed, "dropout", step.plan.step, number)
        batch, categories = step.micro[index], self._categories(step.micro[index], step.plan.step)
        given: tuple[Tensor | None, ...]
        if self.pooled:
            given = self.frozen_samples[batch.sample], categories
        else:
            frozen = self.model.frozen
            asvs = self.frozen_asvs.of(batch.asv) if frozen else self._misread(batch.asv, step.plan.step)
            given = asvs, batch.slot, batch.count, batch.depth, hidden, categories
        with seeded(seed, self.compute.device) if self.draws_dropout else nullcontext(), self.compute.autocast():
            return self.parallel.call(*given)  # type: ignore[no-any-return]

    def _categories(self, batch: SampleBatch, step: int) -> Tensor | None:
        """Categories of a batch, [B, C], some concealed by (seed, step, sample) where that was asked for."""
        categories, rate = self.table.categories_of(batch.sample), self.config.categories.categorical_dropout
        if categories is None or rate == 0:
            return categories
        address = address_hash(self.config.runtime.seed, "conceal categories", step)
        draw = uniforms(address, self.sample_keys[batch.sample], categories.shape[1])
        return categories.masked_fill((draw < rate) & (categories != MISSING), UNSEEN)

    def _misread(self, asv: Tensor, step: int) -> Tensor:
        """Nucleotides of ASVs as a training step reads them, uint8 [U, L]."""
        noise, seed = self.config.augmentation.sequence_noise, self.config.runtime.seed
        return misread(self.nucleotides[asv], self.asv_keys[asv], noise, seed, step)

    def _target_loss(self, prediction: Tensor, sample: Tensor, total: Tensor) -> Tensor:
        """Loss of predictions [B, K] for rows [B] of the table; total: weights [T] of all that it is the mean over."""
        true, weight = self.table.value[sample], self.table.weight[sample]
        if self.targets.is_classes:
            errors = class_errors(prediction, true[:, 0], self.config.target.label_smoothing)[:, None]
        else:
            parts = zip(self.losses, torch.split(prediction, self.outputs, dim=1), true.T, strict=True)
            errors = torch.stack([loss.errors(part, each) for loss, part, each in parts], dim=1)
        return target_loss(errors, weight, total)

    def _hide_abundances(self, batch: SampleBatch, step: int | str) -> Tensor | None:
        """Choose abundances to hide, a function of (seed, step, sample, ASV): bool [B, S]."""
        if self.model.count_head is None:
            return None
        keys = self.sample_keys[batch.sample][:, None] ^ self.asv_keys[batch.asv][batch.slot]
        address = address_hash(self.config.runtime.seed, "hide abundances", step)
        draw = uniforms(address, keys.flatten(), 1).view(keys.shape)
        return (draw < self.config.target.count_mask_ratio) & (batch.count > 0) & (not batch.ghost)

    @torch.no_grad()
    def validate(self) -> dict[str, float | None]:
        """Metrics on all validation samples, in the target's own units; see `Objective`."""
        outputs, losses = self._judge_samples(self.held_out)
        samples = torch.from_numpy(self.held_out.samples).to(self.compute.device)
        predicted = torch.from_numpy(outputs).to(self.compute.device, torch.float32)
        total = self.table.weight[samples].sum(0)
        losses = {"target_loss": float(self._target_loss(predicted, samples, total))} | losses
        truth = self.truth(self.held_out)
        metrics = losses | score(self.targets, self.decode(outputs, self.held_out), truth)
        weighted = sum(self.loss.weights[name] * value for name, value in losses.items())
        return {"val/loss": weighted} | {f"val/{name}": value for name, value in metrics.items()}

    @torch.no_grad()
    def predict_held_out(self) -> NDArray[np.float64]:
        """What the model gives for validation samples, as of `predict_outputs`."""
        return self.predict(self.held_out)

    @torch.no_grad()
    def fit_features(self, batches: FixedBatches) -> None:
        """Settle random features on the ASVs of some samples, each counting once; every rank calls this."""
        features = self.model.asv_features
        assert features is not None
        self.model.eval()
        asvs = torch.from_numpy(asvs_of(batches)).to(self.compute.device)
        rows = self._frozen_or_held(batches).of(asvs)
        for name, value in standardizing(rows).items():
            fill(getattr(features, name), value.to(self.compute.device))
        waves = torch.cat([self.model.wave_asvs(part) for part in torch.split(rows, ROWS)])
        fill(features.center, waves.double().mean(0).float())
        self.model.train()

    def _frozen_or_held(self, batches: FixedBatches) -> AsvEmbeddings:
        """Embeddings of the ASVs of samples."""
        if self.model.frozen:
            return self.frozen_asvs
        return hold_asvs(self.model, self.nucleotides, batches, self.compute)

    @torch.no_grad()
    def standardize(self, batches: FixedBatches) -> None:
        """Let the head read what it is given of some samples with mean 0 and deviation 1; every rank calls this."""
        norm = self.model.target_head.norm
        for name, value in self.model.target_head.standardizing(self._head_inputs(batches)).items():
            fill(getattr(norm, name), value.to(self.compute.device))

    def _head_inputs(self, batches: FixedBatches) -> Tensor:
        """What the head reads of samples, in their order, on every rank: [samples, width]."""
        self.model.eval()
        if self.pooled:
            samples = torch.from_numpy(batches.samples).to(self.compute.device)
            rows = self.model.pooled_head_inputs(self.frozen_samples[samples], self.table.categories_of(samples))
        else:
            embeddings = self._frozen_or_held(batches)
            workers = self.config.runtime.num_workers or 0
            rows = map_samples(self._read_batch, embeddings, batches, self.compute, workers)
        self.model.train()
        return rows

    def _read_batch(self, batch: SampleBatch, asvs: Tensor) -> Tensor:
        categories = self.table.categories_of(batch.sample)
        return self.model.head_inputs(asvs, batch.slot, batch.count, batch.depth, categories).float()

    @torch.no_grad()
    def predict(self, batches: FixedBatches) -> NDArray[np.float64]:
        """What the model gives for some samples of the table, as of `predict_outputs`; every rank calls this."""
        return self._judge_samples(batches)[0]

    def _judge_samples(self, batches: FixedBatches) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Outputs for samples, as of `predict_outputs`, and the loss of hidden abundances if there is one."""
        self.model.eval()
        workers = self.config.runtime.num_workers or 0
        if self.pooled:
            rows = self._judge_pooled(batches.samples)
        else:
            embeddings = self._frozen_or_held(batches)
            rows = map_samples(self._judge_batch, embeddings, batches, self.compute, workers)
        self.model.train()
        width = sum(self.outputs)
        losses = {}
        if self.model.count_head is not None:
            error_sum, concealed = rows[:, width:].sum(0).tolist()
            losses["count_loss"] = error_sum / max(1.0, concealed)
        return rows[:, :width].cpu().numpy(), losses

    def _judge_pooled(self, rows: NDArray[np.int64]) -> Tensor:
        """Outputs for samples from their embeddings, float64 [samples, K]; on every rank."""
        samples = torch.from_numpy(rows).to(self.compute.device)
        with self.compute.autocast():
            output = self.model.predict_pooled(self.frozen_samples[samples], self.table.categories_of(samples))
        return output.prediction.double()

    def _judge_batch(self, batch: SampleBatch, asvs: Tensor) -> Tensor:
        """Outputs for samples, and with a head for it errors and number of hidden abundances: [B, K (+ 2)]."""
        categories = self.table.categories_of(batch.sample)
        outputs = _outputs(self.model, batch, asvs, categories)
        hidden = self._hide_abundances(batch, VALIDATION)
        if hidden is None:
            return outputs
        output = self.model.predict_samples(asvs, batch.slot, batch.count, batch.depth, hidden, categories)
        assert output.counts is not None
        errors = count_errors(at_least_single(output.counts), batch.count / batch.depth[:, None]).double() * hidden
        return torch.cat([outputs, torch.stack([errors.sum(1), hidden.sum(1)], dim=1)], dim=1)

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives; see `Objective`."""
        losses = {"loss", "target_loss"} | ({"count_loss"} if self.model.count_head is not None else set())
        return {f"val/{name}" for name in losses | metric_names(self.targets)}

    @property
    def outputs(self) -> list[int]:
        """Numbers that the model gives for each target."""
        return [column.outputs for column in self.targets.columns]

    def truth(self, batches: FixedBatches) -> pd.DataFrame:
        """True values of samples, in their order and their own units."""
        return self.table.true.iloc[batches.samples]

    def decode(self, outputs: NDArray[np.float64], batches: FixedBatches) -> pd.DataFrame:
        """Make a table of predictions of what the model gives for samples, [samples, K]."""
        return self.targets.decode(outputs, self.table.metadata.iloc[batches.samples])


def pools_once(model: SequencePredictor, draws: SampleDraws, config: TrainConfig) -> bool:
    """Whether fine-tuning embeds every sample once and trains the head on these embeddings alone.

    So it does where the encoder is frozen, all epochs see the same reads and ASVs, and nothing but the encoder looks at
    the ASVs of a sample. The results are the same otherwise, but for rounding.
    """
    return model.frozen and model.reads_samples_alone and draws.is_settled and not config.distribution.data_parallel


def predict_outputs(
    model: SequencePredictor,
    embeddings: AsvEmbeddings,
    batches: FixedBatches,
    compute: Compute,
    num_workers: int = 0,
    categories: Tensor | None = None,
) -> NDArray[np.float64]:
    """What the model gives for samples, in their order: float64 [samples, K].

    Ranks share the samples, and each gets all outputs.

    Args:
        model: in evaluation mode.
        embeddings: of the ASVs of the samples, by this model.
        batches: the samples.
        compute: device, precision and ranks.
        num_workers: processes that prepare batches.
        categories: int64 [samples of the table, C], on the device, where the prediction depends on them.
    """

    def predict(batch: SampleBatch, asvs: Tensor) -> Tensor:
        return _outputs(model, batch, asvs, None if categories is None else categories[batch.sample])

    return map_samples(predict, embeddings, batches, compute, num_workers).cpu().numpy()


def _outputs(model: SequencePredictor, batch: SampleBatch, asvs: Tensor, categories: Tensor | None) -> Tensor:
    """What the model gives for a batch, from its embedded ASVs [U, D]: float64 [B, K]."""
    output = model.predict_samples(asvs, batch.slot, batch.count, batch.depth, categories=categories)
    return output.prediction.double()


def _count_loss(output: PredictorOutput, batch: SampleBatch, hidden: Tensor, total: Tensor) -> Tensor:
    assert output.counts is not None
    return count_loss(at_least_single(output.counts), batch.count / batch.depth[:, None], hidden, total)

"""What is learned: the gradient of an optimizer step, and the metrics on held-out samples.

Shapes: B samples, U unique ASVs of a batch, L nucleotides, G samples of an optimizer step, M hidden nucleotides.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from aam.config import MaskConfig, PretrainConfig
from aam.data.addressed import address_hash, generator
from aam.data.dataset import DistanceSource, FixedBatches, SampleBatch, StepBatch
from aam.data.unifrac import faith_pd
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import EncoderOutput
from aam.training.compute import Compute, draws_dropout, seeded
from aam.training.inference import embed_samples
from aam.training.losses import MultiTaskLoss, nucleotide_loss, pairwise_loss
from aam.training.masking import hidden_nucleotides
from aam.training.metrics import DistanceMetrics, Metrics, NucleotideMetrics, RegressionMetrics

Scale = Callable[[Tensor], Tensor]
"""Multiplies the loss before the backward pass (a gradient scaler's, for fp16)."""

VALIDATION = "validation"
"""In the place of the step, for masks that stay the same."""
PAIR_GROUP = 4096
"""Validation compares all pairs of up to this many samples; more are compared within groups of this size."""
PAIR_BLOCK = 512
"""Samples a side of a block of pairs, which bounds the memory of validation."""


class Objective(Protocol):
    """What the trainer needs to know of a task."""

    @property
    def compiled(self) -> nn.Module:
        """The module that a step calls, which ``--compile-model`` compiles."""
        ...

    def backward(self, step: StepBatch, scale: Scale) -> Mapping[str, Tensor]:
        """Add the gradient of one optimizer step to the parameters; return the losses, detached."""
        ...

    def validate(self) -> dict[str, float | None]:
        """Metrics over all held-out samples, with names such as ``val/loss``; None where undefined."""
        ...

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives."""
        ...


class PretrainObjective:
    """Hidden nucleotides and distances between samples.

    Args:
        model: the encoder.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        keys: int64 [ASVs of the table], addresses of the ASVs, on the device.
        config: weights, masks and seed.
        compute: device and precision.
        validation: held-out samples, and where their true distances come from.
    """

    def __init__(
        self,
        model: SequenceEncoder,
        nucleotides: Tensor,
        keys: Tensor,
        config: PretrainConfig,
        compute: Compute,
        validation: tuple[FixedBatches, DistanceSource | None],
    ) -> None:
        self.model = model
        self.nucleotides = nucleotides
        self.keys = keys
        self.config = config
        self.compute = compute
        self.held_out, self.source = validation
        self.draws_dropout = draws_dropout(model)
        losses = config.losses
        self.loss = MultiTaskLoss(
            {
                "unifrac_loss": losses.unifrac_weight,
                "nucleotide_loss": losses.nucleotide_weight,
                "faith_pd_loss": losses.faith_pd_weight,
            }
        )

    @property
    def compiled(self) -> nn.Module:
        """The whole encoder; see `Objective`."""
        return self.model

    def backward(self, step: StepBatch, scale: Scale) -> dict[str, Tensor]:
        """Add the gradient of one optimizer step; see `Objective`.

        The distances are those of all pairs of the step. Where the step has several batches, their embeddings are first
        computed without a graph, then each batch is run again with the gradient of the pairs at its embeddings
        (gradient cache: Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup).
        """
        hidden = [self._hide(batch.asv, step.plan.step, self.config.masking) for batch in step.micro]
        weights = [batch.occurrence for batch in step.micro]
        total = torch.stack([(h.sum(1) * w).sum() for h, w in zip(hidden, weights, strict=True)]).sum()
        if len(step.micro) == 1:
            output = self._forward(step, 0, hidden[0])
            parts = self._sample_losses(output.z, output.faith_pd, step)
            parts |= self._nucleotide_losses(output, step.micro[0], hidden[0], total)
            scale(self.loss(parts)).backward()  # type: ignore[no-untyped-call]
            return {"loss": self.loss(parts).detach()} | {name: part.detach() for name, part in parts.items()}
        return self._backward_cached(step, hidden, total, scale)

    def _backward_cached(self, step: StepBatch, hidden: list[Tensor], total: Tensor, scale: Scale) -> dict[str, Tensor]:
        with torch.no_grad():
            first = [self._forward(step, i, None) for i in range(len(hidden))]
        z = torch.cat([output.z for output in first]).requires_grad_()
        faith = [output.faith_pd for output in first if output.faith_pd is not None]
        pd = torch.cat(faith).requires_grad_() if faith else None
        parts = self._sample_losses(z, pd, step)
        if parts:
            scale(self.loss(parts)).backward()  # type: ignore[no-untyped-call]
        sums = {name: part.detach() for name, part in parts.items()}
        start = 0
        for i, (batch, mask) in enumerate(zip(step.micro, hidden, strict=True)):
            output = self._forward(step, i, mask)
            own = slice(start, start + len(batch.sample))
            start = own.stop
            nucleotide = self._nucleotide_losses(output, batch, mask, total)
            pulls = [(output.z, z.grad), (output.faith_pd, pd.grad if pd is not None else None)]
            pulled = [(value * grad[own]).sum() for value, grad in pulls if value is not None and grad is not None]
            learned = [scale(self.loss(nucleotide))] if nucleotide else []
            torch.stack(pulled + learned).sum().backward()  # type: ignore[no-untyped-call]
            for name, part in nucleotide.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
        return {"loss": self.loss(sums)} | sums

    def _hide(self, asv: Tensor, step: int | str, masking: MaskConfig) -> Tensor:
        return hidden_nucleotides(self.nucleotides[asv], self.keys[asv], masking, self.config.runtime.seed, step)

    def _forward(self, step: StepBatch, index: int, mask: Tensor | None) -> EncoderOutput:
        # dropout is the one draw of torch's own generator: seeded by address, so that a step can be run again
        seed = address_hash(self.config.runtime.seed, "dropout", step.plan.step, index)
        batch, tokens = step.micro[index], self.nucleotides[step.micro[index].asv]
        hidden = mask if self.loss.active("nucleotide_loss") else None
        with seeded(seed, self.compute.device) if self.draws_dropout else nullcontext(), self.compute.autocast():
            return self.model(tokens, batch.slot, batch.count, batch.depth, hidden)  # type: ignore[no-any-return]

    def _sample_losses(self, z: Tensor, pd: Tensor | None, step: StepBatch) -> dict[str, Tensor]:
        parts = {}
        if self.loss.active("unifrac_loss"):
            assert step.distance is not None
            parts["unifrac_loss"] = pairwise_loss(self.model.distance(z, z), step.distance)
        if pd is not None:
            assert step.faith_pd is not None
            parts["faith_pd_loss"] = (pd - step.faith_pd.to(pd.dtype).log1p()).square().mean()
        return parts

    def _nucleotide_losses(
        self, output: EncoderOutput, batch: SampleBatch, mask: Tensor, total: Tensor
    ) -> dict[str, Tensor]:
        if not self.loss.active("nucleotide_loss"):
            return {}
        assert output.nucleotide_logits is not None
        hidden = self.nucleotides[batch.asv][mask].long()
        weight = batch.occurrence[:, None].expand_as(mask)[mask]
        return {"nucleotide_loss": nucleotide_loss(output.nucleotide_logits, hidden, weight, total)}

    @torch.no_grad()
    def validate(self) -> dict[str, float | None]:
        """Distances over pairs of held-out samples, and hidden nucleotides of their ASVs; see `Objective`."""
        self.model.eval()
        losses: dict[str, float] = {}
        metrics: dict[str, float | None] = {}
        if self.loss.active("unifrac_loss") or self.loss.active("faith_pd_loss"):
            embedding = torch.cat([rows for _, rows in self._embed_held_out()])
            if self.loss.active("unifrac_loss"):
                distance = DistanceMetrics()
                for predicted, true in self.compare_pairs(embedding):
                    distance.update(predicted, true)
                losses["unifrac_loss"] = (distance.moments.rmse or 0.0) ** 2
                metrics |= {f"val/unifrac_{name}": value for name, value in distance.compute().items()}
            if self.model.faith_pd_head is not None:
                losses["faith_pd_loss"], faith_pd = self._judge_faith_pd(embedding)
                metrics |= {f"val/faith_pd_{name}": value for name, value in faith_pd.items()}
        if self.loss.active("nucleotide_loss"):
            losses["nucleotide_loss"], metrics["val/nucleotide_accuracy"] = self._predict_hidden()
        self.model.train()
        total = sum(self.loss.weights[name] * value for name, value in losses.items())
        return {"val/loss": total} | {f"val/{name}": value for name, value in losses.items()} | metrics

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives; see `Objective`."""
        names = {"loss"} | {name for name in self.loss.weights if self.loss.active(name)}
        if self.loss.active("unifrac_loss"):
            names |= {f"unifrac_{name}" for name in DistanceMetrics().compute()}
        if self.loss.active("faith_pd_loss"):
            names |= {f"faith_pd_{name}" for name in RegressionMetrics().compute()}
        if self.loss.active("nucleotide_loss"):
            names.add("nucleotide_accuracy")
        return {f"val/{name}" for name in names}

    def compare_pairs(self, embedding: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Compare predicted and true distances of held-out samples, each pair once, in blocks of bounded size.

        Args:
            embedding: [held-out samples, D], in their order.

        Yields:
            Predicted and true distances, [pairs of the block] each.
        """
        assert self.source is not None
        z = self.model.scale(embedding)
        order = generator(self.config.runtime.seed, "pairs").permutation(len(z))
        groups = np.array_split(order, math.ceil(len(z) / PAIR_GROUP))
        samples, drawn = self.held_out.samples, self.held_out.drawn
        for group in groups:
            blocks = [np.sort(group)[i : i + PAIR_BLOCK] for i in range(0, len(group), PAIR_BLOCK)]
            for i, rows in enumerate(blocks):
                for columns in blocks[i:]:
                    true = self.source.cross(
                        (samples[rows], samples[columns]), (drawn[rows], drawn[columns]), self.compute.device
                    )
                    predicted = self.model.distance(z[rows], z[columns])
                    each_once = torch.from_numpy(rows[:, None] < columns[None, :]).to(predicted.device)
                    yield predicted[each_once].cpu(), true[each_once].cpu()

    def _embed_held_out(self) -> Iterator[tuple[SampleBatch, Tensor]]:
        workers = self.config.runtime.num_workers
        return embed_samples(self.model, self.nucleotides, self.held_out, self.compute, workers)

    def _judge_faith_pd(self, embedding: Tensor) -> tuple[float, Metrics]:
        """Loss, on the logarithm, and metrics in the tree's unit of length."""
        assert self.model.faith_pd_head is not None
        assert self.source is not None
        assert self.source.tree is not None
        true = faith_pd(self.source.tree, self.held_out.drawn, self.compute.device)
        predicted = self.model.faith_pd_head(embedding).squeeze(1).double()
        metrics = RegressionMetrics()
        metrics.update(predicted.expm1(), true)
        return float((predicted - true.log1p()).square().mean()), metrics.compute()

    def _predict_hidden(self) -> tuple[float, float | None]:
        """Loss and accuracy of hidden nucleotides of every held-out ASV, weighed by the samples that hold it."""
        masking = self.config.masking.model_copy(update={"nuc_asv_share": 1.0})
        counts = self.held_out.draws.table.counts[self.held_out.samples]
        times = np.bincount(counts.indices)
        asvs = np.flatnonzero(times)
        occurrence = torch.from_numpy(times[asvs])
        accuracy, loss, total = NucleotideMetrics(), 0.0, 0.0
        for part in torch.split(torch.arange(len(asvs)), self.model.config.asv_chunk_size):
            asv = torch.from_numpy(asvs)[part].to(self.compute.device)
            mask = self._hide(asv, VALIDATION, masking)
            with self.compute.autocast():
                logits = self.model.asv_encoder.predict_hidden(self.nucleotides[asv], mask)
            true = self.nucleotides[asv][mask].long()
            weight = occurrence[part].to(mask.device)[:, None].expand_as(mask)[mask]
            accuracy.update(logits, true, weight)
            loss += float(nucleotide_loss(logits, true, weight, torch.ones(())))
            total += float(weight.sum())
        return loss / max(total, 1.0), accuracy.compute()["accuracy"]

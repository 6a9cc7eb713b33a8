"""What is learned: the gradient of an optimizer step, and the metrics on validation samples.

Shapes: B samples, U unique ASVs of a batch, L nucleotides, G samples of an optimizer step, M hidden nucleotides.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aam.config import MaskConfig, PretrainConfig
from aam.data.addressed import address_hash, generator
from aam.data.dataset import DistanceSource, FixedBatches, StepBatch
from aam.data.unifrac import faith_pd
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import EncoderOutput
from aam.training.asv_embeddings import ROWS
from aam.training.compute import draws_dropout, seeded
from aam.training.distributed import gather_embeddings_for_unifrac
from aam.training.inference import embed_samples, join_moments, share_asvs
from aam.training.losses import PAIR_BLOCK, MultiTaskLoss, nucleotide_loss, pairwise_gradient
from aam.training.masking import hidden_nucleotides
from aam.training.metrics import DistanceMetrics, Metrics, RegressionMetrics
from aam.training.noise import misread
from aam.training.parallel import Parallel
from aam.training.taxonomy import TaxonomyTask

Scale = Callable[[Tensor], Tensor]
"""Multiplies the loss before the backward pass (a gradient scaler's, for fp16)."""

VALIDATION = "validation"
"""In the place of the step, for masks that stay the same."""
PAIR_GROUP = 4096
"""Validation compares all pairs of up to this many samples; more are compared within groups of this size."""


class Objective(Protocol):
    """What the trainer needs to know of a task."""

    @property
    def parallel(self) -> Parallel:
        """How a step calls the model."""
        ...

    @property
    def sound(self) -> Tensor:
        """Whether what this rank computed in the last step without the others is a number: bool scalar."""
        ...

    def backward(self, step: StepBatch, scale: Scale) -> Mapping[str, Tensor]:
        """Add the gradient of one optimizer step to the parameters.

        Where gradients are averaged over ranks, theirs is that of one process with all samples of the step.

        Returns:
            This rank's shares of the losses, detached: the loss of the step is their sum over ranks.
        """
        ...

    def validate(self) -> dict[str, float | None]:
        """Metrics over all validation samples, the same on every rank, as ``val/loss``; None where undefined."""
        ...

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives."""
        ...


class PretrainObjective:
    """Hidden nucleotides, distances between samples, Faith's PD of samples, and taxonomic ranks of ASVs.

    Args:
        model: the bare encoder.
        parallel: how a step calls it.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        keys: int64 [ASVs of the table], addresses of the ASVs, on the device.
        config: weights, masks and seed.
        validation: validation samples, and where true distances come from.
        taxonomy: the true ranks; None where they are not learned.
    """

    def __init__(
        self,
        model: SequenceEncoder,
        parallel: Parallel,
        nucleotides: Tensor,
        keys: Tensor,
        config: PretrainConfig,
        validation: tuple[FixedBatches, DistanceSource | None],
        taxonomy: TaxonomyTask | None = None,
    ) -> None:
        self.model = model
        self.parallel = parallel
        self.compute = parallel.compute
        self.nucleotides = nucleotides
        self.keys = keys
        self.config = config
        self.held_out, self.source = validation
        self.taxonomy = taxonomy
        self.draws_dropout = draws_dropout(model)
        self.sound = torch.ones((), dtype=torch.bool, device=self.compute.device)
        self.loss = MultiTaskLoss({f"{name}_loss": weight for name, weight in config.losses.weights.items()})

    def backward(self, step: StepBatch, scale: Scale) -> dict[str, Tensor]:
        """Add the gradient of one optimizer step; see `Objective`.

        The distances are those of all pairs of the step, on whatever rank and in whatever batch. They are compared
        without a graph first, which gives the gradient at each embedding; that is pulled through the model afterwards.
        Where the step has several batches, their embeddings are computed once for the comparison and again for the
        gradient (gradient cache: Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited
        setup).
        """
        world = self.parallel.world
        self.sound = torch.ones_like(self.sound)
        hidden = [self._hide(batch.asv, step.plan.step, self.config.masking) for batch in step.micro]
        totals = self._totals(step, hidden)
        first = self._forward(step, 0, hidden[0]) if len(step.micro) == 1 else None
        sums, pull = self._compare(step, first) if self.loss.active("unifrac_loss") else ({}, None)
        start = 0
        for i, (batch, mask) in enumerate(zip(step.micro, hidden, strict=True)):
            with self.parallel.quiet() if i < len(step.micro) - 1 else nullcontext():
                output = first or self._forward(step, i, mask)
                parts = self._own_losses(output, step, i, mask, totals)
                pulled = []
                if pull is not None:
                    own = slice(start, start := start + batch.real.stop)
                    unifrac = (output.z[batch.real] * pull[own]).sum()
                    pulled.append(self.loss.weights["unifrac_loss"] * unifrac)
                # strategies take the mean over ranks, while every part is this rank's share of a sum
                weighted = [*pulled, self.loss(parts)] if parts else pulled
                scale(world.size * torch.stack(weighted).sum()).backward()  # type: ignore[no-untyped-call]
            for name, part in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
                self.sound = self.sound & part.isfinite()
        return {"loss": self.loss(sums)} | sums

    def _compare(self, step: StepBatch, first: EncoderOutput | None) -> tuple[dict[str, Tensor], Tensor]:
        """Compare all pairs of the step: this rank's share of the loss, and its gradient at the embeddings, [B, D]."""
        with torch.no_grad():
            # nothing else of an output is kept
            z = torch.cat([(first or self._forward(step, i, None)).z[batch.real] for i, batch in enumerate(step.micro)])
        # the loss below is no number either where another rank's embeddings are none
        self.sound = self.sound & z.isfinite().all()
        everyone = gather_embeddings_for_unifrac(self.parallel.world, z, step.sizes)
        loss, pull = pairwise_gradient(z, everyone, step.start, self.model.distance, partial(self._true, step))
        return {"unifrac_loss": loss}, pull

    def _true(self, step: StepBatch, rows: slice, columns: slice) -> Tensor:
        """True distances between some of this rank's samples and some of all of the step."""
        if step.distance is not None:
            return step.distance[rows, columns]
        assert step.drawn is not None
        assert self.source is not None
        own, samples = slice(step.start + rows.start, step.start + rows.stop), step.samples
        drawn = (step.drawn[own], step.drawn[columns])
        return self.source.cross((samples[own], samples[columns]), drawn, self.compute.device)

    def _hide(self, asv: Tensor, step: int | str, masking: MaskConfig) -> Tensor:
        return hidden_nucleotides(self.nucleotides[asv], self.keys[asv], masking, self.config.runtime.seed, step)

    def _misread(self, asv: Tensor, step: int) -> Tensor:
        """Nucleotides of ASVs as a training step reads them, uint8 [U, L]; those to predict are the true ones."""
        noise, seed = self.config.augmentation.sequence_noise, self.config.runtime.seed
        return misread(self.nucleotides[asv], self.keys[asv], noise, seed, step)

    def _totals(self, step: StepBatch, hidden: Sequence[Tensor]) -> Tensor:
        """Weights of the whole step: of hidden nucleotides, then of known classes at each rank; int64 [1 + R]."""
        own = []
        for mask, batch in zip(hidden, step.micro, strict=True):
            of_hidden = (mask.sum(1) * batch.occurrence).sum()[None]
            own.append(of_hidden if self.taxonomy is None else torch.cat([of_hidden, self.taxonomy.weight(batch)]))
        return self.parallel.world.sum(torch.stack(own).sum(0))

    def _forward(self, step: StepBatch, index: int, mask: Tensor | None) -> EncoderOutput:
        # dropout is the one draw of torch's own generator: seeded by address, so that a step can be run again
        number = index * self.parallel.world.size + self.parallel.world.rank
        seed = address_hash(self.config.runtime.seed, "dropout", step.plan.step, number)
        batch, tokens = step.micro[index], self._misread(step.micro[index].asv, step.plan.step)
        hidden = mask if self.loss.active("nucleotide_loss") else None
        with seeded(seed, self.compute.device) if self.draws_dropout else nullcontext(), self.compute.autocast():
            return self.parallel.call(tokens, batch.slot, batch.count, batch.depth, hidden)  # type: ignore[no-any-return]

    def _own_losses(
        self, output: EncoderOutput, step: StepBatch, index: int, mask: Tensor, totals: Tensor
    ) -> dict[str, Tensor]:
        """Losses that add up over batches and ranks, without comparing samples."""
        batch, parts = step.micro[index], {}
        if self.loss.active("nucleotide_loss"):
            assert output.nucleotide_logits is not None
            hidden = self.nucleotides[batch.asv][mask].long()
            weight = batch.occurrence[:, None].expand_as(mask)[mask]
            parts["nucleotide_loss"] = nucleotide_loss(output.nucleotide_logits, hidden, weight, totals[0])
        if output.faith_pd is not None:
            assert step.faith_pd is not None
            start = sum(other.real.stop for other in step.micro[:index])
            true = step.faith_pd[start : start + batch.real.stop].to(output.faith_pd.dtype)
            parts["faith_pd_loss"] = (output.faith_pd[batch.real] - true.log1p()).square().sum() / sum(step.sizes)
        if self.taxonomy is not None:
            assert output.taxonomy_logits is not None
            parts["taxonomy_loss"] = self.taxonomy.loss(output.taxonomy_logits, batch, totals[1:])
        return parts

    @torch.no_grad()
    def validate(self) -> dict[str, float | None]:
        """Distances over pairs of validation samples, and what is predicted of their ASVs; see `Objective`."""
        self.model.eval()
        losses: dict[str, float] = {}
        metrics: dict[str, float | None] = {}
        if self.loss.active("unifrac_loss") or self.loss.active("faith_pd_loss"):
            embedding = self.embed_held_out()
            if self.loss.active("unifrac_loss"):
                distance = DistanceMetrics()
                for predicted, true in self.compare_pairs(embedding):
                    distance.update(predicted, true)
                distance.moments = join_moments(distance.moments, self.parallel.world)
                losses["unifrac_loss"] = (distance.moments.rmse or 0.0) ** 2
                metrics |= {f"val/unifrac_{name}": value for name, value in distance.compute().items()}
            if self.loss.active("faith_pd_loss"):
                losses["faith_pd_loss"], faith_pd = self._judge_faith_pd(embedding)
                metrics |= {f"val/faith_pd_{name}": value for name, value in faith_pd.items()}
        if self.loss.active("nucleotide_loss"):
            losses["nucleotide_loss"], metrics["val/nucleotide_accuracy"] = self._predict_hidden()
        if self.taxonomy is not None:
            losses["taxonomy_loss"], of_ranks = self.taxonomy.validate(self.model, self.nucleotides)
            metrics |= {f"val/taxonomy_{name}": value for name, value in of_ranks.items()}
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
        if self.taxonomy is not None:
            names |= {f"taxonomy_{name}" for name in self.taxonomy.metric_names()}
        return {f"val/{name}" for name in names}

    def embed_held_out(self) -> Tensor:
        """Embed all validation samples, in their order, on every rank: [samples, D]; each once, on one rank."""
        workers = self.config.runtime.num_workers or 0
        return embed_samples(self.model, self.nucleotides, self.held_out, self.compute, workers)

    def compare_pairs(self, embedding: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Compare predicted and true distances of validation samples: this rank's blocks of pairs.

        Over all ranks, each pair comes once.

        Args:
            embedding: [validation samples, D], in their order.

        Yields:
            Predicted and true distances, [pairs of the block] each.
        """
        z = self.model.scale(embedding)
        for number, (rows, columns) in enumerate(self._blocks(len(z))):
            if number % self.parallel.world.size == self.parallel.world.rank:
                yield self._compare_block(z, rows, columns)

    def _blocks(self, samples: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Cut pairs into blocks: rows and columns, of which the pairs with a lower row than column count."""
        order = generator(self.config.runtime.seed, "pairs").permutation(samples)
        for group in np.array_split(order, math.ceil(samples / PAIR_GROUP)):
            blocks = [np.sort(group)[i : i + PAIR_BLOCK] for i in range(0, len(group), PAIR_BLOCK)]
            yield from ((rows, columns) for i, rows in enumerate(blocks) for columns in blocks[i:])

    def _compare_block(self, z: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        assert self.source is not None
        samples, drawn = self.held_out.samples, self.held_out.drawn
        true = self.source.cross((samples[rows], samples[columns]), (drawn[rows], drawn[columns]), self.compute.device)
        predicted = self.model.distance(z[rows], z[columns])
        each_once = torch.from_numpy(rows[:, None] < columns[None, :]).to(predicted.device)
        return predicted[each_once].cpu(), true[each_once].cpu()

    def _judge_faith_pd(self, embedding: Tensor) -> tuple[float, Metrics]:
        """Loss, on the logarithm, and metrics in the tree's unit of length."""
        assert self.source is not None
        assert self.source.tree is not None
        true = faith_pd(self.source.tree, self.held_out.drawn, self.compute.device)
        predicted = self.model.predict_faith_pd(embedding).double()
        metrics = RegressionMetrics()
        metrics.update(predicted.expm1(), true)
        return float((predicted - true.log1p()).square().mean()), metrics.compute()

    def _predict_hidden(self) -> tuple[float, float | None]:
        """Loss and accuracy of hidden nucleotides of every validation ASV, weighed by the samples that hold it."""
        masking = self.config.masking.model_copy(update={"nuc_asv_share": 1.0})
        own, occurrence = share_asvs(self.held_out, self.compute)
        sums = torch.zeros(3, dtype=torch.float64, device=self.compute.device)
        for asv, weight_of_asv in zip(torch.split(own, ROWS), torch.split(occurrence, ROWS), strict=True):
            mask = self._hide(asv, VALIDATION, masking)
            with self.compute.autocast():
                logits = self.model.predict_hidden(self.nucleotides[asv], mask)
            true = self.nucleotides[asv][mask].long()
            weight = weight_of_asv[:, None].expand_as(mask)[mask]
            loss = nucleotide_loss(logits, true, weight, torch.ones((), device=logits.device))
            sums += torch.stack(
                [loss.double(), ((logits.argmax(1) == true) * weight).sum().double(), weight.sum().double()]
            )
        loss_sum, hits, total = self.parallel.world.sum(sums).tolist()
        return loss_sum / max(total, 1.0), hits / total if total else None

"""Masked nucleotides of unique ASVs.

Shapes: U unique ASVs of a batch, M masked nucleotides.
"""

from typing import ClassVar

import torch
from torch import Tensor

from aam.data.sampling.samples import SampleBatch, Samples
from aam.models.asv_encoder import predict_masked
from aam.models.types import EncoderOutput
from aam.training.inference.asv_embeddings import ROWS
from aam.training.inference.samples import own_asvs
from aam.training.losses import nucleotide_loss
from aam.training.metrics import Better
from aam.training.tasks.base import VALIDATION, Judged, Microbatch, OfStep
from aam.training.tasks.masking import mask_nucleotides
from aam.training.tasks.pretraining import Given, PretrainingTask


class NucleotideTask(PretrainingTask):
    """Cross-entropy of masked nucleotides, each ASV weighed by its occurrences in samples."""

    name = "nucleotide"
    metrics: ClassVar[Better] = {"nucleotide_accuracy": True}

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.masking = given.config.masking

    def mask(self, samples: Samples, batch: SampleBatch, step: int | str) -> Samples:
        """Mask nucleotides by (seed, step, ASV)."""
        return samples._replace(masked_nucleotides=self._mask(batch.asv, step))

    def weigh(self, micro: Microbatch) -> Tensor:
        """Masked nucleotides, each as often as samples hold its ASV; see `Task`."""
        assert micro.samples.masked_nucleotides is not None
        return (micro.samples.masked_nucleotides.sum(1) * micro.batch.occurrence).sum()[None]

    def loss(self, output: EncoderOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        mask = micro.samples.masked_nucleotides
        assert mask is not None
        assert output.nucleotide_logits is not None
        true = self.inputs.nucleotides[micro.batch.asv][mask].long()
        weight = micro.batch.occurrence[:, None].expand_as(mask)[mask]
        return nucleotide_loss(output.nucleotide_logits, true, weight, of_step.total[0])

    def validate(self, rows: Tensor) -> Judged:
        """Loss and accuracy over every ASV of validation samples, weighed by the samples that hold it."""
        own, occurrence = own_asvs(self.held_out, self.compute)
        sums = torch.zeros(3, dtype=torch.float64, device=self.compute.device)
        for asv, weight_of_asv in zip(torch.split(own, ROWS), torch.split(occurrence, ROWS), strict=True):
            mask, tokens = self._mask(asv, VALIDATION, asv_fraction=1.0), self.inputs.nucleotides[asv]
            with self.compute.autocast():
                logits = predict_masked(self.model.asv_encoder, tokens, mask)
            true = tokens[mask].long()
            weight = weight_of_asv[:, None].expand_as(mask)[mask]
            loss = nucleotide_loss(logits, true, weight, torch.ones((), device=logits.device))
            hits = (logits.argmax(1) == true) * weight
            sums += torch.stack([loss.double(), hits.sum().double(), weight.sum().double()])
        loss_sum, hit_sum, total = self.compute.world.sum(sums).tolist()
        return Judged(loss_sum / max(total, 1.0), {"nucleotide_accuracy": hit_sum / total if total else None})

    def _mask(self, asv: Tensor, step: int | str, asv_fraction: float | None = None) -> Tensor:
        nucleotides, keys = self.inputs.nucleotides[asv], self.inputs.asv_keys[asv]
        return mask_nucleotides(nucleotides, keys, self.masking, self.seed, step, asv_fraction)

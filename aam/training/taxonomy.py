"""Learning the taxonomic ranks of ASVs, which is an auxiliary task of pretraining.

Shapes: A ASVs of the table, U unique ASVs of a batch, L nucleotides, R taxonomic ranks, C classes of all of
them together.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from aam.data.counts import held_by
from aam.data.dataset import FixedBatches, SampleBatch
from aam.data.taxonomy import TaxonomyLabels
from aam.models.sequence_encoder import SequenceEncoder
from aam.training.asv_embeddings import ROWS
from aam.training.compute import Compute
from aam.training.inference import share_asvs
from aam.training.losses import taxonomy_losses
from aam.training.metrics import Metrics


class TaxonomyTask:
    """The true ranks of ASVs: the loss of a step, and the metrics on ASVs of validation samples."""

    def __init__(self, labels: TaxonomyLabels, held_out: FixedBatches, compute: Compute) -> None:
        """Take the true ranks to the device.

        Args:
            labels: of the ASVs of the table.
            held_out: the validation samples.
            compute: device, precision and ranks.
        """
        self.sizes: Mapping[str, int] = labels.classes.sizes
        self.held_out, self.compute = held_out, compute
        self.code = torch.from_numpy(labels.code).to(compute.device)
        self.is_new = torch.from_numpy(~labels.trained).to(compute.device)
        held = np.flatnonzero(held_by(held_out.draws.table.counts, held_out.samples))
        of_new = labels.code[held[~labels.trained[held]]]
        self.ranks_of_new = [
            rank for rank, known in zip(self.sizes, np.any(of_new >= 0, axis=0).tolist(), strict=True) if known
        ]

    def weight(self, batch: SampleBatch) -> Tensor:
        """Occurrences in a batch of ASVs whose class is known: int64 [R]."""
        return ((self.code[batch.asv] >= 0) * batch.occurrence[:, None]).sum(0)

    def loss(self, logits: Tensor, batch: SampleBatch, total: Tensor) -> Tensor:
        """Mean over ranks of the cross-entropy over ASVs, weighed by their occurrences: a batch's share of the step's.

        Args:
            logits: [U, C].
            batch: the samples.
            total: [R], `weight` of the whole step.
        """
        sizes = list(self.sizes.values())
        return taxonomy_losses(logits, self.code[batch.asv], sizes, batch.occurrence, total).mean()

    @torch.no_grad()
    def validate(self, model: SequenceEncoder, nucleotides: Tensor) -> tuple[float, Metrics]:
        """Judge the predictions of every ASV of validation samples whose class is known, weighed by these samples.

        Args:
            model: in evaluation mode.
            nucleotides: uint8 [A, L], on the device.

        Returns:
            The loss, and by rank loss and accuracy, and accuracy on ASVs that no training sample holds.
        """
        sums = torch.zeros(5, len(self.sizes), dtype=torch.float64, device=self.compute.device)
        own, occurrence = share_asvs(self.held_out, self.compute)
        for asv, weight in zip(torch.split(own, ROWS), torch.split(occurrence, ROWS), strict=True):
            with self.compute.autocast():
                logits = model.predict_taxonomy(model.embed_asvs(nucleotides[asv]))
            sums += self._judge(logits, asv, weight)
        loss, hits, known, new_hits, new = self.compute.world.sum(sums).tolist()
        losses = dict(zip(self.sizes, _shares(loss, known), strict=True))
        accuracy = dict(zip(self.sizes, _shares(hits, known), strict=True))
        of_new = dict(zip(self.sizes, _shares(new_hits, new), strict=True))
        metrics = {f"loss_{rank}": value for rank, value in losses.items()}
        metrics |= {f"accuracy_{rank}": value for rank, value in accuracy.items()}
        metrics |= {f"new_accuracy_{rank}": of_new[rank] for rank in self.ranks_of_new}
        defined = [value for value in losses.values() if value is not None]
        return sum(defined) / max(1, len(defined)), metrics

    def _judge(self, logits: Tensor, asv: Tensor, weight: Tensor) -> Tensor:
        """Sums over some ASVs, each weighed: loss, hits, all, and hits and all of new ASVs; float64 [5, R]."""
        true, sizes = self.code[asv], list(self.sizes.values())
        loss = taxonomy_losses(logits, true, sizes, weight, torch.ones_like(true[0]))
        predicted = torch.stack([part.argmax(1) for part in torch.split(logits, sizes, dim=1)], dim=1)
        known = (true >= 0) * weight[:, None]
        new = known * self.is_new[asv, None]
        hit = predicted == true
        counts = [(hit * known).sum(0), known.sum(0), (hit * new).sum(0), new.sum(0)]
        return torch.stack([loss.double(), *(count.double() for count in counts)])

    def metric_names(self) -> set[str]:
        """Names of the metrics that `validate` gives."""
        of_all = {f"{name}_{rank}" for name in ("loss", "accuracy") for rank in self.sizes}
        return of_all | {f"new_accuracy_{rank}" for rank in self.ranks_of_new}


def _shares(parts: list[float], wholes: list[float]) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts, wholes, strict=True)]

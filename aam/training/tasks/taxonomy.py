"""Taxonomic ranks of ASVs.

Shapes: A ASVs of the table, U unique ASVs of a batch, R taxonomic ranks, C classes of all of them together.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aam.config import ModelConfig
from aam.data.arrays import Ints
from aam.data.files.counts import held_by
from aam.data.labels.taxonomy import TaxonomyClasses
from aam.data.study import Study, digest
from aam.models.heads import TaxonomyHead
from aam.models.types import EncoderOutput
from aam.training.inference.asv_embeddings import ROWS
from aam.training.inference.samples import own_asvs
from aam.training.losses import taxonomy_losses
from aam.training.metrics import Better
from aam.training.tasks.base import Judged, Microbatch, OfStep
from aam.training.tasks.pretraining import Given, PretrainingTask


class TaxonomyTask(PretrainingTask):
    """Mean over ranks of the cross-entropy over ASVs whose class is known, weighed by their occurrences in samples."""

    name = "taxonomy"

    def __init__(self, given: Given) -> None:
        """Take the true ranks to the device."""
        super().__init__(given)
        self.labels = labels = given.study.taxonomy_labels(given.train)
        self.sizes = labels.classes.sizes
        self.code = torch.from_numpy(labels.code).to(self.compute.device)
        self.is_new = torch.from_numpy(~labels.trained).to(self.compute.device)
        held = np.flatnonzero(held_by(self.held_out.draws.table.counts, self.held_out.samples))
        of_new = labels.code[held[~labels.trained[held]]]
        self.ranks_of_new = [
            rank for rank, known in zip(self.sizes, np.any(of_new >= 0, axis=0).tolist(), strict=True) if known
        ]

    @classmethod
    def learn(cls, study: Study, train: Ints) -> dict[str, Any]:
        """The classes of every rank."""
        return {cls.name: study.taxonomy_labels(train).classes.to_json()}

    @classmethod
    def head(cls, model: ModelConfig, documents: Mapping[str, Any]) -> nn.Module:
        """See `PretrainingTask`."""
        return TaxonomyHead(model.embedding_dim, TaxonomyClasses.from_json(documents[cls.name]).sizes)

    def documents(self) -> dict[str, Any]:
        """See `Task`."""
        return {self.name: self.labels.classes.to_json()}

    def fingerprint(self) -> dict[str, str]:
        """See `Task`."""
        return {self.name: digest([self.labels.code, json.dumps(self.labels.classes.to_json())])}

    def weigh(self, micro: Microbatch) -> Tensor:
        """Occurrences in a batch of ASVs whose class is known: int64 [R]."""
        batch = micro.batch
        return ((self.code[batch.asv] >= 0) * batch.occurrence[:, None]).sum(0)

    def loss(self, output: EncoderOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """See `Task`."""
        batch, sizes = micro.batch, list(self.sizes.values())
        logits = output.heads[self.name]
        return taxonomy_losses(logits, self.code[batch.asv], sizes, batch.occurrence, of_step.total).mean()

    def validate(self, rows: Tensor) -> Judged:
        """Judge the predictions of every ASV of validation samples whose class is known, weighed by these samples.

        By rank loss and accuracy, and accuracy on ASVs that no training sample holds.
        """
        sums = torch.zeros(5, len(self.sizes), dtype=torch.float64, device=self.compute.device)
        own, occurrence = own_asvs(self.held_out, self.compute)
        head = self.model.head(self.name)
        for asv, weight in zip(torch.split(own, ROWS), torch.split(occurrence, ROWS), strict=True):
            with self.compute.autocast():
                logits = head(self.model.embed_asvs(self.inputs.nucleotides[asv]))
            sums += self._judge(logits, asv, weight)
        loss, hits, known, new_hits, new = self.compute.world.sum(sums).tolist()
        losses, accuracy, of_new = (
            {rank: part / whole if whole else None for rank, part, whole in zip(self.sizes, parts, wholes, strict=True)}
            for parts, wholes in ((loss, known), (hits, known), (new_hits, new))
        )
        metrics = {f"taxonomy_loss_{rank}": value for rank, value in losses.items()}
        metrics |= {f"taxonomy_accuracy_{rank}": value for rank, value in accuracy.items()}
        metrics |= {f"taxonomy_new_accuracy_{rank}": of_new[rank] for rank in self.ranks_of_new}
        defined = [value for value in losses.values() if value is not None]
        return Judged(sum(defined) / max(1, len(defined)), metrics)

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

    @property
    def metrics(self) -> Better:
        """See `Task`."""
        better: dict[str, bool | None] = {f"taxonomy_loss_{rank}": False for rank in self.sizes}
        better |= {f"taxonomy_accuracy_{rank}": True for rank in self.sizes}
        return better | {f"taxonomy_new_accuracy_{rank}": True for rank in self.ranks_of_new}

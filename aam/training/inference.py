"""Embedding the samples of a study: each ASV is encoded once, on one rank, whatever the number of samples that hold it.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, L nucleotides.
"""

from collections.abc import Iterator
from dataclasses import astuple
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from aam.data.counts import held_by
from aam.data.dataset import FixedBatches, SampleBatch
from aam.training.compute import Compute
from aam.training.distributed import World
from aam.training.metrics import PairedMoments

ROWS: Final = 1024
"""ASVs that are encoded together where no gradient is needed."""


class Embedder(Protocol):
    """A model that embeds ASVs, and samples from embedded ASVs."""

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs: integer [U, L] -> [U, D]."""
        ...

    def embed_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """Embed samples: [U, D], [B, S], [B, S], [B] -> [B, D]."""
        ...


def asvs_of(batches: FixedBatches) -> NDArray[np.int64]:
    """Columns of the table that samples hold as they were drawn, ascending: int64 [U]."""
    return np.unique(batches.drawn.indices).astype(np.int64)


def share_asvs(batches: FixedBatches, compute: Compute) -> tuple[Tensor, Tensor]:
    """This rank's share of the ASVs that samples hold, whatever was drawn of them.

    Returns:
        Columns of the table, int64 [U], and how many of the samples hold each, int64 [U]: zero for an ASV that another
        rank has (see `World.share`). Both are on the device.
    """
    times = held_by(batches.draws.table.counts, batches.samples)
    asvs = np.flatnonzero(times)
    share = compute.world.share(len(asvs))
    own = asvs[share.position]
    return torch.from_numpy(own).to(compute.device), torch.from_numpy(times[own] * share.genuine).to(compute.device)


@torch.no_grad()
def embed_asvs(model: Embedder, nucleotides: Tensor, asv: NDArray[np.int64], compute: Compute) -> Tensor:
    """Embed ASVs of the table, each on one rank, for all ranks.

    Args:
        model: in evaluation mode.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        asv: columns of the table, int64 [U].
        compute: device, precision and ranks.

    Returns:
        float [U, D].
    """
    own = torch.from_numpy(asv[compute.world.share(len(asv)).position]).to(compute.device)
    with compute.autocast():
        rows = torch.cat([model.embed_asvs(nucleotides[part]) for part in torch.split(own, ROWS)])
    return compute.world.join(rows, len(asv))


@torch.no_grad()
def embed_samples(
    model: Embedder, nucleotides: Tensor, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> Tensor:
    """Embed samples, each on one rank, for all ranks: [samples, D], in their order."""
    rows = []
    for batch, asv_embedding in embed_batches(model, nucleotides, batches, compute, num_workers):
        with compute.autocast():
            rows.append(model.embed_samples(asv_embedding, batch.slot, batch.count, batch.depth))
    return compute.world.join(torch.cat(rows), len(batches.samples))


@torch.no_grad()
def embed_batches(
    model: Embedder, nucleotides: Tensor, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> Iterator[tuple[SampleBatch, Tensor]]:
    """Embed the ASVs of samples, and give the batches of this rank's share of the samples (see `World.share`).

    Yields:
        Each batch, on the device, with the embeddings [U, D] of its ASVs.
    """
    asv = asvs_of(batches)
    place = torch.zeros(batches.draws.table.n_asvs, dtype=torch.int64)
    place[torch.from_numpy(asv)] = torch.arange(len(asv))
    place = place.to(compute.device)
    asv_embedding = embed_asvs(model, nucleotides, asv, compute)
    for batch in own_batches(batches, compute, num_workers):
        yield batch, asv_embedding[place[batch.asv]]


def own_batches(batches: FixedBatches, compute: Compute, num_workers: int = 0) -> Iterator[SampleBatch]:
    """Batches of this rank's share of the samples (see `World.share`), on the device."""
    own = batches.take(compute.world.share(len(batches.samples)).position)
    for batch in DataLoader(own, batch_size=None, num_workers=num_workers):
        yield batch.to(compute.device)


def join_moments(moments: PairedMoments, world: World) -> PairedMoments:
    """Merge what every rank has seen, in the order of ranks, so that all get the same numbers."""
    own = torch.tensor([astuple(moments)], dtype=torch.float64, device=world.device)
    of_ranks = world.gather(own, [1] * world.size).tolist()
    return sum((PairedMoments(*values) for values in of_ranks), PairedMoments())

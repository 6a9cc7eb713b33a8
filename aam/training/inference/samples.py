"""Embedding the samples of a study: each ASV is encoded once, on one rank, whatever the number of samples that hold it.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, L nucleotides, K outputs, C columns of categories.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aam.data.arrays import Floats, Ints
from aam.data.files.counts import held_by
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.samples import SampleBatch
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.training.distributed import World
from aam.training.inference.asv_embeddings import AsvEmbeddings, AsvEncoding, embed_asvs, held
from aam.training.machine.compute import Compute
from aam.training.metrics import PairedMoments


def asvs_of(batches: FixedBatches) -> Ints:
    """Columns of the table that samples hold as they were drawn, ascending: int64 [U]."""
    return np.flatnonzero(np.bincount(batches.drawn.indices))


def own_asvs(batches: FixedBatches, compute: Compute) -> tuple[Tensor, Tensor]:
    """This rank's part of the ASVs that samples hold, whatever was drawn of them.

    Returns:
        Columns of the table, int64 [U], and how many of the samples hold each, int64 [U]: zero for an ASV that another
        rank has (see `World.part`). Both are on the device.
    """
    times = held_by(batches.draws.table.counts, batches.samples)
    asvs = np.flatnonzero(times)
    part = compute.world.part(len(asvs))
    own = asvs[part.position]
    return torch.from_numpy(own).to(compute.device), torch.from_numpy(times[own] * part.genuine).to(compute.device)


@torch.no_grad()
def embed_samples(
    model: SequenceEncoder,
    nucleotides: Tensor,
    batches: FixedBatches,
    compute: Compute,
    num_workers: int = 0,
    embeddings: AsvEmbeddings | None = None,
) -> Tensor:
    """Embed samples as of `map_samples`: [samples, D], in their order.

    Unless given, embeddings of their ASVs are computed from the table's nucleotides, uint8 [ASVs, L] on the device.
    """
    if embeddings is None:
        embeddings = hold_asvs(model, nucleotides, batches, compute)

    def embed(batch: SampleBatch, asvs: Tensor) -> Tensor:
        embedding: Tensor = model.sample_encoder(batch.samples(asvs)).embedding
        return embedding

    return map_samples(embed, embeddings, batches, compute, num_workers)


@torch.no_grad()
def map_samples(
    work: Callable[[SampleBatch, Tensor], Tensor],
    embeddings: AsvEmbeddings,
    batches: FixedBatches,
    compute: Compute,
    num_workers: int = 0,
) -> Tensor:
    """Compute something of every sample by itself, each on one rank, for all ranks: [samples, ...], in their order.

    Samples of similar size share a batch, which leaves little padding. The model is in evaluation mode.

    Args:
        work: takes a batch, on the device, and the embeddings [U, D] of its ASVs; gives a row for each, [B, ...].
        embeddings: of the ASVs of the samples.
        batches: the samples.
        compute: device, precision and ranks.
        num_workers: processes that prepare batches.
    """
    own = compute.world.part(len(batches.samples)).position
    order = np.argsort(batches.sizes[own], kind="stable")
    rows = []
    for batch in _on_device(batches.take(own[order]), compute, num_workers):
        with compute.autocast():
            rows.append(work(batch, embeddings.of(batch.asv)))
    place = torch.from_numpy(np.argsort(order)).to(compute.device)
    return compute.world.join(torch.cat(rows)[place], len(batches.samples))


def predict_outputs(
    model: SequencePredictor,
    embeddings: AsvEmbeddings,
    batches: FixedBatches,
    compute: Compute,
    num_workers: int = 0,
    categories: Tensor | None = None,
) -> Floats:
    """What the model gives for samples as of `map_samples`: float64 [samples, K], in their order.

    Where the prediction depends on categories, these are int64 [samples of the table, C], on the device.
    """

    def predict(batch: SampleBatch, asvs: Tensor) -> Tensor:
        samples = batch.samples(asvs, None if categories is None else categories[batch.sample])
        prediction: Tensor = model(samples).prediction.double()
        return prediction

    return map_samples(predict, embeddings, batches, compute, num_workers).cpu().numpy()


def hold_asvs(model: AsvEncoding, nucleotides: Tensor, batches: FixedBatches, compute: Compute) -> AsvEmbeddings:
    """Embed the ASVs of samples, each once, for an encoder that may change later."""
    return held(embed_asvs(model, nucleotides, asvs_of(batches), compute), asvs_of(batches), len(nucleotides))


@torch.no_grad()
def embed_batches(
    embeddings: AsvEmbeddings, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> Iterator[tuple[SampleBatch, Tensor]]:
    """Give the batches of this rank's part of the samples (see `World.part`), in their order.

    Yields:
        Each batch, on the device, with the embeddings [U, D] of its ASVs.
    """
    own = batches.take(compute.world.part(len(batches.samples)).position)
    for batch in _on_device(own, compute, num_workers):
        yield batch, embeddings.of(batch.asv)


def _on_device(batches: FixedBatches, compute: Compute, num_workers: int) -> Iterator[SampleBatch]:
    for batch in DataLoader(batches, batch_size=None, num_workers=num_workers):
        yield batch.to(compute.device)


def join_moments(moments: PairedMoments, world: World) -> PairedMoments:
    """Merge what every rank has seen, in the order of ranks, so that all get the same numbers."""
    own = torch.tensor([astuple(moments)], dtype=torch.float64, device=world.device)
    of_ranks = world.gather(own, [1] * world.size).tolist()
    return sum((PairedMoments(*values) for values in of_ranks), PairedMoments())

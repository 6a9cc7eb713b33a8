"""Embedding the samples of a study: each ASV is encoded once, whatever the number of samples that hold it.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, L nucleotides.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from aam.data.dataset import FixedBatches, SampleBatch
from aam.models.sequence_encoder import SequenceEncoder
from aam.training.compute import Compute


def asvs_of(batches: FixedBatches) -> NDArray[np.int64]:
    """Columns of the table that samples hold as they were drawn, ascending: int64 [U]."""
    return np.unique(batches.drawn.indices).astype(np.int64)


@torch.no_grad()
def embed_asvs(encoder: SequenceEncoder, nucleotides: Tensor, asv: NDArray[np.int64], compute: Compute) -> Tensor:
    """Embed ASVs of the table.

    Args:
        encoder: the model, in evaluation mode.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        asv: columns of the table, int64 [U].
        compute: device and precision.

    Returns:
        float [U, D].
    """
    with compute.autocast():
        return encoder.embed_asvs(nucleotides[torch.from_numpy(asv).to(compute.device)])


@torch.no_grad()
def embed_samples(
    encoder: SequenceEncoder, nucleotides: Tensor, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> Iterator[tuple[SampleBatch, Tensor]]:
    """Embed samples batch by batch: yields each batch, on the device, with its sample embeddings [B, D]."""
    for batch, asv_embedding in embed_batches(encoder, nucleotides, batches, compute, num_workers):
        with compute.autocast():
            embedding = encoder.embed_samples(asv_embedding, batch.slot, batch.count, batch.depth)
        yield batch, embedding


@torch.no_grad()
def embed_batches(
    encoder: SequenceEncoder, nucleotides: Tensor, batches: FixedBatches, compute: Compute, num_workers: int = 0
) -> Iterator[tuple[SampleBatch, Tensor]]:
    """Embed the ASVs of samples: yields each batch, on the device, with the embeddings [U, D] of its ASVs."""
    asv = asvs_of(batches)
    place = torch.zeros(batches.draws.table.n_asvs, dtype=torch.int64)
    place[torch.from_numpy(asv)] = torch.arange(len(asv))
    place = place.to(compute.device)
    asv_embedding = embed_asvs(encoder, nucleotides, asv, compute)
    for batch in DataLoader(batches, batch_size=None, num_workers=num_workers):
        here = batch.to(compute.device)
        yield here, asv_embedding[place[here.asv]]

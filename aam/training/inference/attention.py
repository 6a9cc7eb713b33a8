"""What a prediction was made from: attention of ASVs to categories.

Shapes: B samples, S ASVs in a sample, R pairs of a sample and an ASV that it holds, H heads, K categorical columns.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.samples import SampleBatch
from aam.models.sequence_predictor import SequencePredictor
from aam.training.distributed import World
from aam.training.inference.asv_embeddings import AsvEmbeddings
from aam.training.inference.samples import embed_batches
from aam.training.machine.compute import Compute


class AttentionRows(NamedTuple):
    """How much ASVs attend to categorical columns, without padding."""

    pair: Tensor
    """int64 [R, 2], row and column of the table: sample and ASV."""
    weight: Tensor
    """float32 [R, H, K], with sum 1 over K."""


@torch.no_grad()
def attend_to_categories(
    model: SequencePredictor,
    embeddings: AsvEmbeddings,
    batches: FixedBatches,
    compute: Compute,
    categories: Tensor,
    num_workers: int = 0,
) -> Iterator[AttentionRows]:
    """Give the attention of every ASV that the model reads of every sample, a batch of each rank at a time.

    Ranks share the samples, and each gets all rows; these are in the order of the samples, whatever the ranks.

    Args:
        model: in evaluation mode, with a fusion by cross-attention.
        embeddings: of the ASVs of the samples, by this model.
        batches: the samples.
        compute: device, precision and ranks.
        categories: int64 [samples of the table, C], on the device.
        num_workers: processes that prepare batches.

    Yields:
        The rows of some samples, which no other batch has.
    """
    world, samples = compute.world, len(batches.samples)
    # dealt out one by one, so that the batches of all ranks together are a stretch of the samples
    dealt = np.arange(math.ceil(samples / world.size) * world.size).reshape(-1, world.size).T.ravel()
    own = dealt[world.part(len(dealt)).position]
    done = 0
    every = batches.take(np.minimum(dealt, samples - 1))
    for batch, asvs in embed_batches(embeddings, every, compute, num_workers):
        with compute.autocast():
            weight = model.category_attention(batch.samples(asvs, categories[batch.sample]))
        genuine = torch.from_numpy(own[done : done + len(batch.sample)] < samples).to(batch.counts.device)
        done += len(batch.sample)
        yield _gathered(_rows(batch, weight.float(), genuine), world)


def _rows(batch: SampleBatch, weight: Tensor, genuine: Tensor) -> AttentionRows:
    """Leave out padding, and samples that are repeated: [B, H, S, K] -> [R, H, K]."""
    row, place = (~batch.padding & genuine[:, None]).nonzero(as_tuple=True)
    pair = torch.stack([batch.sample[row], batch.asv[batch.asv_index[row, place]]], dim=1)
    return AttentionRows(pair, weight.transpose(1, 2)[row, place])


def _gathered(rows: AttentionRows, world: World) -> AttentionRows:
    """The rows of all ranks, by sample, then in the order in which the model reads its ASVs."""
    size = torch.tensor([len(rows.pair)], device=rows.pair.device)
    sizes = world.gather(size, [1] * world.size).tolist()
    pair, weight = world.gather(rows.pair, sizes), world.gather(rows.weight, sizes)
    order = pair[:, 0].argsort(stable=True)
    return AttentionRows(pair[order], weight[order])

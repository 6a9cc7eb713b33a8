"""Distances between samples, UniFrac as a rule: of all pairs of an optimizer step, on whatever rank or batch.

Shapes: B samples of a batch, R samples of this rank in a step, G samples of the whole step, D width.
"""

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from aam.data.arrays import Ints
from aam.data.sampling.dataset import StepBatch
from aam.data.sampling.samples import SampleBatch, Samples
from aam.data.sampling.seeded import generator
from aam.models.types import EncoderOutput
from aam.training.distributed import gather_counts
from aam.training.inference.samples import join_moments
from aam.training.losses import PAIR_BLOCK, pairwise_gradient
from aam.training.metrics import Better, DistanceMetrics
from aam.training.tasks.base import Comparison, Judged, Microbatch, OfStep
from aam.training.tasks.pretraining import Given, PretrainingTask

PAIR_GROUP = 4096
"""Validation compares all pairs of up to this many samples; more are compared within groups of this size."""
KEPT_BYTES = 2**28
"""Of true distances of validation samples that a rank keeps from one validation to the next."""


class UnifracTask(PretrainingTask):
    """Squared error of the distances of all pairs of samples of a step."""

    name = "unifrac"
    compares = True
    metrics: ClassVar[Better] = {f"unifrac_{name}": better for name, better in DistanceMetrics.better.items()}
    pair_gradient: Callable[..., tuple[Tensor, Tensor]] = staticmethod(pairwise_gradient)
    """The loss of pairs, which gives its value and its gradient at the embeddings."""

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.bounded = given.config.unifrac.unifrac_metric != "weighted_unifrac"
        """Whether distances cannot exceed 1."""
        self.source = given.study.distance_source(given.config.unifrac)
        pairs = len(self.held_out.samples) * min(len(self.held_out.samples), PAIR_GROUP) // 2
        self.kept: dict[int, Tensor] | None = {} if 8 * pairs <= KEPT_BYTES * self.compute.world.size else None
        """True distances of this rank's blocks of pairs of validation samples, once computed; None for too many."""

    def compared(self, output: EncoderOutput) -> Tensor:
        """Scaled embeddings."""
        return output.z

    def compare(self, step: StepBatch, z: Tensor, everyone: Tensor) -> Comparison:
        """See `Task`."""
        true = self._true(step)
        return Comparison(*self.pair_gradient(z, everyone, step.start, self.model.distance, true))

    def _true(self, step: StepBatch) -> Callable[[slice, slice], Tensor]:
        """Make what gives true distances between some of this rank's samples and some of all of the step.

        Every rank draws its own samples, and gets the counts of the others here.
        """
        dense, own = step.distance, step.drawn
        if dense is not None:
            return lambda rows, columns: dense[rows, columns]
        assert own is not None
        samples, drawn = step.samples, gather_counts(self.compute.world, own, step.sizes)

        def distances(rows: slice, columns: slice) -> Tensor:
            here = slice(step.start + rows.start, step.start + rows.stop)
            some = (samples[here], samples[columns])
            return self.source.cross(some, (own[rows], drawn[columns]), self.compute.device)

        return distances

    def loss(self, output: EncoderOutput, micro: Microbatch, of_step: OfStep) -> Tensor:
        """The gradient of the comparison at the samples of the batch; the first batch alone has its value."""
        assert of_step.comparison is not None
        value, gradient = of_step.comparison
        linear = (output.z[micro.batch.real] * gradient[micro.own]).sum()
        return (value if micro.number == 0 else torch.zeros_like(value)) + (linear - linear.detach())

    def judge(self, output: EncoderOutput, batch: SampleBatch, samples: Samples) -> Tensor:
        """Scaled embeddings [B, D]."""
        return output.z

    def validate(self, rows: Tensor) -> Judged:
        """Metrics over pairs of validation samples."""
        distance = DistanceMetrics()
        for predicted, true in self.compare_pairs(rows):
            distance.update(predicted, true)
        distance.moments = join_moments(distance.moments, self.compute.world)
        loss = (distance.moments.rmse or 0.0) ** 2
        return Judged(loss, {f"unifrac_{name}": value for name, value in distance.compute().items()})

    def compare_pairs(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Compare predicted and true distances of validation samples, z [samples, D]: this rank's blocks of pairs.

        Over all ranks, each pair comes once.

        Yields:
            Predicted and true distances, [pairs of the block] each.
        """
        z = z.to(next(self.model.parameters()).dtype)
        for number, (rows, columns) in enumerate(self._blocks(len(z))):
            if number % self.compute.world.size == self.compute.world.rank:
                true = self._true_of_block(number, rows, columns)
                predicted = self.model.distance(z[rows], z[columns])
                yield predicted[torch.from_numpy(rows[:, None] < columns[None, :]).to(z.device)].cpu(), true

    def _blocks(self, samples: int) -> Iterator[tuple[Ints, Ints]]:
        """Cut pairs into blocks: rows and columns, of which the pairs with a lower row than column count."""
        order = generator(self.seed, "pairs").permutation(samples)
        for group in np.array_split(order, math.ceil(samples / PAIR_GROUP)):
            blocks = [np.sort(group)[i : i + PAIR_BLOCK] for i in range(0, len(group), PAIR_BLOCK)]
            yield from ((rows, columns) for i, rows in enumerate(blocks) for columns in blocks[i:])

    def _true_of_block(self, number: int, rows: Ints, columns: Ints) -> Tensor:
        """True distances of the pairs of a block whose row is below the column, on the CPU."""
        if self.kept is not None and number in self.kept:
            return self.kept[number]
        samples, drawn = self.held_out.samples, self.held_out.drawn
        true = self.source.cross((samples[rows], samples[columns]), (drawn[rows], drawn[columns]), self.compute.device)
        of_pairs = true[torch.from_numpy(rows[:, None] < columns[None, :]).to(true.device)].cpu()
        if self.kept is not None:
            self.kept[number] = of_pairs
        return of_pairs

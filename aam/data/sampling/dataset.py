"""From plans of a training step to the tensors that the model reads.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, G samples of a whole optimizer step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from aam.config import UnifracConfig
from aam.data.arrays import Ints
from aam.data.distances import unifrac
from aam.data.distances.matrix import DistanceMatrix
from aam.data.distances.unifrac import StudyTree
from aam.data.files.counts import row_sizes
from aam.data.sampling.packing import AS_PLANNED, Cutting
from aam.data.sampling.rarefaction import FIXED, SampleDraws, row_of
from aam.data.sampling.samples import SampleBatch, TensorRecord
from aam.data.sampling.seeded import generator

DENSE_SAMPLES = 1024
"""Of a step of more samples than this, the true distances are computed where they are needed, block by block."""


@dataclass(frozen=True)
class StepPlan:
    """Which samples one step of the optimizer sees."""

    step: int
    epoch: int
    closes_epoch: bool
    micro: tuple[Ints, ...]
    """Rows of the table, one array for each batch of the step, over all ranks."""
    parts: tuple[tuple[Ints, ...], ...] | None = None
    """For each rank its batches, equally many, where they were made to fit into memory."""

    @property
    def samples(self) -> Ints:
        """All rows of the step, int64 [G]."""
        return np.concatenate(self.micro)

    def parts_of(self, ranks: int) -> list[tuple[Ints, ...]]:
        """Divide every batch among ranks: for each rank its part of each batch, which may be empty."""
        if self.parts is not None:
            return list(self.parts)
        parts = [np.array_split(rows, ranks) for rows in self.micro]
        return [tuple(part[rank] for part in parts) for rank in range(ranks)]


@dataclass(frozen=True, eq=False)
class StepBatch(TensorRecord):
    """Everything one rank needs for one step of the optimizer: its B samples, and how they differ from all G."""

    plan: StepPlan
    micro: tuple[SampleBatch, ...]
    sizes: tuple[int, ...]
    """Samples of each rank; the G samples of the step are in the order of ranks."""
    start: int
    """Where this rank's samples begin among them."""
    distance: Tensor | None = None
    """float64 [G, G], true distances between all samples, where this rank has them all and they are few."""
    drawn: csr_array | None = None
    """int64 [B, ASVs of the table], else: the counts of this rank's samples."""
    faith_pd: Tensor | None = None
    """float64 [B], Faith's PD of this rank's samples."""
    cutting: Cutting = AS_PLANNED
    """How it was cut into batches."""

    @cached_property
    def samples(self) -> Ints:
        """All rows of the step in the order of ranks, int64 [G]."""
        return np.concatenate([rows for part in self.plan.parts_of(len(self.sizes)) for rows in part])


class TreeDistances(NamedTuple):
    """True distances between drawn samples, from the tree; never N x N in memory."""

    tree: StudyTree
    config: UnifracConfig

    def distances(self, samples: Ints, drawn: csr_array) -> Tensor:
        """Distances between samples, float64 [G, G], from their drawn counts [G, ASVs]."""
        return unifrac.distances(self.tree, drawn, self.config)

    def cross(self, samples: tuple[Ints, Ints], drawn: tuple[csr_array, csr_array], device: torch.device) -> Tensor:
        """Distances between two sets of samples, float64 [rows, columns] on a device, from their drawn counts."""
        return unifrac.cross_distances(self.tree, *drawn, self.config, device)


class MatrixDistances(NamedTuple):
    """True distances from a precomputed matrix, whatever was drawn."""

    matrix: DistanceMatrix
    row: Ints
    """Row of the matrix of every sample of the table."""

    def distances(self, samples: Ints, drawn: csr_array) -> Tensor:
        """See `TreeDistances`."""
        return self.matrix.block(self.row[samples], self.row[samples])

    def cross(self, samples: tuple[Ints, Ints], drawn: tuple[csr_array, csr_array], device: torch.device) -> Tensor:
        """See `TreeDistances`."""
        return self.matrix.block(self.row[samples[0]], self.row[samples[1]]).to(device)


DistanceSource = TreeDistances | MatrixDistances


def collate(draws: SampleDraws, samples: Ints, drawn: csr_array, epoch: int | str) -> SampleBatch:
    """Index the ASVs of samples, rows of the table [B], as they were drawn for an epoch, int64 [B, ASVs of the table].

    Each row is padded to the largest of them; `draws` chooses ASVs where a sample has more than the model reads.
    """
    chosen = [draws.choose(int(sample), epoch, row_of(drawn, i)) for i, sample in enumerate(samples)]
    sizes = np.array([len(asv) for asv, _ in chosen])
    unique, inverse, occurrence = np.unique(
        np.concatenate([asv for asv, _ in chosen]), return_inverse=True, return_counts=True
    )
    filled = np.arange(sizes.max()) < sizes[:, None]
    asv_index = np.zeros(filled.shape, dtype=np.int64)
    counts = np.zeros(filled.shape, dtype=np.int64)
    asv_index[filled] = inverse
    counts[filled] = np.concatenate([count for _, count in chosen])
    depth = drawn.sum(axis=1)
    tensors = [torch.from_numpy(array) for array in (samples, unique, asv_index, counts, depth, ~filled, occurrence)]
    return SampleBatch(*tensors)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class StepDataset(Dataset[StepBatch]):
    """Turns a `StepPlan` into the `StepBatch` of one rank; seeded draws let any worker or rank make any of them."""

    draws: SampleDraws
    source: DistanceSource | None = None
    faith_tree: StudyTree | None = None
    rank: int = 0
    ranks: int = 1
    cutting: Cutting = AS_PLANNED
    """Into which batches steps are cut."""

    def __getitem__(self, plan: StepPlan) -> StepBatch:
        # the samples of other ranks are theirs to draw, but where their sizes decide how the step is cut
        everyone = self.draws.rows(plan.samples, plan.epoch) if self.cutting.budget is not None else None
        plan, unordered = self.fitted(plan, everyone), plan.samples
        parts = plan.parts_of(self.ranks)
        sizes = tuple(sum(map(len, part)) for part in parts)
        own = np.concatenate(parts[self.rank])
        drawn = self.draws.rows(own, plan.epoch) if everyone is None else everyone[_places(unordered, own)]
        batch = StepBatch(plan, (), sizes, sum(sizes[: self.rank]))
        if self.source is not None and self.ranks == 1 and len(own) <= DENSE_SAMPLES:
            batch = replace(batch, distance=self.source.distances(own, drawn))
        elif self.source is not None:  # what they are computed from later
            batch = replace(batch, drawn=drawn)
        if self.faith_tree is not None:
            batch = replace(batch, faith_pd=unifrac.faith_pd(self.faith_tree, drawn))
        ends = np.cumsum([0] + [len(rows) for rows in parts[self.rank]])
        micro = tuple(
            collate(self.draws, rows, drawn[begin:end], plan.epoch) if len(rows) else self._padding_batch(plan)
            for rows, begin, end in zip(parts[self.rank], ends[:-1], ends[1:], strict=True)
        )
        return replace(batch, micro=micro, cutting=self.cutting)

    def read(self, samples: Ints, epoch: int, drawn: csr_array | None = None) -> list[Ints]:
        """The ASVs that the model reads of each sample, columns of the table; its counts may be drawn already."""
        if drawn is None:
            drawn = self.draws.rows(samples, epoch)
        return [self.draws.choose(int(row), epoch, row_of(drawn, i))[0] for i, row in enumerate(samples)]

    def fitted(self, plan: StepPlan, drawn: csr_array | None = None) -> StepPlan:
        """Cut a step into batches that fit into the memory, the same on every rank; its counts may be drawn already."""
        asvs = [] if self.cutting.budget is None else self.read(plan.samples, plan.epoch, drawn)
        planned = replace(plan, parts=None).parts_of(self.ranks)
        return replace(plan, parts=self.cutting.parts(plan.samples, asvs, planned))

    def _padding_batch(self, plan: StepPlan) -> SampleBatch:
        """Stand in for a part without samples, so that every rank makes the same calls."""
        sample = plan.samples[:1]
        batch = collate(self.draws, sample, self.draws.rows(sample, plan.epoch), plan.epoch)
        return replace(batch, is_padding=True, occurrence=torch.zeros_like(batch.occurrence))


@dataclass(frozen=True, eq=False)
class PooledStepDataset(StepDataset):
    """Gives the samples of a step without their reads, for a model that begins from embedded samples."""

    def __getitem__(self, plan: StepPlan) -> StepBatch:
        # nothing of a sample depends on its ASVs
        plan = replace(self, cutting=replace(self.cutting, budget=None)).fitted(plan)
        parts = plan.parts_of(self.ranks)
        sizes = tuple(sum(map(len, part)) for part in parts)
        micro = tuple(
            SampleBatch.without_asvs(rows if len(rows) else plan.samples[:1], not len(rows))
            for rows in parts[self.rank]
        )
        return StepBatch(plan, micro, sizes, sum(sizes[: self.rank]), cutting=self.cutting)


def _places(samples: Ints, wanted: Ints) -> Ints:
    """Where each of some different samples is among them in another order."""
    order = np.argsort(samples)
    return order[np.searchsorted(samples, wanted, sorter=order)]


@dataclass(frozen=True, eq=False)
class StepSampler(Sampler[StepPlan]):
    """Plans the whole run; the plan of a step is a function of (seed, epoch, step) alone.

    So a run continues at any step by starting the sampler there, and nobody has to announce a new epoch.
    """

    samples: Ints
    batch_size: int
    accumulation_steps: int
    epochs: int
    seed: int
    start: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in an epoch; their sizes differ by one sample at most, and so do those of batches."""
        return math.ceil(len(self.samples) / (self.batch_size * self.accumulation_steps))

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[StepPlan]:
        for epoch in range(self.start // self.steps_per_epoch, self.epochs):
            for plan in self.plan_epoch(epoch):
                if plan.step >= self.start:
                    yield plan

    def plan_epoch(self, epoch: int) -> list[StepPlan]:
        """Shuffle the samples and cut them into the steps of one epoch."""
        shuffled = generator(self.seed, "shuffle", epoch).permutation(self.samples)
        # a last step of a sample or two would have no pairs, and count as much as any other
        steps = np.array_split(shuffled, self.steps_per_epoch)
        return [
            StepPlan(
                step=epoch * self.steps_per_epoch + i,
                epoch=epoch,
                closes_epoch=i == len(steps) - 1,
                micro=tuple(np.array_split(rows, math.ceil(len(rows) / self.batch_size))),
            )
            for i, rows in enumerate(steps)
        ]


@dataclass(frozen=True, eq=False)
class FixedBatches(Dataset[SampleBatch]):
    """Samples in order, drawn once: for validation, prediction and embedding."""

    draws: SampleDraws
    samples: Ints
    batch_size: int

    @cached_property
    def drawn(self) -> csr_array:
        """Counts of the samples, int64 [samples, ASVs of the table]."""
        return self.draws.rows(self.samples, FIXED)

    @property
    def sizes(self) -> Ints:
        """ASVs that the model reads of each sample, int64 [samples]."""
        return self.draws.capped(row_sizes(self.drawn))

    def take(self, positions: Ints) -> Self:
        """Some of the samples, by their positions; they are not drawn again."""
        some = replace(self, samples=self.samples[positions])
        some.__dict__["drawn"] = self.drawn[positions]  # where cached_property keeps it
        return some

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch_size)

    def __getitem__(self, index: int) -> SampleBatch:
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if rows.start >= len(self.samples):
            raise IndexError(index)
        return collate(self.draws, self.samples[rows], self.drawn[rows], FIXED)

"""How much memory training takes: predicted from the shape of the network, and measured.

Shapes: U unique ASVs of a batch, P patches of an ASV, S ASVs in a sample, D width.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from aam.config import MaskConfig, ModelConfig, PretrainConfig, TrainConfig
from aam.data.sampling.dataset import StepDataset, StepPlan
from aam.data.sampling.packing import BatchCost, MemoryBudget, Rows
from aam.data.sampling.rarefaction import SampleDraws
from aam.errors import InputError, first_ids
from aam.models.packing import has_varlen
from aam.training.distributed import World
from aam.training.distributed.sharding import own_part
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import compile_obstacle
from aam.training.memory.meters import free_memory, meter_of
from aam.training.objective import Objective

logger = logging.getLogger(__name__)

GB: Final = 10**9
PROBED: Final = 0.6
"""Fraction of the budget that the larger probe may take, as predicted before anything is measured."""
GUESSED_SCALE: Final = 1.25
"""What the prediction is multiplied by for that."""
KEPT_FREE: Final = 0.05
"""Fraction of the budget that batches leave for what varies."""
LOWERED: Final = 0.9
"""What the limit of a batch is multiplied by where a step has taken more than the process may."""
LOWEST: Final = 0.5
"""Fraction of what the process may take below which that is not done: the batches are not to blame."""
TIGHT: Final = 0.6
"""Fraction of the budget up to which a process may keep the memory of freed tensors, with holes between others."""
JUDGED: Final = 0.25
"""Fraction of the memory that a batch of samples may take that are judged."""


def is_limited(config: PretrainConfig | TrainConfig) -> bool:
    """Whether something is said of the memory that a run may take."""
    return config.memory.max_memory_gb is not None or config.optim.batch_size == "auto"


def memory_limit(config: PretrainConfig | TrainConfig, world: World) -> float:
    """Bytes that a process of a run may take: as said, else of what is free on every rank; every rank calls this."""
    if config.memory.max_memory_gb is not None:
        return GB * config.memory.max_memory_gb
    free = torch.tensor([[float(free_memory(world.device))]], dtype=torch.float64, device=world.device)
    least = float(world.gather(free, [1] * world.size).min())
    return config.memory.max_memory_fraction * least / (1 if world.device.type == "cuda" else world.size)


def judged_at_once(config: PretrainConfig | TrainConfig, draws: SampleDraws, samples: Rows, world: World) -> int:
    """How many samples are judged at once: as many as in training, or fewer that surely fit; every rank calls this."""
    size = config.optim.batch_samples
    if not is_limited(config):
        return size
    asvs = int(draws.most_asvs(samples, mixed=False).max(initial=1))
    cost = predicted_cost(config.model, None, layers=1, frozen=True)  # nothing is kept for a backward pass
    return min(size, max(1, int(JUDGED * memory_limit(config, world) / cost.of_batch(0, [asvs]))))


def lowered(budget: MemoryBudget) -> MemoryBudget:
    """Let batches be smaller, as far as that may help."""
    assert budget.ceiling is not None
    return replace(budget, limit=max(LOWERED * budget.limit, min(budget.limit, LOWEST * budget.ceiling)))


def predicted_cost(
    model: ModelConfig,
    masking: MaskConfig | None,
    frozen: bool = False,
    padded: bool = False,
    layers: int | None = None,
) -> BatchCost:
    """Bytes that a batch takes, as the shape of the network tells, in single precision.

    A block keeps for its backward pass its input, two normed inputs, queries, keys and values, what attention gives,
    and the hidden layer before and after its activation; with gradient checkpointing its input alone. Attention of the
    kernel ``math`` keeps the weights of all pairs besides, and has three more such matrices in work.

    Args:
        model: the shape, ``max_bp`` resolved.
        masking: which ASVs go through once more with masked nucleotides; None for none.
        frozen: whether ASVs come embedded.
        padded: whether samples are padded to the largest of their batch.
        layers: that keep what they compute for the backward pass; None for all.
    """
    assert model.max_bp is not None
    width, layers = 4 * model.embedding_dim, layers or model.attention_layers
    of_block = 1 if model.gradient_checkpointing else 8 + 2 * model.feedforward_ratio
    patches = -(-model.max_bp // model.nucleotide_patch)
    passes = 1.0 + (masking.nuc_asv_fraction if masking is not None else 0.0)
    of_pairs = 4 * model.attention_heads if model.attn_implementation == "math" else 0
    kept = 0 if model.gradient_checkpointing else layers
    of_asv = patches * (width * (of_block * layers + 6) + of_pairs * kept * patches)
    return BatchCost(
        unique=float(width) if frozen else passes * of_asv,
        sampled=float(width * (of_block * layers + 12)),
        paired=float(of_pairs * (kept + 3)),
        padded=padded,
    )


def cost_of_run(config: PretrainConfig | TrainConfig, compute: Compute) -> BatchCost:
    """Bytes that a batch of a run takes, as its options and its device tell."""
    frozen = isinstance(config, TrainConfig) and bool(config.finetune.freeze_base)
    masking = config.masking if isinstance(config, PretrainConfig) and config.losses.learns("nucleotide") else None
    model, device = config.model, compute.device
    with compute.autocast():
        head = model.embedding_dim // model.attention_heads
        padded = device.type == "cuda" and not has_varlen(device, model.attn_implementation, head)
    compiled = config.runtime.compile_model and compile_obstacle(device) is None
    return predicted_cost(model, masking, frozen, compiled or padded)


class Held(NamedTuple):
    """Bytes that one process holds whatever the batch."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW keeps two numbers for each weight, from its first step on."""


def held_by_training(model: nn.Module, device: torch.device) -> Held:
    """Bytes of weights, of gradients and of the optimizer on a device; of this process's part if they are sharded."""
    parts = [(own_part(weight), weight.requires_grad) for weight in model.parameters()]
    here = [(part.nbytes, learned) for part, learned in parts if part.device.type == device.type]
    learned = sum(size for size, is_learned in here if is_learned)
    return Held(sum(size for size, _ in here), learned, 2 * learned)


@dataclass(frozen=True, eq=False)
class Trial:
    """Steps of the largest training samples, on which is measured what batches take."""

    objective: Objective[Any]
    dataset: StepDataset
    """Makes the batches, as planned."""
    samples: Rows
    """Rows of the training samples, the largest first."""
    most: int
    """Samples in a step."""

    @classmethod
    def of(cls, objective: Objective[Any], dataset: StepDataset, samples: Rows, most: int) -> Self:
        """Order the training samples by their ASVs."""
        return cls(objective, dataset, samples[np.argsort(-dataset.draws.most_asvs(samples), kind="stable")], most)

    def fit(self, budget: MemoryBudget) -> MemoryBudget:
        """Measure two batches, forward and backward, and correct what is predicted of the cost by them.

        Gradients are held meanwhile, as they are from the second batch of a step on. Nothing of it stays: gradients are
        dropped in the end, and no draw depends on what was drawn before.

        Raises:
            InputError: a sample by itself takes more than the limit, or the system does not tell what is taken.
        """
        held = held_by_training(self.objective.model, self.objective.parallel.world.device)
        guess = replace(budget.cost, scale=GUESSED_SCALE, fixed=held.gradients)
        small, large = self._probes(MemoryBudget(PROBED * budget.limit, guess))
        cost = self._measured(budget.cost, small, large)
        self.objective.model.zero_grad(set_to_none=True)
        fitted = replace(budget, cost=replace(cost, fixed=cost.fixed + held.optimizer))
        self._check(fitted)
        logger.info(
            "memory: %.2f GB + %.0f kB for each unique ASV + %.1f kB for each ASV of a sample, measured on batches of "
            "%d and %d samples; up to %.2f GB are used",
            fitted.cost.fixed / GB,
            cost.scale * cost.unique / 1e3,
            cost.scale * cost.sampled / 1e3,
            len(small),
            len(large),
            fitted.limit / GB,
        )
        return fitted

    def is_tight(self, budget: MemoryBudget) -> bool:
        """Whether a step comes near the limit; says how many samples fit at once."""
        asvs = self.dataset.read(self.samples[: -(-self.most // self.dataset.ranks)], 0)
        fits = budget.largest_batch(asvs)
        logger.info("a batch of the %d largest samples fits into the memory, of the %d of a step", fits, len(asvs))
        return replace(budget, limit=TIGHT * budget.limit).largest_batch(asvs) < len(asvs)

    def _probes(self, guess: MemoryBudget) -> tuple[Rows, Rows]:
        """Two sets of samples: a quarter of the largest that surely fit, and all; one for each rank at least."""
        least = self.dataset.ranks
        ordered = self.samples[: max(2 * least, self.most)]
        many = max(2 * least, least * guess.largest_batch(self.dataset.read(ordered[::least], 0)))
        return ordered[: max(least, many // 4)], ordered[:many]

    def _measured(self, cost: BatchCost, *probes: Rows) -> BatchCost:
        """Fit a cost to the peaks of two probes, the smaller one first, on the rank where they are highest."""
        world = self.objective.parallel.world
        meter = meter_of(world.device)
        meter.start()
        self._run(probes[0])  # makes the gradients
        meter.forget()
        worst = []
        for rows in probes:
            size = self._run(rows)
            own = [[float(meter.peak()), cost.of_batch(*size)]]
            everyone = world.gather(torch.tensor(own, dtype=torch.float64, device=world.device), [1] * world.size)
            worst.append(everyone.amax(0).tolist())
        (least, small), (most, large) = worst
        return cost.fit((small, large), (least, most))

    def _run(self, rows: Rows) -> tuple[int, list[int]]:
        """Add the gradient of a batch; returns its unique ASVs, and the ASVs of each of its samples."""
        step = self.dataset[StepPlan(step=0, epoch=0, closes_epoch=False, micro=(rows,))]
        self.objective.backward(step.to(self.objective.parallel.world.device), lambda loss: loss)
        (batch,) = step.micro
        return len(batch.asv), (~batch.padding).sum(1).tolist()

    def _check(self, budget: MemoryBudget) -> None:
        sizes = self.dataset.draws.most_asvs(self.samples)
        bytes_of = np.array([budget.cost.of_batch(size, [size]) for size in sizes.tolist()])
        over = np.flatnonzero(bytes_of > budget.limit)
        if len(over):
            worst = int(bytes_of.argmax())
            ids = self.dataset.draws.table.sample_ids
            raise InputError(
                f"{len(over)} of {len(self.samples)} training samples take more memory than the "
                f"{budget.limit / GB:.2f} GB that may be used, each by itself: "
                f"{first_ids(ids[self.samples[i]] for i in over)}; the largest has {sizes[worst]:,} ASVs and takes "
                f"about {bytes_of[worst] / GB:.2f} GB: give a larger --max-memory-gb, a lower --max-asvs or "
                "--rarefy-depth, or --gradient-checkpointing"
            )

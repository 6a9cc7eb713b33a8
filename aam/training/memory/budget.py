"""How much memory training takes: predicted from the shape of the network, and measured.

Shapes: U unique ASVs of a batch, P patches of an ASV, S ASVs in a sample, D width.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aam.config import MaskConfig, ModelConfig
from aam.data.sampling.dataset import StepBatch, StepDataset, StepPlan
from aam.data.sampling.packing import BatchCost, MemoryBudget
from aam.errors import InputError, first_ids
from aam.training.distributed.sharding import own_part
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
_PROC: Final = Path("/proc/self")


class Meter(Protocol):
    """Measures how much memory this process has taken at most."""

    def start(self) -> None:
        """Begin anew."""
        ...

    def peak(self) -> int:
        """The most bytes since the beginning, or since `forget`, above what was taken in the beginning."""
        ...

    def forget(self) -> None:
        """Let the peak be what is taken now."""
        ...


class ResidentMeter:
    """The resident memory of a process on Linux (proc(5): VmHWM, which ``clear_refs`` sets back)."""

    highest: ClassVar[int] = 0
    """The most bytes that any meter has made the process forget."""

    def start(self) -> None:
        """See `Meter`."""
        self.forget()
        self._before, self._files = _status("VmRSS"), _status("RssFile")

    def peak(self) -> int:
        """See `Meter`; pages of files that were read meanwhile do not count, which the system takes back at need."""
        return _status("VmHWM") - self._before - max(0, _status("RssFile") - self._files)

    def peak_of_all(self) -> int:
        """The most bytes since the beginning, also what this or another meter has forgotten; pages of files count."""
        return max(ResidentMeter.highest, _status("VmHWM")) - self._before

    def forget(self) -> None:
        """See `Meter`."""
        ResidentMeter.highest = max(ResidentMeter.highest, _status("VmHWM"))
        (_PROC / "clear_refs").write_text("5")


class DeviceMeter:
    """What PyTorch's allocator has taken of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """See `Meter`."""
        self.forget()
        self._before = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """See `Meter`."""
        return torch.cuda.max_memory_allocated(self.device) - self._before

    def forget(self) -> None:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self.device)


class Watch:
    """Tells of every step whether the process has taken more memory than it may.

    Args:
        meter: starts here, before the first batch.
        ceiling: bytes that the process may take, above what it has taken by now.
    """

    def __init__(self, meter: Meter, ceiling: float) -> None:
        self.meter, self.ceiling = meter, ceiling
        meter.start()

    def is_exceeded(self) -> bool:
        """Whether more was taken since this was asked last."""
        peak = self.meter.peak()
        self.meter.forget()
        return peak > self.ceiling

    def forget(self) -> None:
        """Leave out what was taken since, which was not for a step."""
        self.meter.forget()


def lowered(budget: MemoryBudget) -> MemoryBudget:
    """Let batches be smaller, as far as that may help."""
    assert budget.ceiling is not None
    return replace(budget, limit=max(LOWERED * budget.limit, min(budget.limit, LOWEST * budget.ceiling)))


def meter_of(device: torch.device) -> Meter:
    """The meter of a device.

    Raises:
        InputError: the system does not tell the resident memory.
    """
    if device.type == "cuda":
        return DeviceMeter(device)
    if not (_PROC / "clear_refs").exists():
        raise InputError("--max-memory-gb and --batch-size auto on a CPU read /proc, which only Linux has: drop them")
    return ResidentMeter()


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", (_PROC / "status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def free_memory(device: torch.device) -> int:
    """Bytes that are free: of a GPU, or of the machine and of the control group that this process is in.

    Raises:
        InputError: the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").exists():
        raise InputError("--batch-size auto on a CPU reads /proc, which only Linux has: give a number of samples")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return min([1024 * int(found[1]), *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What the limits of control groups (version 2) leave: of this process's group, and of all above it."""
    found = re.search(r"^0::/(.*)$", (_PROC / "cgroup").read_text(), re.MULTILINE)
    root = Path("/sys/fs/cgroup")
    group = root / found[1] if found else root
    left = []
    for folder in (group, *group.parents):
        if folder.is_relative_to(root) and (folder / "memory.max").exists():
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                left.append(int(limit) - int((folder / "memory.current").read_text()))
    return left


def predicted_cost(
    model: ModelConfig, masking: MaskConfig | None, frozen: bool = False, padded: bool = False
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
    """
    assert model.max_bp is not None
    width, layers = 4 * model.embedding_dim, model.attention_layers
    of_block = 1 if model.gradient_checkpointing else 8 + 2 * model.feedforward_ratio
    patches = -(-model.max_bp // model.nucleotide_patch)
    passes = 1.0 + (masking.nuc_asv_fraction if masking is not None else 0.0)
    of_pairs = 4 * model.attention_heads if model.attn_implementation == "math" else 0
    kept = 0 if model.gradient_checkpointing else layers
    of_asv = patches * (width * (of_block * layers + 6) + of_pairs * kept * patches)
    return BatchCost(
        unique=width if frozen else passes * of_asv,
        sampled=width * (of_block * layers + 12),
        paired=of_pairs * (kept + 3),
        padded=padded,
    )


def calibrate(
    objective: Objective[Any],
    model: nn.Module,
    dataset: StepDataset,
    samples: NDArray[np.int64],
    budget: MemoryBudget,
    most: int,
) -> MemoryBudget:
    """Measure two batches of the largest samples, forward and backward, and correct the prediction by them.

    Gradients are held meanwhile, as they are from the second batch of a step on. Nothing of it stays: gradients are
    dropped in the end, and no draw depends on what was drawn before.

    Args:
        objective: what is learned.
        model: the bare model, for its gradients.
        dataset: makes batches; without a budget.
        samples: rows of the training samples.
        budget: the limit, and what is predicted before anything is measured.
        most: samples in a step.

    Raises:
        InputError: a sample by itself takes more than the limit.
    """
    world = objective.parallel.world
    ordered = _largest_first(dataset, samples)[: max(2 * world.size, most)]
    held = held_by_training(model, world.device)
    guess = replace(budget.cost, scale=GUESSED_SCALE, fixed=held.gradients)
    small, large = _probes(dataset, ordered, MemoryBudget(PROBED * budget.limit, guess))
    cost = _measured_cost(objective, dataset, (small, large), budget.cost)
    model.zero_grad(set_to_none=True)
    fitted = replace(budget, cost=replace(cost, fixed=cost.fixed + held.optimizer))
    _check_samples(dataset, samples, fitted)
    logger.info(
        "memory: %.2f GB + %.0f kB for each unique ASV + %.1f kB for each ASV of a sample, measured on batches of %d "
        "and %d samples; up to %.2f GB are used",
        fitted.cost.fixed / GB,
        cost.scale * cost.unique / 1e3,
        cost.scale * cost.sampled / 1e3,
        len(small),
        len(large),
        fitted.limit / GB,
    )
    return fitted


def _measured_cost(
    objective: Objective[Any], dataset: StepDataset, probes: tuple[NDArray[np.int64], ...], cost: BatchCost
) -> BatchCost:
    """Fit a cost to the peaks of two probes, the smaller one first, on the rank where they are highest."""
    world = objective.parallel.world
    meter = meter_of(world.device)
    meter.start()
    _probe(objective, dataset, probes[0])  # makes the gradients
    meter.forget()
    worst = []
    for rows in probes:
        step = _probe(objective, dataset, rows)
        own = [[float(meter.peak()), cost.of_batch(*_size(step))]]
        everyone = world.gather(torch.tensor(own, dtype=torch.float64, device=world.device), [1] * world.size)
        worst.append(everyone.amax(0).tolist())
    (least, small), (most, large) = worst
    return cost.fit((small, large), (least, most))


def _probe(objective: Objective[Any], dataset: StepDataset, rows: NDArray[np.int64]) -> StepBatch:
    """Add the gradient of a batch."""
    step = dataset[StepPlan(step=0, epoch=0, closes_epoch=False, micro=(rows,))]
    objective.backward(step.to(objective.parallel.world.device), lambda loss: loss)
    return step


class Held(NamedTuple):
    """Bytes that one process holds whatever the batch."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW keeps two numbers for each weight, from its first step on."""


def held_by_training(model: nn.Module, device: torch.device) -> Held:
    """Bytes of weights, of gradients and of the optimizer on a device; of this process's part if they are divided."""
    parts = [(own_part(weight), weight.requires_grad) for weight in model.parameters()]
    here = [(part.nbytes, learned) for part, learned in parts if part.device.type == device.type]
    learned = sum(size for size, is_learned in here if is_learned)
    return Held(sum(size for size, _ in here), learned, 2 * learned)


def is_tight(budget: MemoryBudget, dataset: StepDataset, samples: NDArray[np.int64], most: int) -> bool:
    """Whether a step of so many of the largest samples comes near the limit; says how many of them fit at once."""
    ordered = _largest_first(dataset, samples)[: -(-most // dataset.ranks)]
    asvs = dataset.read(ordered, 0)
    fits = budget.largest_batch(asvs)
    logger.info("a batch of the %d largest samples fits into the memory, of the %d of a step", fits, len(asvs))
    return replace(budget, limit=TIGHT * budget.limit).largest_batch(asvs) < len(asvs)


def _size(step: StepBatch) -> tuple[int, list[int]]:
    """Unique ASVs, and ASVs of each sample, of the only batch of a step."""
    (batch,) = step.micro
    return len(batch.asv), (~batch.padding).sum(1).tolist()


def _largest_first(dataset: StepDataset, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    return samples[np.argsort(-dataset.draws.most_asvs(samples), kind="stable")]


def _probes(dataset: StepDataset, ordered: NDArray[np.int64], guess: MemoryBudget) -> tuple[NDArray[np.int64], ...]:
    """Two sets of samples: as many of the largest as surely fit, and a quarter of them; one for each rank at least."""
    asvs = dataset.read(ordered[:: dataset.ranks], 0)
    least = dataset.ranks
    many = max(2 * least, dataset.ranks * guess.largest_batch(asvs))
    return ordered[: max(least, many // 4)], ordered[:many]


def _check_samples(dataset: StepDataset, samples: NDArray[np.int64], budget: MemoryBudget) -> None:
    sizes = dataset.draws.most_asvs(samples)
    bytes_of = np.array([budget.cost.of_batch(size, [size]) for size in sizes.tolist()])
    over = np.flatnonzero(bytes_of > budget.limit)
    if len(over):
        worst = int(bytes_of.argmax())
        ids = dataset.draws.table.sample_ids
        raise InputError(
            f"{len(over)} of {len(samples)} training samples take more memory than the {budget.limit / GB:.2f} GB that "
            f"may be used, each by itself: {first_ids(ids[samples[i]] for i in over)}; the largest has "
            f"{sizes[worst]:,} ASVs and takes about {bytes_of[worst] / GB:.2f} GB: give a larger --max-memory-gb, a "
            "lower --max-asvs or --rarefy-depth, or --gradient-checkpointing"
        )

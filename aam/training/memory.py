"""How much memory training takes: predicted from the shape of the network, and measured.

Shapes: U unique ASVs of a batch, P patches of an ASV, S ASVs in a sample, D width.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aam.config import MaskConfig, ModelConfig
from aam.data.dataset import StepBatch, StepDataset, StepPlan
from aam.data.packing import BatchCost, MemoryBudget
from aam.data.rarefaction import row_of
from aam.errors import InputError, first_ids
from aam.training.divided import own_part
from aam.training.objective import Objective

logger = logging.getLogger(__name__)

GB: Final = 10**9
PROBED: Final = 0.6
"""Share of the budget that the larger probe may take, as predicted before anything is measured."""
GUESSED_SCALE: Final = 1.25
"""What the prediction is multiplied by for that."""
KEPT_FREE: Final = 0.05
"""Share of the budget that batches leave for what varies."""
TIGHT: Final = 0.6
"""Share of the budget up to which a process may keep the memory of freed tensors, with holes between others."""
_PROC: Final = Path("/proc/self")


class Meter(Protocol):
    """Measures how much memory this process has taken at most."""

    def start(self) -> None:
        """Begin anew."""
        ...

    def peak(self) -> int:
        """The most bytes since the beginning, above what was taken then."""
        ...


class ResidentMeter:
    """The resident memory of a process on Linux (proc(5): VmHWM, which ``clear_refs`` sets back)."""

    def start(self) -> None:
        """See `Meter`."""
        (_PROC / "clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def peak(self) -> int:
        """See `Meter`."""
        return _status("VmHWM") - self._before


class DeviceMeter:
    """What PyTorch's allocator has taken of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """See `Meter`."""
        return torch.cuda.max_memory_allocated(self.device) - self._before


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
    """Bytes that are free: of a GPU, or of the machine and of the control group that this process is in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
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


def predicted_cost(model: ModelConfig, masking: MaskConfig | None, frozen: bool = False) -> BatchCost:
    """Bytes that a batch takes, as the shape of the network tells, in single precision.

    A block keeps for its backward pass its input, two normed inputs, queries, keys and values, what attention gives,
    and the hidden layer before and after its activation; with gradient checkpointing its input alone.

    Args:
        model: the shape, ``max_bp`` resolved.
        masking: which ASVs go through once more with hidden nucleotides; None for none.
        frozen: whether ASVs come embedded.
    """
    assert model.max_bp is not None
    width, layers = 4 * model.embedding_dim, model.attention_layers
    of_block = 1 if model.gradient_checkpointing else 8 + 2 * model.feedforward_ratio
    patches = -(-model.max_bp // model.nucleotide_patch)
    passes = 1.0 + (masking.nuc_asv_share if masking is not None else 0.0)
    unique = width if frozen else width * patches * passes * (of_block * layers + 6)
    return BatchCost(unique=unique, sampled=width * (of_block * layers + 12))


def calibrate(
    objective: Objective,
    model: nn.Module,
    dataset: StepDataset,
    samples: NDArray[np.int64],
    budget: MemoryBudget,
    most: int,
) -> MemoryBudget:
    """Measure two batches of the largest samples, forward and backward, and correct the prediction by them.

    Nothing of it stays: gradients are dropped, and no draw depends on what was drawn before.

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
    small, large = _probes(dataset, ordered, budget)
    measured, sizes = [], []
    meter = meter_of(world.device)
    meter.start()
    for rows in (small, large):
        step = dataset[StepPlan(step=0, epoch=0, closes_epoch=False, micro=(rows,))]
        objective.backward(step.to(world.device), lambda loss: loss)
        model.zero_grad(set_to_none=True)
        own = torch.tensor([[float(meter.peak()), *map(float, _size(step))]], dtype=torch.float64, device=world.device)
        worst = world.gather(own, [1] * world.size).amax(0).tolist()
        measured.append(worst[0])
        sizes.append((int(worst[1]), int(worst[2])))
    cost = budget.cost.fit((sizes[0], sizes[1]), (measured[0], measured[1]))
    # the optimizer keeps two numbers for each weight, from its first step on
    states = sum(2 * own_part(weight).nbytes for weight in model.parameters() if weight.requires_grad)
    fitted = replace(budget, cost=replace(cost, fixed=cost.fixed + states))
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


def is_tight(budget: MemoryBudget, dataset: StepDataset, samples: NDArray[np.int64], most: int) -> bool:
    """Whether a step of so many of the largest samples comes near the limit; says how many of them fit at once."""
    ordered = _largest_first(dataset, samples)[: -(-most // dataset.ranks)]
    asvs = [row_of(dataset.draws.table.counts, int(row))[0] for row in ordered]
    fits = budget.largest_batch(asvs)
    logger.info("a batch of the %d largest samples fits into the memory, of the %d of a step", fits, len(asvs))
    return replace(budget, limit=TIGHT * budget.limit).largest_batch(asvs) < len(asvs)


def _size(step: StepBatch) -> tuple[int, int]:
    """Unique ASVs, and ASVs of samples, of the only batch of a step."""
    (batch,) = step.micro
    return len(batch.asv), int((batch.count > 0).sum())


def _read(dataset: StepDataset, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most ASVs of each sample that the model can meet, whatever is drawn."""
    held = np.diff(dataset.draws.table.counts.indptr)[samples].astype(np.int64)
    limit = dataset.draws.config.max_asvs
    return np.minimum(held, limit) if limit else held


def _largest_first(dataset: StepDataset, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    return samples[np.argsort(-_read(dataset, samples), kind="stable")]


def _probes(dataset: StepDataset, ordered: NDArray[np.int64], budget: MemoryBudget) -> tuple[NDArray[np.int64], ...]:
    """Two sets of samples: as many of the largest as surely fit, and a quarter of them; one for each rank at least."""
    guess = MemoryBudget(PROBED * budget.limit, replace(budget.cost, scale=GUESSED_SCALE))
    asvs = [row_of(dataset.draws.table.counts, int(row))[0] for row in ordered]
    least = dataset.ranks
    many = max(2 * least, dataset.ranks * guess.largest_batch(asvs[:: dataset.ranks]))
    return ordered[: max(least, many // 4)], ordered[:many]


def _check_samples(dataset: StepDataset, samples: NDArray[np.int64], budget: MemoryBudget) -> None:
    sizes = _read(dataset, samples)
    bytes_of = np.array([budget.cost.of(size, size) for size in sizes.tolist()])
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

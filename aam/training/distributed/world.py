"""The processes that train together, with a single-process twin so that no caller asks which it has.

Shapes: B_r samples of rank r, G samples of all ranks, D width, W ranks.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from scipy.sparse import csr_array
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, TCPStore  # type: ignore[attr-defined]

from aam.config import DistributedConfig
from aam.config.launch import launched_local_rank, launched_rank, launched_world_size, restart_count
from aam.data.arrays import Bools, Ints
from aam.errors import (
    InputError,
    PeerFailedError,
    ReportedInputError,
    StoppedBySignalError,
    TrainingDivergedError,
)
from aam.training.distributed.data_parallel import check_data_parallel
from aam.training.distributed.watchdog import Failure, Watchdog, leave
from aam.training.machine.hardware import Build, backend_for, device_for

logger = logging.getLogger(__name__)

T = TypeVar("T")

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
"""The longest wait for another rank; a rank that died or was stopped is noticed much sooner, by its heartbeat."""
AGREED = (TrainingDivergedError, StoppedBySignalError, ReportedInputError)
"""Ends of a run that every rank comes to by itself, at the same step."""


class Part(NamedTuple):
    """One rank's part of a number of things, equally many on every rank."""

    position: Ints
    """Which things; where they do not divide evenly, the last one is repeated."""
    genuine: Bools
    """False where repeated: such a thing takes part in the work and counts for nothing."""


@dataclass(frozen=True, eq=False)
class World:
    """One process that works alone: every collective operation is the identity."""

    device: torch.device
    rank: int = 0
    size: int = 1
    settings: ExitStack = field(default_factory=ExitStack, repr=False, kw_only=True)
    """What is set for the whole process, and set back when the world is left."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks: a new tensor without a graph, the same on every rank."""
        return tensor.detach().clone()

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Collect the rows of all ranks, in the order of ranks: [B_r, ...] -> [sum of sizes, ...], without a graph."""
        assert len(rows) == sizes[self.rank]
        return rows.detach()

    def part(self, count: int) -> Part:
        """This rank's part of `count` > 0 things."""
        each = math.ceil(count / self.size)
        index = np.arange(self.rank * each, (self.rank + 1) * each)
        return Part(np.minimum(index, count - 1), index < count)

    def join(self, rows: Tensor, count: int) -> Tensor:
        """Undo `part`: from a row for each thing of this rank's share to the rows of all `count` things, in order."""
        return self.gather(rows, [math.ceil(count / self.size)] * self.size)[:count]

    def on_main(self, work: Callable[[], T]) -> T:
        """Let rank 0 work, and give every rank the result, or the same `InputError`."""
        return work()

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def where(self, place: str) -> None:
        """Note what this rank is at, for the message if it fails."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the others, and set back what was set for the process."""
        self.settings.close()


@dataclass(frozen=True, eq=False)
class ProcessGroup(World):
    """One of several processes, or one that trains alone the way that several do."""

    watchdog: Watchdog | None = None
    """None in a world of one."""

    def sum(self, tensor: Tensor) -> Tensor:
        """See `World.sum`."""
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """See `World.gather`."""
        assert len(rows) == sizes[self.rank]
        largest = max(sizes)
        padded = rows.new_zeros((largest, *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def on_main(self, work: Callable[[], T]) -> T:
        """See `World.on_main`."""
        outcome: list[object] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise (InputError if self.is_main else ReportedInputError)(str(outcome[1]))
        return outcome[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """See `World.barrier`."""
        self.sum(torch.zeros((), device=self.device))

    def where(self, place: str) -> None:
        """See `World.where`."""
        if self.watchdog is not None:
            self.watchdog.note(place)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the others, telling them why.

        Raises:
            PeerFailedError: what failed here is a consequence of another rank's failure.
        """
        self.settings.close()
        if self.watchdog is not None:
            if error is not None and not isinstance(error, AGREED):
                self._report(self.watchdog, error)
            self.watchdog.stop()
        if error is None or isinstance(error, AGREED) or self.size == 1:
            dist.destroy_process_group()

    def _report(self, watchdog: Watchdog, error: BaseException) -> None:
        is_input = isinstance(error, InputError)
        if (is_input and not self.is_main) or isinstance(error, RuntimeError):
            # rank 0 reports wrong input; and a collective breaks off when another rank is gone, whose failure it is
            found = watchdog.failure()
            if found is not None and found.rank != self.rank:
                watchdog.stop()
                if found.message == str(error):
                    raise ReportedInputError(found.message) from None
                raise PeerFailedError(found.message, found.code) from None
        message = (
            str(error) if is_input else f"rank {self.rank} failed{watchdog.place}: {type(error).__name__}: {error}"
        )
        watchdog.fail(message, 2 if is_input else 1)


def setup_distributed(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    strategy: DistributedConfig | None = None,
    inference: bool = False,
) -> World:
    """Choose the device, and join the processes that a launcher such as torchrun has started.

    To be used as a context, which tells the other processes when this one fails.

    Args:
        device: where to compute; each process of a node takes a GPU of its own.
        strategy: how to train; by default alone.
        inference: nothing is trained: several processes simply share the samples.

    Raises:
        InputError: a GPU was asked for and there is none, the strategy does not fit the device or the number of
            processes, or several processes were started without a strategy.
    """
    plan, size = strategy or DistributedConfig(), launched_world_size()
    place = device_for(device, launched_local_rank(), Build.of_torch())
    _check_strategy(plan, size, place)
    if size > 1 and not inference and not plan.several_processes:
        remedy = "start one" if strategy is None else "give --distributed or --fsdp, or start one"
        raise (InputError if launched_rank() == 0 else ReportedInputError)(
            f"{size} processes were started (WORLD_SIZE), and each would do the same work again: {remedy}"
        )
    if size > 1:
        return _join_processes(place, size, plan.rank_timeout)
    if not plan.several_processes:
        return World(place)
    dist.init_process_group(_backend(place), store=HashStore(), rank=0, world_size=1)
    return ProcessGroup(place)


def _check_strategy(strategy: DistributedConfig, size: int, device: torch.device) -> None:
    if strategy.data_parallel:
        check_data_parallel(size, device)
    if strategy.fsdp and size % strategy.fsdp_replicate:
        raise InputError(f"--fsdp-replicate {strategy.fsdp_replicate} does not divide the {size} processes")
    gpus = Build.of_torch().gpus
    if strategy.several_processes and size == 1 and device.type == "cuda" and gpus > 1:
        logger.warning(
            "one process uses one of the %d GPUs here: start one for each with torchrun --nproc-per-node %d -m aam.cli",
            gpus,
            gpus,
        )


def _join_processes(device: torch.device, size: int, rank_timeout: float) -> ProcessGroup:
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT"] + ["LOCAL_RANK"] * (device.type == "cuda")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start aam with torchrun or srun")
    rank = launched_rank()
    if rank == 0:
        logger.info("waiting for %d processes at %s:%s", size, *_address())
    # its own keys for each restart of a launch, and for each group that this process joins in turn
    name = f"{restart_count()}/{next(_joined)}"
    store = PrefixStore(f"group/{name}", _store())
    dist.init_process_group(_backend(device), store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    # from here on: a process may take its time to start, and one that never does is the launcher's to notice
    watchdog = Watchdog(PrefixStore(f"aam/{name}", _own_connection()), rank, size, rank_timeout, _leave)
    watchdog.start()
    return ProcessGroup(device, rank, size, watchdog=watchdog)


def _backend(device: torch.device) -> str:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return backend_for(device)


_joined = count()


@cache
def _store() -> TCPStore:
    """The store of the launch, for as long as this process lives: torchrun's, or that of rank 0."""
    is_master = launched_rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return TCPStore(*_address(), is_master=is_master, timeout=COLLECTIVE_TIMEOUT, wait_for_workers=False)


@cache
def _own_connection() -> TCPStore:
    """A second connection to the store: one that waits in a collective cannot be used meanwhile."""
    return TCPStore(*_address(), is_master=False, wait_for_workers=False)


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _leave(failure: Failure) -> None:
    """End this process, wherever its main thread is; rank 0 has reported wrong input itself."""
    if failure.code == 2 and failure.rank == 0:
        os._exit(failure.code)
    leave(failure)


def is_main_process(world: World) -> bool:
    """Whether this process writes files and logs."""
    return world.is_main


def gather_embeddings_for_unifrac(world: World, embeddings: Tensor, sizes: Sequence[int]) -> Tensor:
    """Collect the embeddings of the samples of every rank, to compare each rank's own with all of them.

    What is gathered has no graph, so that no collective runs in the backward pass: the gradient at an embedding comes
    from the rank that has it, which compares it with all others (`aam.training.losses.pairwise_gradient`).

    Args:
        world: the ranks.
        embeddings: [B_r, D], this rank's, already divided by tau: all parameters act before the gather.
        sizes: B_r of every rank; they may differ, and be 0.

    Returns:
        [G, D], rank after rank.
    """
    return world.gather(embeddings, sizes)


def gather_counts(world: World, counts: csr_array, sizes: Sequence[int]) -> csr_array:
    """Collect the drawn counts of the samples of every rank, B_r each: int64 [B_r, ASVs] -> [G, ASVs]."""
    if world.size == 1:
        return counts
    lengths = world.gather(torch.from_numpy(np.diff(counts.indptr).astype(np.int64)).to(world.device), sizes).cpu()
    entries = [int(part.sum()) for part in torch.split(lengths, list(sizes))]
    own = torch.from_numpy(np.stack([counts.indices, counts.data], axis=1).astype(np.int64)).to(world.device)
    indices, data = world.gather(own, entries).cpu().numpy().T
    ends = np.concatenate([[0], np.cumsum(lengths.numpy())])
    return csr_array((data, indices, ends), shape=(len(lengths), counts.shape[1]))

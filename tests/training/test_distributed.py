"""The processes of a run as one process sees them: its fraction of the work, a world of one, and wrong environments."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, TCPStore

from aam.config import DistributedConfig
from aam.errors import InputError, PeerFailedError, ReportedInputError, StoppedBySignalError
from aam.training.distributed import (
    ProcessGroup,
    World,
    gather_embeddings_for_unifrac,
    is_main_process,
    setup_distributed,
)
from aam.training.distributed.watchdog import Failure, Watchdog
from aam.training.machine.hardware import Build

CPU = torch.device("cpu")
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
DDP, FSDP = DistributedConfig(distributed=True), DistributedConfig(fsdp=True)


@pytest.fixture
def launched(monkeypatch):
    """Set what a launcher tells a process; without names, nothing."""

    def launch(**environment: object) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))

    launch()
    return launch


class Everyone(World):
    """A rank that knows what the others give, in the place of a collective operation."""

    of_ranks: Sequence[Tensor]

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        assert [len(part) for part in self.of_ranks] == list(sizes)
        return torch.cat(list(self.of_ranks))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", range(1, 14))
def test_ranks_share_and_join_any_number_of_things(count, size):
    worlds = [Everyone(CPU, rank, size) for rank in range(size)]
    shares = [world.part(count) for world in worlds]
    assert len({len(share.position) for share in shares}) == 1, "a rank would wait for another's collective"
    position, genuine = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    assert position[genuine].tolist() == list(range(count))
    assert (position[~genuine] == count - 1).all()
    assert len(position) - count < size
    rows = [torch.from_numpy(share.position) for share in shares]
    for world in worlds:
        world.of_ranks = rows
        assert world.join(rows[world.rank], count).tolist() == list(range(count))


def test_one_process_is_the_main_one(launched):
    world = setup_distributed("cpu")
    assert world.device == CPU
    assert (world.rank, world.size, is_main_process(world)) == (0, 1, True)
    assert not isinstance(world, ProcessGroup)
    assert not dist.is_initialized()
    assert not is_main_process(World(CPU, rank=1, size=2))


@pytest.fixture(params=[None, DDP, FSDP], ids=["none", "distributed", "fsdp"])
def alone(request, launched) -> Iterator[World]:
    """A world of one, under every strategy."""
    with setup_distributed("cpu", request.param) as world:
        yield world
    assert not dist.is_initialized()


def test_in_a_world_of_one_every_collective_is_the_identity(alone):
    assert (alone.rank, alone.size, alone.is_main) == (0, 1, True)
    rows = torch.arange(6.0).reshape(3, 2).requires_grad_()
    given = rows.detach().clone()
    total = alone.sum(rows)
    for got in (total, alone.gather(rows, [3]), alone.join(rows, 3), gather_embeddings_for_unifrac(alone, rows, [3])):
        assert torch.equal(got, given)
        assert not got.requires_grad
    total += 1
    assert torch.equal(rows, given), "the sum is a new tensor"
    assert alone.gather(rows[:0], [0]).shape == (0, 2)
    assert alone.on_main(lambda: {"a": 1}) == {"a": 1}
    alone.barrier()
    alone.where("step 7")


def test_wrong_input_on_the_main_process_is_told_by_it(alone):
    def refuse() -> None:
        raise InputError("--tree is a folder")

    with pytest.raises(InputError, match="--tree is a folder") as told:
        alone.on_main(refuse)
    assert type(told.value) is InputError


@pytest.mark.parametrize("strategy", [DDP, FSDP])
def test_the_group_is_gone_after_an_error(launched, strategy):
    for _ in range(2):  # and another can begin
        with pytest.raises(ZeroDivisionError), setup_distributed("cpu", strategy):  # noqa: PT012
            assert dist.is_initialized()
            raise ZeroDivisionError
        assert not dist.is_initialized()


def test_several_processes_without_a_strategy_are_refused(launched):
    launched(WORLD_SIZE=2)
    for strategy, remedy in ((None, "start one"), (DistributedConfig(), "give --distributed or --fsdp")):
        with pytest.raises(InputError, match=f"2 processes were started.*{remedy}"):
            setup_distributed("cpu", strategy)


@pytest.mark.parametrize("missing", [["RANK"], ["MASTER_ADDR"], ["MASTER_PORT"], ["MASTER_ADDR", "MASTER_PORT"]])
@pytest.mark.parametrize(("strategy", "inference"), [(DDP, False), (FSDP, False), (None, True)])
def test_what_a_launcher_has_not_set_is_named(launched, missing, strategy, inference):
    whole = {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    launched(**{name: value for name, value in whole.items() if name not in missing})
    with pytest.raises(InputError, match=f"WORLD_SIZE is 2, but {', '.join(missing)} is not set: .*torchrun"):
        setup_distributed("cpu", strategy, inference)
    assert not dist.is_initialized()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["two", "-1", "1.5"])
def test_an_environment_that_holds_no_number_is_named(launched, name, value):
    launched(**{name: value})
    with pytest.raises(InputError, match=f"{name} is '{value}', not a number"):
        setup_distributed("cpu", DDP)


def test_an_empty_variable_counts_as_unset(launched):
    launched(WORLD_SIZE="", LOCAL_RANK="", RANK="")
    assert setup_distributed("cpu").size == 1


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_more_processes_than_gpus_on_a_node_are_refused(launched, monkeypatch, asked):
    monkeypatch.setattr(Build, "of_torch", classmethod(lambda cls: cls(None, "12.8", 2)))
    launched(WORLD_SIZE=4, RANK=3, LOCAL_RANK=2, MASTER_ADDR="localhost", MASTER_PORT=1)
    with pytest.raises(InputError, match=r"process 2 of this node .*sees 2 GPU"):
        setup_distributed(asked, DDP)
    assert not dist.is_initialized()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_the_processes_tells_that_they_are_too_many(launched, rank):
    launched(WORLD_SIZE=2, RANK=rank)
    with pytest.raises(InputError, match="2 processes were started") as told:
        setup_distributed("cpu")
    assert isinstance(told.value, ReportedInputError) == (rank == 1)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (1, "--data-parallel.*one process on a CPU already uses all its cores"),
        (2, "--data-parallel.*a launcher started 2.*start one"),
    ],
)
def test_data_parallel_is_one_process_on_gpus(launched, size, says):
    launched(WORLD_SIZE=size)
    with pytest.raises(InputError, match=says):
        setup_distributed("cpu", DistributedConfig(data_parallel=True))


@pytest.mark.parametrize(("size", "copies"), [(1, 2), (3, 2), (2, 4)])
def test_copies_of_a_sharded_model_divide_the_processes(launched, size, copies):
    launched(WORLD_SIZE=size, RANK=0, MASTER_ADDR="localhost", MASTER_PORT=1)
    with pytest.raises(InputError, match=f"--fsdp-replicate {copies} does not divide the {size} processes"):
        setup_distributed("cpu", DistributedConfig(fsdp=True, fsdp_replicate=copies))
    assert not dist.is_initialized()


@pytest.fixture
def pair() -> Iterator[tuple[Watchdog, ProcessGroup]]:
    """The watchdog of rank 0, and rank 1 with its own; both of this process, on a real store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    kept: list[Failure] = []  # what would have ended the process
    dogs = [Watchdog(PrefixStore("0", store.clone()), rank, 2, 60.0, kept.append) for rank in range(2)]
    for dog in dogs:
        dog.start()
    yield dogs[0], ProcessGroup(CPU, 1, 2, dogs[1])
    for dog in reversed(dogs):
        dog.stop()


def test_an_error_that_rank_0_tells_is_told_once(pair):
    main, other = pair
    main.fail("--tree is a folder", 2)
    with pytest.raises(ReportedInputError), other:
        raise InputError("--tree is a folder")


@pytest.mark.parametrize(
    "error", [RuntimeError("Connection closed by peer"), InputError("--resume: no checkpoint here")]
)
def test_what_follows_from_the_failure_of_another_names_that_one(pair, error):
    main, other = pair
    main.fail("rank 0 failed at step 7: ValueError: bad", 3)
    with pytest.raises(PeerFailedError, match="rank 0 failed at step 7: ValueError: bad") as told, other:
        raise error
    assert told.value.code == 3


def test_a_failure_of_its_own_is_told_to_the_others_and_raised(pair):
    main, other = pair
    other.where("step 7 (samples a, b)")
    with pytest.raises(ZeroDivisionError), other:
        raise ZeroDivisionError("by zero")
    found = main.failure()
    assert found == Failure(1, 1, "rank 1 failed at step 7 (samples a, b): ZeroDivisionError: by zero")


def test_an_end_that_all_ranks_come_to_is_no_failure(pair):
    main, other = pair
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    with pytest.raises(StoppedBySignalError), other:
        raise StoppedBySignalError("stopped by a signal after step 3")
    assert main.failure(wait=1.0) is None
    assert not dist.is_initialized()


def test_the_environment_is_left_alone(launched):
    before = dict(os.environ)
    with setup_distributed("cpu", DDP):
        pass
    assert dict(os.environ) == before

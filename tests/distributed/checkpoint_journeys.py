"""Checkpoints from every strategy and number of processes to every other, and what a run does next.

    python checkpoint_journeys.py FOLDER write read                   # alone, and as a world of one
    torchrun --nproc-per-node W checkpoint_journeys.py FOLDER write   # by W ranks
    torchrun --nproc-per-node W checkpoint_journeys.py FOLDER read    # all that was written, to FOLDER/read-W.json
    torchrun --nproc-per-node W checkpoint_journeys.py FOLDER publish # as whole checkpoints, by W ranks
    torchrun --nproc-per-node 2 checkpoint_journeys.py FOLDER break   # rank 1 cannot write its part: FOLDER/failed-RANK

FOLDER holds the files of a simulated study.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from aam.config import DistributedConfig, PretrainConfig
from aam.data.study import Study
from aam.training.checkpoints.sharded import write_shards
from aam.training.checkpoints.store import CheckpointStore, flatten_optimizer
from aam.training.distributed import World, setup_distributed
from aam.training.distributed.sharding import gather_whole
from aam.training.trainer import Trainer
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

SMALL = {
    "embedding_dim": 6,
    "attention_heads": 2,
    "attention_layers": 1,
    "batch_size": 6,
    "faith_pd_weight": 0.1,
    "epochs": 2,
    "rarefy_depth": 150,
    "device": "cpu",
}
WRITERS: dict[str, dict[str, Any]] = {
    "none": {},
    "ddp": {"distributed": True},
    "fsdp": {"fsdp": True},
    "sharded": {"fsdp": True, "fsdp_sharded_checkpoint": True},
    "async": {"fsdp": True, "fsdp_sharded_checkpoint": True, "async_checkpoint": True},
    "hybrid": {"fsdp": True, "fsdp_sharded_checkpoint": True, "fsdp_replicate": 2},
}
SAVED, NEXT = range(3), range(3, 5)
"""Steps before a checkpoint is written, and those of the losses that are compared."""


class Written(NamedTuple):
    """A checkpoint of a strategy at a world size, and what its run had in memory and did next."""

    folder: Path
    """``checkpoints/STRATEGY-W``."""

    @property
    def tensors(self) -> Path:
        return self.folder.with_suffix(".safetensors")

    @property
    def losses(self) -> Path:
        return self.folder.with_suffix(".json")


def strategies(size: int) -> list[str]:
    """Strategies that so many processes can have."""
    if size == 1:
        return ["none", "ddp", "fsdp", "sharded", "async"] if dist.is_initialized() else ["none"]
    return ["ddp", "fsdp", "sharded", "async"] + (["hybrid"] if size % 2 == 0 else [])


@cache
def study_of(folder: Path) -> Study:
    return load_pretraining_study(config_of(folder))


def config_of(folder: Path, **options: Any) -> PretrainConfig:
    files = {"table": (folder / "table.biom",), "tree": folder / "tree.nwk"}
    return PretrainConfig.from_flat({**SMALL, "output_dir": folder / "run", **files, **options})


def trainer_of(folder: Path, world: World, strategy: str, written: Written) -> Trainer:
    run = prepare_pretraining(study_of(folder), config_of(folder, **WRITERS[strategy]), world)
    return run.trainer(CheckpointStore(written.folder))


def steps(trainer: Trainer, numbers: range) -> list[float]:
    """Train; returns the loss of each step."""
    plans = list(trainer.train_sampler)
    shares = [trainer.train_step(trainer.memory.dataset[plans[number]])["loss"] for number in numbers]
    return [float(trainer.world.sum(share)) for share in shares]


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and optimizer, whole on every rank."""
    moments, _ = flatten_optimizer(trainer.optimizer, trainer.model)
    whole = gather_whole(dict(trainer.model.state_dict()) | moments, keep=True)
    return {name: tensor.clone() for name, tensor in whole.items()}


def write(folder: Path, world: World, strategy: str) -> None:
    """Train, write a checkpoint, train on."""
    written = Written(folder / "checkpoints" / f"{strategy}-{world.size}")
    trainer = trainer_of(folder, world, strategy, written)
    steps(trainer, SAVED)
    trainer.save_checkpoint(best=True)
    tensors = tensors_of(trainer)
    losses = steps(trainer, NEXT)
    trainer.checkpoints.close()
    if world.is_main:
        save_file(tensors, written.tensors)
        written.losses.write_text(json.dumps(losses))


def read(folder: Path, world: World, strategy: str) -> Iterator[dict[str, Any]]:
    """Continue every checkpoint that there is."""
    for losses in sorted((folder / "checkpoints").glob("*.json")):
        written = Written(losses.with_suffix(""))
        trainer = trainer_of(folder, world, strategy, written)
        expected, expected_losses = load_file(written.tensors), json.loads(losses.read_text())
        at_first = tensors_of(trainer)
        last = world.on_main(trainer.checkpoints.store.last)
        assert last is not None
        trainer.load_checkpoint(last)
        found = tensors_of(trainer)
        next_losses = steps(trainer, NEXT)
        trainer.checkpoints.close()
        yield {
            "from": written.folder.name,
            "to": f"{strategy}-{world.size}",
            "differing": differing(found, expected),
            "differing at first": len(differing(at_first, expected)),
            "loss": max(abs(one / other - 1) for one, other in zip(next_losses, expected_losses, strict=True)),
            "step": trainer.progress.step,
        }


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of tensors that one of them lacks or that are not the same to the last bit."""
    names = found.keys() | expected.keys()
    return sorted(
        name for name in names if name not in found or name not in expected or not same(found, expected, name)
    )


def same(found: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> bool:
    return found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name])


def publish(folder: Path, world: World) -> None:
    """Write the best weights of all sharded checkpoints as whole ones."""
    for losses in sorted((folder / "checkpoints").glob("*.json")):
        written = Written(losses.with_suffix(""))
        trainer = trainer_of(folder, world, "fsdp", written)
        trainer.checkpoints.load_weights(written.folder, trainer.model)
        trainer.checkpoints.publish(trainer.model)
        trainer.checkpoints.close()


def break_down(folder: Path, world: World) -> None:
    """Let rank 1 fail to write its part, which must fail the others too: each rank says so in a file."""
    (folder / "file").write_text("")
    group = dist.new_group(backend="gloo")
    place = folder / "file" / "sharded" if world.rank == 1 else folder / "sharded"
    try:
        write_shards({"weight": torch.ones(8)}, place, group)
    except OSError as error:
        (folder / f"failed-{world.rank}").write_text(repr(error))


def work(folder: Path, world: World, tasks: list[str]) -> list[dict[str, Any]]:
    """Do what was asked for with each strategy; returns what was read."""
    results = []
    if "write" in tasks:
        for strategy in strategies(world.size):
            write(folder, world, strategy)
        world.barrier()
    if "read" in tasks:
        readers = {"none", "ddp", "fsdp", "hybrid"}.intersection(strategies(world.size))
        results = [result for strategy in sorted(readers) for result in read(folder, world, strategy)]
    if "publish" in tasks:
        publish(folder, world)
    if "break" in tasks:
        break_down(folder, world)
    return results


def main() -> None:
    """Do what the command line asks for."""
    folder, tasks = Path(sys.argv[1]), sys.argv[2:]
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    alone = World(torch.device("cpu"))
    with setup_distributed("cpu", DistributedConfig(distributed=True)) as world:
        results = work(folder, world, tasks)
        if world.is_main:
            (folder / f"read-{world.size}.json").write_text(json.dumps(results, indent=1))
    if world.size == 1:
        results += work(folder, alone, tasks)
        (folder / "read-1.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

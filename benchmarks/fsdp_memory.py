"""Memory of a rank: weights, gradients and optimizer of a 50M-parameter encoder, by strategy.

Every case is launched with torchrun on CPUs (gloo) and makes one step of pretraining on a simulated study: `aam`'s own
model, objective and optimizer. Then each rank counts the bytes of what it holds, each storage once, with whatever is
padding or bucket in it, and the largest rank is reported. The resident peak also has Python, PyTorch (about 500 MB in
all), activations and what is gathered for a moment.

    python benchmarks/fsdp_memory.py --json fsdp_memory.json
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _common import arguments, print_table, write_json
from torch import Tensor

from aam.config import PretrainConfig, SimulateConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.training.checkpoints.store import CheckpointStore
from aam.training.distributed import setup_distributed
from aam.training.distributed.sharding import own_part
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

HELD = ["parameters", "gradients", "optimizer"]
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets glibc give freed memory back at once, so that the resident peak is what was in use together."""
PADDING = 1.05
"""Times its share that a rank may hold: parts are padded to equal sizes."""


class Case(NamedTuple):
    """A strategy and how many processes it gets."""

    name: str
    ranks: int
    options: dict[str, Any]
    share: float
    """What a rank should hold of what one process alone holds."""


def cases(ranks: int) -> list[Case]:
    """What is compared, the single process first."""
    compared = [
        Case("none", 1, {}, 1),
        Case("--distributed", ranks, {"distributed": True}, 1),
        Case("--fsdp", ranks, {"fsdp": True}, 1 / ranks),
    ]
    half = ranks // 2
    if half > 1:
        compared.append(Case("--fsdp", half, {"fsdp": True}, 1 / half))
        compared.append(Case("--fsdp --fsdp-replicate 2", ranks, {"fsdp": True, "fsdp_replicate": 2}, 1 / half))
    return compared


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of this rank's parts of tensors, each storage once."""
    storages = [own_part(tensor.detach()).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(folder: Path, options: dict[str, Any]) -> None:
    """Make one step on this rank and write what it holds; runs under torchrun."""
    study = {"table": [folder / "table.biom"], "tree": folder / "tree.nwk", "output_dir": folder / "run"}
    config = PretrainConfig.from_flat({**study, **options, "device": "cpu"})
    with setup_distributed(config.runtime.device, config.distribution) as world:
        run = prepare_pretraining(load_pretraining_study(config), config, world)
        trainer = run.trainer(CheckpointStore(folder / "run"))
        step = run.dataset[next(iter(trainer.train_sampler))]
        run.objective.backward(step, trainer.scaler.scale)
        trainer.optimizer.step()
        weights = list(run.model.parameters())
        state = [value for each in trainer.optimizer.state.values() for value in each.values()]
        held = {
            "numbers": sum(weight.numel() for weight in weights),
            "parameters": bytes_of(weights),
            "gradients": bytes_of(weight.grad for weight in weights if weight.grad is not None),
            "optimizer": bytes_of(value for value in state if isinstance(value, Tensor)),
            "resident_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        (folder / f"rank{world.rank}.json").write_text(json.dumps(held))
        world.barrier()
    # the destructor of DDP may wait for a thread of gloo that waits for the lock of Python, as was seen once
    os._exit(0)


def launch(case: Case, shape: dict[str, Any]) -> dict[str, Any]:
    """Run `measure` in as many processes as the case asks for; returns the largest figures of any rank."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(simulate_study(SimulateConfig(directory=folder, samples=24, asvs=40, bp=50, depth=100)), folder)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}"]
        command += [__file__, "--measure", json.dumps({**shape, **case.options}), "--folder", name]
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | RETURNING)
        if run.returncode:
            raise SystemExit(run.stderr)
        held = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(case.ranks)]
    largest = {name: max(each[name] for each in held) for name in held[0]}
    total = max(sum(each[name] for name in HELD) for each in held)
    return {"strategy": case.name, "ranks": case.ranks, **largest, "sum": total}


def report(lines: list[dict[str, Any]]) -> None:
    """Print the figures."""
    columns = ["strategy", "ranks", *(f"{name}, MB" for name in HELD), "sum, MB", "of one process", "resident peak, MB"]
    rows: list[list[object]] = []
    for line in lines:
        held = [line[name] / 1e6 for name in [*HELD, "sum"]]
        share = line["sum"] / lines[0]["sum"]
        rows.append([line["strategy"], line["ranks"], *held, share, line["resident_peak"] / 1e6])
    print_table(columns, rows)
    print(f"{lines[0]['numbers'] / 1e6:.1f} million parameters; a rank's figures, the largest over ranks")


def main() -> None:
    """Measure every strategy and hold it against what is claimed."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4, help="an even number")
    parser.add_argument("--embedding-dim", type=int, default=512)
    parser.add_argument("--attention-layers", type=int, default=8)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        torch.set_num_threads(1)
        measure(options.folder, options.measure)
        return
    shape = {"embedding_dim": options.embedding_dim, "attention_layers": options.attention_layers, "batch_size": 8}
    compared = cases(options.ranks)
    lines = [launch(case, shape) for case in compared]
    report(lines)
    write_json(options.json, lines)
    for case, line in zip(compared, lines, strict=True):
        if line["sum"] > PADDING * case.share * lines[0]["sum"]:
            raise SystemExit(
                f"claimed: {case.name} on {case.ranks} ranks holds {case.share:g} of what one process holds"
            )


if __name__ == "__main__":
    main()

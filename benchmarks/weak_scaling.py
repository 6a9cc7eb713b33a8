"""Weak scaling of the data work: processor time of a rank for a step, where every rank brings as many samples.

Launches 1, 2 and 4 processes with torchrun (gloo, CPU). A rank draws its own samples and gives them to the model; the
counts of other ranks, which true distances need, come from them. Beside it the time of that exchange, and what a rank
would take if it drew the samples of all by itself.

    python benchmarks/weak_scaling.py --data STUDIES --study moving_pictures
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from _common import arguments, print_table, write_json

from aam.config import PretrainConfig
from aam.config.launch import launched_world_size
from aam.data.sampling.dataset import StepPlan
from aam.training.distributed import World, gather_counts, setup_distributed
from aam.workflows.fit import Run
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

RANKS = (1, 2, 4)
KINDS = ("own samples", "exchange", "samples of all")
GROWTH = 1.15
"""Times that the data work of a rank may take with four ranks: caches are shared."""


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Medians over steps, in milliseconds of the processor, of this rank."""
    world = setup_distributed("cpu", _strategy(), inference=launched_world_size() == 1)
    with world:
        run = _prepare(options, world)
        plans = run.material.sampler(run.config).plan_epoch(0)[: options.steps]
        dataset = replace(run.dataset, source=None)  # distances are computed later where there are several ranks
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for plan in plans:
            step, took = _timed(lambda plan=plan: dataset[plan])
            times["own samples"].append(took)
            counts = run.material.draws.rows(step.samples[step.start : step.start + step.sizes[world.rank]], plan.epoch)
            times["exchange"].append(
                _timed(lambda counts=counts, step=step: gather_counts(world, counts, step.sizes))[1]
            )
            times["samples of all"].append(_timed(lambda plan=plan: _draw_all(run, plan))[1])
        return {name: median(each) for name, each in times.items()}


def _strategy() -> Any:
    return PretrainConfig.from_flat(
        {"table": ("t",), "output_dir": "o", "unifrac_weight": 0, "distributed": True}
    ).distribution


def _prepare(options: argparse.Namespace, world: World) -> Run:
    study = options.data / options.study
    flat = {"table": (study / "table.biom",), "tree": study / "tree.nwk", "output_dir": Path("not-written")}
    flat |= {"embedding_dim": 32, "attention_layers": 1, "device": "cpu", "distributed": world.size > 1}
    flat |= {"batch_size": options.samples * world.size, "rarefy_depth": options.depth}
    config = PretrainConfig.from_flat(flat)
    return prepare_pretraining(load_pretraining_study(config), config, world)


def _draw_all(run: Run, plan: StepPlan) -> Any:
    return run.material.draws.rows(plan.samples, plan.epoch)


def _timed(work: Any) -> tuple[Any, float]:
    start = time.process_time()
    found = work()
    return found, 1e3 * (time.process_time() - start)


def launch(ranks: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of rank 0 among so many."""
    words = ["--measure", "--data", options.data, "--study", options.study, "--samples", options.samples]
    words += ["--steps", options.steps, "--depth", options.depth]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "figures.json"
        call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, __file__]
        call += [*words, "--json", path]
        subprocess.run([str(word) for word in call], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        figures: dict[str, float] = json.loads(path.read_text())
        return figures


def main() -> None:
    """Measure, print the table, and hold it against what is claimed."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--study", default="moving_pictures")
    parser.add_argument("--samples", type=int, default=32, help="of each rank in a step")
    parser.add_argument("--depth", type=int, default=1000, help="to which samples are rarefied")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    if options.measure:
        figures = measure(options)
        if os.environ.get("RANK") == "0":
            Path(options.json).write_text(json.dumps(figures))
        return
    lines = [{"processes": ranks, **launch(ranks, options)} for ranks in RANKS]
    print_table(
        ["processes", "ms, own samples", "ms, exchange", "ms, if each drew all"],
        [[line[name] for name in ("processes", *KINDS)] for line in lines],
    )
    write_json(options.json, {"lines": lines})
    growth = lines[-1]["own samples"] / lines[0]["own samples"]
    if growth > GROWTH:
        raise SystemExit(f"the data work of a rank takes {growth:.2f} times as long with {RANKS[-1]} ranks")


if __name__ == "__main__":
    main()

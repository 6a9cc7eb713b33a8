"""A run within a budget of memory: the same losses as without, and no more memory than was allowed.

Pretrains on a study for an epoch, once for each budget, with steps of many samples that the small budget cuts into
batches. Every run is a process of its own; its peak is that of the resident memory, above the level at which the first
batch was made.

    AAM_TEST_DATA=../shared/data python benchmarks/memory_budget.py --json memory_budget.json
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import arguments, print_table, write_json

from aam.config import PretrainConfig
from aam.training.memory.budget import GB
from aam.training.memory.profile import ResidentSampler, resident_bytes
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Results
from aam.workflows.fit import fit
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

EXCESS = 1.1
TOLERANCE = 1e-5


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Pretrain within one budget: its training losses by step, and the peak of the memory; in a process of its own."""
    study = Path(options.data) / options.dataset
    config = PretrainConfig.from_flat(
        {
            "table": (study / "table.biom",),
            "tree": study / "tree.nwk",
            "output_dir": folder / "run",
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "embedding_dim": options.width,
            "max_memory_gb": options.measure,
            "log_every": 1,
            "device": "cpu",
        }
    )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    run = prepare_pretraining(load_pretraining_study(config), config)
    before, peaks = resident_bytes(), dict[str, int]()
    sampler = ResidentSampler(peaks)
    fit(run, config, lambda _: Results())
    sampler.close()
    peak = max(peaks.values()) - before
    lines = [json.loads(line) for line in RunFolder(folder / "run").metrics.read_text().splitlines()]
    losses = [{name: line[name] for name in line if name.endswith("loss")} for line in lines]
    return {"budget_gb": options.measure, "peak_gb": peak / GB, "losses": losses}


def measure_apart(budget: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a new process; what it says of the memory goes on to the user."""
    words = ["--measure", budget, "--data", options.data, "--dataset", options.dataset]
    words += ["--batch-size", options.batch_size, "--epochs", options.epochs, "--width", options.width]
    command = [sys.executable, __file__, *map(str, words)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures


def difference(runs: list[dict[str, Any]]) -> float:
    """The largest relative difference of any loss of any step from that of the largest budget."""
    reference = runs[-1]["losses"]
    return max(
        float(abs(line[name] - true[name]) / (abs(true[name]) or 1.0))
        for run in runs[:-1]
        for line, true in zip(run["losses"], reference, strict=True)
        for name in true
    )


def main() -> None:
    """Pretrain within each budget and hold the runs against each other."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--dataset", default="ecam", help="folder of the study")
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 8.0], help="GB, the largest last")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    if options.measure is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options, Path(folder))))
        return
    runs = [measure_apart(budget, options) for budget in options.budgets]
    rows = [[run["budget_gb"], run["peak_gb"], len(run["losses"])] for run in runs]
    print_table(["budget GB", "peak GB", "steps and validations"], rows)
    apart = difference(runs)
    print(f"losses differ by {apart:.2g} of themselves at most, {torch.get_num_threads()} thread(s)")
    write_json(options.json, {"runs": runs, "largest_difference": apart})
    over = [run["budget_gb"] for run in runs if run["peak_gb"] > EXCESS * run["budget_gb"]]
    if over or apart > TOLERANCE:
        raise SystemExit(f"claimed: losses equal to {TOLERANCE}, and no budget exceeded; exceeded: {over}")


if __name__ == "__main__":
    main()

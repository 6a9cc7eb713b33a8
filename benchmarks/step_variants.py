"""A pretraining step in float32 and bf16, as it is and compiled, and the optimizer plain and fused.

All variants have the same weights and take turns over the same batches, so that the ratios are those of one run. On a
CPU times are those of the processor, which other processes of the machine hardly change; give `OMP_NUM_THREADS=1`.
"Embedding" is a pass without a graph over the ASVs and the samples of a batch, as in validation and prediction.

    AAM_TEST_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/step_variants.py --json step_variants.json
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from _common import arguments, print_table, write_json
from _flops import synchronise
from torch._dynamo.utils import counters

from aam.config import PretrainConfig
from aam.data.sampling.dataset import StepBatch
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import compile_blocks
from aam.training.optim import make_optimizer
from aam.workflows.fit import Run
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "float32": {},
    "bf16": {"mixed_precision": "bf16"},
    "float32, compiled": {"compile_model": True},
    "bf16, compiled": {"mixed_precision": "bf16", "compile_model": True},
}


def seconds_of(function: Callable[..., object], device: torch.device, *given: object) -> float:
    """Time one call: of the processor on a CPU, else until the device is done."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronise(device)
    start = clock()
    function(*given)
    synchronise(device)
    return clock() - start


def train(run: Run, step: StepBatch) -> None:
    """One pass with its gradient."""
    run.objective.backward(step, lambda loss: loss)
    run.model.zero_grad(set_to_none=True)


@torch.no_grad()
def embed(run: Run, step: StepBatch) -> None:
    """One pass without a gradient."""
    model, (batch, *_) = run.model, step.micro
    assert isinstance(model, SequenceEncoder)
    with run.material.compute.autocast():
        asvs = model.embed_asvs(run.material.nucleotides[batch.asv])
        model.sample_encoder(batch.samples(asvs))


def prepare(options: argparse.Namespace, width: int, **more: object) -> Run:
    """A pretraining that is ready for its first step."""
    study = options.data / options.study
    flat = {"table": (study / "table.biom",), "tree": study / "tree.nwk", "output_dir": Path("not-written")}
    flat |= {"embedding_dim": width, "batch_size": options.batch_size, "device": options.device}
    config = PretrainConfig.from_flat(flat | more)
    run = prepare_pretraining(load_pretraining_study(config), config)
    if config.runtime.compile_model:
        compile_blocks(run.model)
    return run


def measure(options: argparse.Namespace, width: int) -> list[dict[str, Any]]:
    """Let all variants take turns at one width; a time is the best of the rounds, summed over the batches."""
    variants = {name: given for name, given in VARIANTS.items() if options.compile or "compile_model" not in given}
    runs = {name: prepare(options, width, **given) for name, given in variants.items()}
    plain = runs["float32"]
    device = plain.material.compute.device
    plans = plain.material.sampler(plain.config).plan_epoch(0)[: options.batches]
    steps = [plain.dataset[plan].to(device) for plan in plans]
    graphs = {}
    for name, run in runs.items():
        before = counters["stats"]["unique_graphs"]
        for step in steps:
            train(run, step)
            embed(run, step)
        graphs[name] = counters["stats"]["unique_graphs"] - before
    work = {"train": train, "embed": embed}
    best = {(name, kind): [float("inf")] * len(steps) for name in runs for kind in work}
    for _ in range(options.rounds):
        for (name, kind), known in best.items():
            for i, step in enumerate(steps):
                known[i] = min(known[i], seconds_of(work[kind], device, runs[name], step))
    return [
        {"width": width, "variant": name, "graphs": graphs[name]}
        | {f"{kind}_ms": 1e3 * sum(best[name, kind]) / len(steps) for kind in work}
        | {f"{kind}_times_faster": sum(best["float32", kind]) / sum(best[name, kind]) for kind in work}
        for name in runs
    ]


def optimizers(options: argparse.Namespace, width: int) -> dict[str, Any]:
    """AdamW of a model of one width, plain and fused."""
    run = prepare(options, width)
    device = run.material.compute.device
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    times = {}
    for fused in (False, True):
        optimizer = make_optimizer(run.model, run.config.optim)
        for group in optimizer.param_groups:
            group["fused"] = fused
        optimizer.step()
        times[fused] = min(seconds_of(optimizer.step, device) for _ in range(5 * options.rounds))
    return {
        "width": width,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "plain_ms": 1e3 * times[False],
        "fused_ms": 1e3 * times[True],
        "times_faster": times[False] / times[True],
    }


def main() -> None:
    """Compare at every width."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--study", default="ecam", help="a folder of --data")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave compiled variants out")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    if options.compile and shutil.which("g++") is None:
        parser.error("compiled variants need a C++ compiler: install g++ or give --no-compile")
    steps = [line for width in options.widths for line in measure(options, width)]
    print_table(list(steps[0]), [list(line.values()) for line in steps])
    adamw = [optimizers(options, width) for width in options.widths]
    print_table(list(adamw[0]), [list(line.values()) for line in adamw])
    write_json(options.json, {"steps": steps, "adamw": adamw})


if __name__ == "__main__":
    main()

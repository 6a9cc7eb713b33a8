"""A step of the sample level against the number of ASVs in a sample: full attention and induced points.

The step embeds the samples from embeddings of their ASVs, and goes back to the weights and the ASVs. Every measurement
runs in a process of its own, so that its peak of the resident memory can be read (on a GPU that of the allocator).

    OMP_NUM_THREADS=1 python benchmarks/many_asvs.py --json many_asvs.json

Shapes: B samples, S ASVs in a sample, D width.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any, Final

import numpy as np
import torch
from _common import arguments, print_table, write_json
from _flops import synchronise

from aam.config import ModelConfig
from aam.models.sample_encoder import SampleEncoder
from aam.training.allocator import keep_freed_memory

KINDS: Final = ("full", "induced")
MOST_GROWTH = 1.15
"""Exponent of S in the time of induced attention, of which linear growth has 1."""


def measure(kind: str, asvs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one kind at one size, and read the peak memory above the level before the first."""
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    points = {"induced_points": options.induced_points} if kind == "induced" else {}
    shape = ModelConfig(embedding_dim=options.embedding_dim, sample_attention=kind, max_bp=150, **points)
    torch.manual_seed(0)
    model = SampleEncoder(shape).to(device)
    embedding = torch.randn(asvs, options.embedding_dim, device=device, requires_grad=True)
    slot = torch.arange(asvs, device=device).expand(options.batch_size, -1)
    count = torch.randint(1, 100, slot.shape, device=device)
    depth = count.sum(1)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            sample = model(embedding, slot, count, depth).embedding
        sample.square().sum().backward()
        model.zero_grad()
        embedding.grad = None

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(options.repeats):
        synchronise(device)
        start = clock()
        step()
        synchronise(device)
        times.append(clock() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    return {"seconds": min(times), "peak_mib": peak / 2**20}


def measure_apart(kind: str, asvs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a new process."""
    command = [sys.executable, __file__, "--measure", kind, "--asvs", str(asvs), "--device", options.device]
    for name in ("batch_size", "embedding_dim", "induced_points", "repeats"):
        command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    run = subprocess.run(command + ["--bf16"] * options.bf16, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures


def growth(asvs: list[int], values: list[float]) -> float:
    """Exponent of S in values that grow as a power of it, fitted to logarithms."""
    return float(np.polyfit(np.log(asvs), np.log(values), 1)[0])


def main() -> None:
    """Measure both kinds at every size, and hold the growth of induced points against what is claimed."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--asvs", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10000])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--induced-points", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.asvs[0], options)))
        return
    lines = []
    for asvs in options.asvs:
        full, induced = (measure_apart(kind, asvs, options) for kind in KINDS)
        line: dict[str, Any] = {"asvs": asvs}
        for unit in ("seconds", "peak_mib"):
            line |= {f"full_{unit}": full[unit], f"induced_{unit}": induced[unit]}
        lines.append(line | {"times_faster": full["seconds"] / induced["seconds"]})
    exponents = {
        kind: growth(options.asvs, [line[f"{kind}_seconds"] for line in lines]) if len(lines) > 1 else None
        for kind in KINDS
    }
    print_table(list(lines[0]), [list(line.values()) for line in lines])
    print(f"time grows with the number of ASVs to the power of: {exponents}")
    write_json(options.json, {"lines": lines, "exponents": exponents})
    if exponents["induced"] is not None and exponents["induced"] > MOST_GROWTH:
        raise SystemExit(f"claimed: induced attention grows linearly (exponent up to {MOST_GROWTH})")


if __name__ == "__main__":
    main()

"""Memory of comparing all pairs of samples of a step: block by block, against all at once under autograd.

One rank's share is computed in one process, as `pairwise_gradient` does between the gather and the backward pass: its
own samples against those of all W ranks, which are joined from parts as a gather joins them. True distances come from a
function, block by block. Memory is the resident memory above that before there were embeddings, so that it counts them
too. Every measurement has a process of its own.

    python benchmarks/pairwise_memory.py --json pairwise_memory.json
    python benchmarks/pairwise_memory.py --one-rank-up-to 32768    # one rank with all pairs at every size: longer

Shapes: G samples of all ranks, B of one rank, D width, W ranks.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _common import arguments, print_table, write_json
from torch import Tensor

from aam.models.distance_link import laplace
from aam.training.losses import pairwise_gradient

LIMIT = 10**9
"""Bytes that the largest step may take on a rank."""
GROWTH = 2.2
"""Times the memory that twice the samples may take at most,"""
SLACK = 2**26
"""and bytes beyond that, of the allocator."""
PARTS = 8
"""Pieces that the embeddings are drawn in, so that they do not depend on the number of ranks."""
COMPARED = 64
"""Samples whose gradients are compared."""
TOLERANCE = 1e-5


class Peak:
    """The highest resident memory while it is watched, looked at every millisecond."""

    def __init__(self) -> None:
        self.bytes = resident_bytes()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look until the context ends."""
        over = threading.Event()
        looker = threading.Thread(target=self._look, args=(over,))
        looker.start()
        try:
            yield
        finally:
            over.set()
            looker.join()
        self.bytes = max(self.bytes, resident_bytes())

    def _look(self, over: threading.Event) -> None:
        while not over.wait(1e-3):
            self.bytes = max(self.bytes, resident_bytes())


def resident_bytes() -> int:
    """Main memory that this process takes now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def true_distance(rows: slice, columns: slice) -> Tensor:
    """Distances that are a function of the two samples: float64 [rows, columns] in [0, 1)."""
    first = torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None]
    second = torch.arange(columns.start, columns.stop, dtype=torch.float64)
    return ((first - second).abs() * 0.618).frac()


def embeddings(samples: int, width: int) -> Tensor:
    """What a gather leaves on every rank: [G, D], in the memory of twice as much for a moment."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(samples // PARTS, width, generator=generator) * width**-0.5 for _ in range(PARTS)]
    return torch.cat(parts)


def all_at_once(own: Tensor, everyone: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs under autograd, where one rank has all samples: value and gradient [G, D]."""
    assert len(own) == len(everyone)
    leaf, all_samples = own.requires_grad_(), slice(0, len(own))
    error = laplace(leaf, leaf) - true_distance(all_samples, all_samples).to(own.dtype)
    value = error.square().triu(1).sum() / (len(own) * (len(own) - 1) // 2)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def block_by_block(own: Tensor, everyone: Tensor) -> tuple[Tensor, Tensor]:
    """This rank's fraction of the value, and the gradient at its samples [B, D]."""
    return pairwise_gradient(own, everyone, 0, laplace, true_distance)


FORMS = {"block by block": block_by_block, "all at once": all_at_once}


def measure(form: str, samples: int, ranks: int, width: int) -> dict[str, Any]:
    """Compute the first rank's share in this process, which is to be a fresh one."""
    warm = embeddings(2 * PARTS, width)
    FORMS[form](warm, warm)
    peak, start = Peak(), time.process_time()
    before = peak.bytes
    with peak.watch():
        everyone = embeddings(samples, width)
        own = everyone if ranks == 1 else everyone[: samples // ranks].clone()
        _, gradient = FORMS[form](own, everyone)
    seconds = time.process_time() - start
    line = {"form": form, "samples": samples, "ranks": ranks, "bytes": peak.bytes - before, "cpu_seconds": seconds}
    # whole already on the rank that has the sample, whatever the number of ranks
    return line | {"gradient": gradient[:COMPARED].flatten().tolist()}


def measure_apart(form: str, samples: int, ranks: int, width: int) -> dict[str, Any]:
    """Run `measure` in a new process."""
    command = [sys.executable, __file__, "--measure", form, "--samples", str(samples), "--ranks", str(ranks)]
    run = subprocess.run([*command, "--width", str(width)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr or f"{form}, {samples} samples: ended with {run.returncode}")
    line: dict[str, Any] = json.loads(run.stdout)
    return line


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One line for each form, size and number of ranks, with the difference from the first of its size."""
    cases = [("block by block", samples, options.ranks) for samples in options.samples]
    cases += [("block by block", samples, 1) for samples in options.samples if samples <= options.one_rank_up_to]
    cases += [("all at once", samples, 1) for samples in options.samples if samples <= options.at_once_up_to]
    lines: list[dict[str, Any]] = []
    gradients: dict[int, torch.Tensor] = {}
    for form, samples, ranks in cases:
        line = measure_apart(form, samples, ranks, options.width)
        gradient = torch.tensor(line.pop("gradient"), dtype=torch.float64)
        first = gradients.setdefault(samples, gradient)
        length = min(len(first), len(gradient))
        difference = (gradient[:length] - first[:length]).norm() / first[:length].norm()
        lines.append(line | {"difference": float(difference)})
    return lines


def report(lines: list[dict[str, Any]], width: int) -> None:
    """Print the figures."""
    columns = ["form", "samples", "ranks", "peak MB a rank", "embeddings of all, MB", "CPU seconds", "difference"]
    rows: list[list[object]] = []
    for line in lines:
        size = [line["bytes"] / 1e6, line["samples"] * width * 4 / 1e6]
        rows.append([line["form"], line["samples"], line["ranks"], *size, line["cpu_seconds"], line["difference"]])
    print_table(columns, rows)
    print("difference: of the gradients of the first samples from those of the first line of the size, over their norm")


def judge(lines: list[dict[str, Any]]) -> None:
    """Hold the figures against what is claimed."""
    blocks = [line for line in lines if line["form"] == "block by block"]
    if max(line["difference"] for line in lines) > TOLERANCE:
        raise SystemExit(f"claimed: the same gradient to {TOLERANCE}")
    if max(line["bytes"] for line in blocks) >= LIMIT:
        raise SystemExit(f"claimed: less than {LIMIT / 1e9:g} GB a rank")
    for line, larger in itertools.pairwise(blocks):
        allowed = line["bytes"] * GROWTH * larger["samples"] / line["samples"] / 2 + SLACK
        if line["ranks"] == larger["ranks"] and larger["bytes"] > allowed:
            raise SystemExit("claimed: memory that grows with the samples, not with their pairs")


def main() -> None:
    """Measure every case and hold it against what is claimed."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--one-rank-up-to", type=int, default=8192, help="samples, for W = 1")
    parser.add_argument("--at-once-up-to", type=int, default=4096, help="samples, for all pairs at once")
    parser.add_argument("--measure", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.samples[0], options.ranks, options.width)))
        return
    lines = measure_all(options)
    report(lines, options.width)
    write_json(options.json, lines)
    judge(lines)


if __name__ == "__main__":
    main()

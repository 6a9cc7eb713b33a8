"""Samples of many ASVs: attention of all ASVs to one another, against attention through learned points.

A forward and a backward pass of the sample level (layers and pooling; ASVs come embedded) over one batch, each in a
process of its own, in single precision. Time is that of the processor; memory is the resident memory above that before
the pass. Samples differ a little in their numbers of ASVs, so that nothing is padded alike.

    python benchmarks/many_asvs.py --json many_asvs.json
    python benchmarks/many_asvs.py --asvs 1000 8000 --samples 8

Shapes: B samples, S ASVs in the largest sample, D width.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from typing import Any

import torch
from _common import arguments, print_table, write_json
from pairwise_memory import Peak

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.models.sample_encoder import SampleEncoder
from aam.training.memory.allocator import keep_freed_memory

ATTENTIONS = ("full", "induced")
GROWTH = 1.3
"""Times that the cost of an ASV may grow through points, over the whole range."""


def samples_of(asvs: int, samples: int, width: int) -> Samples:
    """Samples with 90 to 100 percent of S embedded ASVs."""
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(asvs, width, generator=generator)
    index = torch.arange(asvs).expand(samples, -1)
    size = torch.linspace(0.9 * asvs, asvs, samples).long() if samples > 1 else torch.tensor([asvs])
    padding = torch.arange(asvs) >= size[:, None]
    counts = torch.randint(1, 100, (samples, asvs), generator=generator).masked_fill(padding, 0)
    return Samples(embedding, index, counts, counts.sum(1), padding)


def measure(attention: str, asvs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time passes in this process, which is to be a fresh one, and watch its memory."""
    torch.manual_seed(0)
    shape = {"embedding_dim": options.width, "attention_layers": options.layers}
    model = SampleEncoder(ModelConfig.model_validate(shape | {"sample_attention": attention}))
    samples = samples_of(asvs, options.samples, options.width)
    samples.asvs.requires_grad_()

    def step() -> None:
        model(samples).embedding.square().mean().backward()
        model.zero_grad(set_to_none=True)
        samples.asvs.grad = None

    keep_freed_memory()
    peak = Peak()
    before = peak.bytes
    with peak.watch():
        step()
    times = []
    for _ in range(options.rounds):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {"attention": attention, "asvs": asvs, "cpu_seconds": min(times), "bytes": peak.bytes - before}


def measure_apart(attention: str, asvs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a new process."""
    words = ["--measure", attention, "--asvs", asvs, "--samples", options.samples, "--rounds", options.rounds]
    words += ["--width", options.width, "--layers", options.layers]
    run = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr or f"{attention}, {asvs} ASVs: ended with {run.returncode}")
    line: dict[str, Any] = json.loads(run.stdout)
    return line


def report(lines: list[dict[str, Any]]) -> None:
    """Print the figures of both side by side."""
    columns = ["ASVs in a sample", "CPU s, full", "CPU s, induced", "times faster", "peak MB, full", "peak MB, induced"]
    of = {(line["asvs"], line["attention"]): line for line in lines}
    rows = []
    for asvs in dict.fromkeys(line["asvs"] for line in lines):
        full, induced = (of[asvs, attention] for attention in ATTENTIONS)
        seconds = [full["cpu_seconds"], induced["cpu_seconds"], full["cpu_seconds"] / induced["cpu_seconds"]]
        rows.append([asvs, *seconds, full["bytes"] / 1e6, induced["bytes"] / 1e6])
    print_table(columns, rows)


def judge(lines: list[dict[str, Any]]) -> None:
    """Hold the figures against what is claimed: time through points grows with the ASVs."""
    induced = sorted((line["asvs"], line["cpu_seconds"]) for line in lines if line["attention"] == "induced")
    for (few, short), (many, long) in itertools.combinations(induced, 2):
        if long / short > GROWTH * many / few:
            raise SystemExit(f"claimed: time that grows with the ASVs; {many} take {long / short:.3g} times {few}")


def main() -> None:
    """Measure both at every number of ASVs."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--asvs", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="passes of which the fastest counts")
    parser.add_argument("--measure", choices=ATTENTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.asvs[0], options)))
        return
    lines = [measure_apart(attention, asvs, options) for asvs in options.asvs for attention in ATTENTIONS]
    report(lines)
    write_json(options.json, lines)
    judge(lines)


if __name__ == "__main__":
    main()

"""Pretraining on a GPU: samples a second, utilisation of its arithmetic, and peak memory.

A step of pretraining (forward, backward, optimizer) on one synthetic batch of unique ASVs that lies on the GPU. The
model FLOP utilisation is the rate of a step's operations (matrix products and attention, counted uncompiled; scores
that fused attention computes again in its backward pass are counted again) over the rate of the GPU: that of
`--peak-tflops`, if given, which is what the maker claims, and that which matrix products of the same shapes reach.
With `--study` also the fraction of a step of `aam pretrain` that is spent waiting for its batch, at the same width.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --peak-tflops 989 --batch-size 64    # dense bf16 of an H100 SXM
    python benchmarks/gpu.py --device cpu --width 16 --heads 2 --layers 1 --batch-size 2 --asvs 8 --unique 12 --steps 1

Shapes: B samples, S ASVs in a sample, U unique ASVs of the batch, L nucleotides, D width.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import arguments, print_table, write_json
from _flops import flops_of, matmul_rate, products_of, synchronise
from data_wait import trainer_of, waiting
from pretrain_step import Work, step

from aam.config import MaskConfig, ModelConfig, OptimConfig
from aam.data.sampling.samples import Samples
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import CHUNK_POSITIONS, compile_blocks
from aam.training.optim import make_optimizer
from aam.training.tasks.masking import mask_nucleotides

DTYPES = {"none": None, "bf16": torch.bfloat16}


def synthetic(options: argparse.Namespace) -> Work:
    """Draw a batch: half to all of S ASVs in each sample, of U that all samples share."""
    generator = torch.Generator().manual_seed(0)
    samples, asvs, unique = options.batch_size, options.asvs, options.unique
    tokens = torch.randint(1, 5, (unique, options.nucleotides), generator=generator, dtype=torch.uint8)
    index = torch.stack([torch.randperm(unique, generator=generator)[:asvs] for _ in range(samples)])
    size = torch.randint(asvs // 2, asvs + 1, (samples,), generator=generator)
    present = torch.arange(asvs) < size[:, None]
    counts = torch.randint(1, 100, index.shape, generator=generator) * present
    occurrence = torch.bincount(index[present], minlength=unique).float()
    mask = mask_nucleotides(tokens, torch.arange(unique), MaskConfig(), seed=0, step=0)
    true = torch.rand(samples, samples, generator=generator)
    work = Work(Samples(tokens, index, counts, counts.sum(1), ~present, mask), occurrence, true)
    return work.to(torch.device(options.device))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time steps, count their operations, and compare their rate with that of the device."""
    device, dtype = torch.device(options.device), DTYPES[options.mixed_precision]
    shape = {"embedding_dim": options.width, "attention_layers": options.layers, "attention_heads": options.heads}
    config = ModelConfig(**shape, max_bp=options.nucleotides, sample_attention=options.sample_attention)
    torch.manual_seed(0)
    model = SequenceEncoder(config).to(device)
    optimizer, work = make_optimizer(model, OptimConfig()), synthetic(options)

    def run() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            step(model, optimizer, work)

    flops = flops_of(run)
    if options.compile:
        compile_blocks(model)
    seconds, peak = timed(run, options.steps, device)
    products = products_of(config, CHUNK_POSITIONS[device.type])
    reached = matmul_rate(products, dtype or torch.float32, device)
    claimed = None if options.peak_tflops is None else flops / seconds / (1e12 * options.peak_tflops)
    return {
        "samples a second": options.batch_size / seconds,
        "ms a step": 1e3 * seconds,
        "GFLOP a step": flops / 1e9,
        "TFLOP/s": flops / seconds / 1e12,
        "of the matmul rate": flops / seconds / reached,
        "of the claimed peak": claimed,
        "peak MB": peak / 1e6,
    }


def data_wait(options: argparse.Namespace) -> float:
    """Fraction of a step of pretraining on a study that is spent waiting, with the default number of workers."""
    shape = {name: getattr(options, name) for name in ("batch_size", "device", "mixed_precision")}
    shape |= {"embedding_dim": options.width, "attention_heads": options.heads, "attention_layers": options.layers}
    with trainer_of(options.data / options.study, shape) as trainer:
        return waiting(trainer, None, options.steps)["share"]


def timed(run: Callable[[], object], steps: int, device: torch.device) -> tuple[float, int]:
    """Seconds of a step, the mean of several after three that do not count, and the peak memory in bytes."""
    for _ in range(3):
        run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        run()
    synchronise(device)
    seconds = (time.perf_counter() - start) / steps
    if device.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(device)
    return seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, or say that there is no GPU."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--mixed-precision", default="bf16", choices=DTYPES)
    parser.add_argument("--sample-attention", default="full", choices=["full", "induced"])
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=4, help="of each level")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--asvs", type=int, default=500, help="of the largest samples")
    parser.add_argument("--unique", type=int, default=4000, help="ASVs of the whole batch")
    parser.add_argument("--nucleotides", type=int, default=150)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--study", help="a folder of --data, whose batches are waited for")
    parser.add_argument("--peak-tflops", type=float, help="what the maker claims for the precision")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no GPU: nothing was measured (--device cpu runs a tiny model on the processor)")
        return
    if options.study and options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    figures = measure(options)
    if options.study:
        figures["waiting for data"] = data_wait(options)
    print_table(list(figures), [list(figures.values())])
    write_json(options.json, figures)


if __name__ == "__main__":
    main()

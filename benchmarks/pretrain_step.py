"""A step of pretraining on the unique ASVs of a batch, against the same model on padded rows.

The baseline reads every ASV of every sample, padding included, nucleotide by nucleotide, with the same blocks and
gradient checkpointing by block and chunk. Against it stand aam with the same mathematics (the same weights, losses and
outputs) and aam with its default settings (nucleotides in patches of five). Every side runs in a process of its own,
without torch.compile. The rate of its arithmetic is compared with that of matrix products of the
step's own shapes, measured in the same process.

    AAM_TEST_DATA=../shared/data python benchmarks/pretrain_step.py --batch-sizes 8 32
    AAM_TEST_DATA=../shared/data python benchmarks/pretrain_step.py --dataset emp_2k --batch-sizes 8
    AAM_TEST_DATA=../shared/data python benchmarks/pretrain_step.py --device cuda --mixed-precision bf16

What is claimed is held against measurements on a CPU in single precision alone.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, T rows of a product, D width.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import arguments, print_table, write_json
from _flops import flops_of, matmul_rate, products_of, synchronise
from torch import Tensor

from aam.config import MaskConfig, ModelConfig, SamplingConfig
from aam.data.files.sequences import encode_sequences, sequence_keys
from aam.data.files.tables import read_tables
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import Samples
from aam.models.sample_encoder import SampleEncoder
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import CHUNK_POSITIONS
from aam.training.losses import nucleotide_loss, pairwise_gradient
from aam.training.memory.allocator import keep_freed_memory
from aam.training.tasks.masking import mask_nucleotides

GIB = 2**30
DTYPES = {"none": None, "bf16": torch.bfloat16}
TOLERANCE = 1e-5
SIDES: dict[str, dict[str, Any]] = {
    "padded": {"nucleotide_patch": 1, "gradient_checkpointing": True},
    "same mathematics": {"nucleotide_patch": 1, "gradient_checkpointing": True},
    "default settings": {},
}
CLAIMED = {
    "moving_pictures": {"same mathematics": 4.0, "default settings": 12.0},
    "emp_2k": {"same mathematics": 2.0},
}
MEMORY, RATE = 0.25, 0.5


class Work(NamedTuple):
    """What one step reads."""

    samples: Samples
    """With masked nucleotides; rows of nucleotides are U or B x S."""
    weight: Tensor
    """[rows], samples that a row stands for."""
    true: Tensor
    """[B, B], distances; any numbers will do for a measurement."""

    def to(self, device: torch.device) -> "Work":
        """Copy to a device."""
        return Work(self.samples.to(device), self.weight.to(device), self.true.to(device))


def load_batch(folder: Path, batch_size: int) -> tuple[Work, dict[str, int]]:
    """Draw a batch, and count its unique, packed and padded rows."""
    table = read_tables([folder / "table.biom"])
    nucleotides = torch.from_numpy(encode_sequences(table.sequences))
    keys = torch.from_numpy(sequence_keys(table.sequences))
    samples = np.random.default_rng(0).permutation(table.n_samples)[:batch_size]
    batch = FixedBatches(SampleDraws(table, SamplingConfig(), seed=0), samples, batch_size)[0]
    mask = mask_nucleotides(nucleotides[batch.asv], keys[batch.asv], MaskConfig(), seed=0, step=0)
    true = torch.rand(batch_size, batch_size, generator=torch.Generator().manual_seed(0))
    samples_of_batch = batch.samples(nucleotides[batch.asv])._replace(masked_nucleotides=mask)
    rows = {"unique": len(batch.asv), "packed": int((~batch.padding).sum()), "padded": batch.counts.numel()}
    return Work(samples_of_batch, batch.occurrence.float(), true), rows


def padded(work: Work) -> Work:
    """The same batch with a row for every ASV of every sample and for padding."""
    samples = work.samples
    assert samples.masked_nucleotides is not None
    asv, present = samples.asv_index.flatten(), ~samples.padding.flatten()
    own = torch.arange(len(asv)).view(samples.asv_index.shape)
    mask = samples.masked_nucleotides[asv] & present[:, None]
    one_each = samples._replace(asvs=samples.asvs[asv], asv_index=own, masked_nucleotides=mask)
    return Work(one_each, present.float(), work.true)


def measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one side, read its peak memory and its arithmetic; runs in a process of its own."""
    device, dtype = torch.device(options.device), DTYPES[options.mixed_precision]
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (12 * GIB, 12 * GIB))
    work, rows = load_batch(options.data / options.dataset, options.batch_sizes[0])
    shape = {"embedding_dim": options.width, "attention_layers": options.layers}
    model = SequenceEncoder(ModelConfig(**shape, max_bp=work.samples.asvs.shape[1], **SIDES[side])).to(device)
    if side == "padded":
        work = padded(work)
        assert isinstance(model.sample_encoder, SampleEncoder)
        model.sample_encoder.transformer.pads = True
    work = work.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    keep_freed_memory()
    before = peak_memory(device)

    def run() -> list[float]:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return step(model, optimizer, work)

    # the first step takes its memory from the system
    outputs = run()
    times = []
    for _ in range(options.rounds):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        times.append(time.perf_counter() - start)
    peak = peak_memory(device) - before
    figures = {"seconds": min(times), "peak_bytes": peak, "gflop": None, "share_of_rate": None}
    if side == "default settings":
        flops = flops_of(run)
        products = products_of(model.config, CHUNK_POSITIONS[device.type])
        rate = matmul_rate(products, dtype or torch.float32, device)
        figures |= {"gflop": flops / 1e9, "share_of_rate": flops / min(times) / rate}
    return {"rows": rows, "outputs": outputs, **figures}


def peak_memory(device: torch.device) -> int:
    """The most bytes until now: of tensors on a GPU, else resident ones of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def step(model: SequenceEncoder, optimizer: torch.optim.Optimizer, work: Work) -> list[float]:
    """One step of the optimizer; returns its losses, predicted distances and sample embeddings."""
    output, mask = model(work.samples), work.samples.masked_nucleotides
    assert mask is not None
    weight = work.weight.repeat_interleave(mask.sum(dim=1))
    nucleotide = nucleotide_loss(output.nucleotide_logits, work.samples.asvs[mask].long(), weight, weight.sum())
    z = output.z.detach()
    unifrac, pull = pairwise_gradient(z, z, 0, model.distance, lambda rows, columns: work.true[rows, columns])
    optimizer.zero_grad()
    ((output.z * pull).sum() + 0.1 * nucleotide).backward()
    optimizer.step()
    compared = model.distance(z, z).flatten().tolist() + output.sample_embedding.flatten().tolist()
    return [float(unifrac), float(nucleotide.detach()), *compared]


def measure_apart(side: str, batch_size: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """Run `measure` in a new process; None where it needs more than 12 GiB, or more than the GPU has."""
    words = ["--measure", side, "--data", options.data, "--dataset", options.dataset, "--batch-sizes", batch_size]
    words += ["--width", options.width, "--layers", options.layers, "--rounds", options.rounds]
    words += ["--device", options.device, "--mixed-precision", options.mixed_precision]
    run = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if run.returncode and ("can't allocate memory" in run.stderr or "CUDA out of memory" in run.stderr):
        return None
    if run.returncode:
        raise SystemExit(run.stderr)
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures


def compare(batch_size: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """All sides at one batch size; None where the baseline does not fit."""
    sides = {side: measure_apart(side, batch_size, options) for side in SIDES}
    base, same = sides["padded"], sides["same mathematics"]
    if base is None or same is None or sides["default settings"] is None:
        return None
    difference = np.abs(np.subtract(same["outputs"], base["outputs"])).max()
    for figures in sides.values():
        assert figures is not None
        del figures["outputs"]
        figures["faster"] = base["seconds"] / figures["seconds"]
        figures["memory_ratio"] = figures["peak_bytes"] / base["peak_bytes"]
    return {"batch_size": batch_size, "rows": base["rows"], "sides": sides, "largest_difference": float(difference)}


def report(results: list[dict[str, Any]]) -> None:
    """Print the figures."""
    columns = ["batch", "unique : packed : padded rows", "side", "s a step", "times faster", "peak MiB"]
    columns += ["of the memory", "GFLOP", "of the matmul rate"]
    lines = []
    for result in results:
        rows = " : ".join(map(str, result["rows"].values()))
        for side, f in result["sides"].items():
            figures = [f["seconds"], f["faster"], f["peak_bytes"] / 2**20, f["memory_ratio"], f["gflop"]]
            lines.append([result["batch_size"], rows, side, *figures, f["share_of_rate"]])
    print_table(columns, lines)
    difference = max((result["largest_difference"] for result in results), default=math.nan)
    print(f"same mathematics: outputs differ by {difference:.2g} at most; memory: above that before the first step")


def judge(largest: dict[str, Any], dataset: str) -> None:
    """Hold the largest batch against what is claimed."""
    sides, claimed = largest["sides"], CLAIMED.get(dataset, {})
    failed = [f"{side}: {times} times faster" for side, times in claimed.items() if sides[side]["faster"] < times]
    if dataset == "moving_pictures":
        failed += [f"{side}: {MEMORY} of the memory" for side in claimed if sides[side]["memory_ratio"] > MEMORY]
    if sides["default settings"]["share_of_rate"] < RATE:
        failed.append(f"{RATE} of the rate of matrix products")
    if largest["largest_difference"] > TOLERANCE:
        failed.append(f"outputs equal to {TOLERANCE}")
    if failed:
        raise SystemExit(f"claimed, and not found: {'; '.join(failed)}")


def main() -> None:
    """Compare at every batch size."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--dataset", default="moving_pictures", help="folder of the study")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4, help="of each level")
    parser.add_argument("--rounds", type=int, default=2, help="steps of which the fastest counts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--mixed-precision", default="none", choices=DTYPES)
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    if options.measure:
        torch.manual_seed(0)
        options.data = Path(options.data)
        print(json.dumps(measure(options.measure, options)))
        return
    compared = {size: compare(size, options) for size in options.batch_sizes}
    for size in (size for size, result in compared.items() if result is None):
        print(f"batch {size}: a side does not fit into the memory")
    results = [result for result in compared.values() if result is not None]
    report(results)
    write_json(options.json, results)
    if results and options.device == "cpu" and options.mixed_precision == "none":
        judge(results[-1], options.dataset)


if __name__ == "__main__":
    main()

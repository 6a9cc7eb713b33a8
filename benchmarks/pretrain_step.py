"""A pretraining step: every unique ASV encoded once, against rows padded to the longest sample.

The baseline is the same model with the same weights, blocks and options; it receives the nucleotides of every ASV of
every sample, padded to the batch's longest sample, as a model without de-duplication does. Its rows are gathered before
the clock starts, and rows of padding hold real nucleotides, so that it needs no attention mask. Both sides compute the
same losses over the same hidden nucleotides. Each side runs in a process of its own, so that its peak of the resident
memory can be read.

    AAM_TEST_DATA=../shared/data python benchmarks/pretrain_step.py --json pretrain_step.json

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, D width.
"""

import argparse
import itertools
import json
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
from torch import Tensor

from aam.config import MaskConfig, ModelConfig, SamplingConfig
from aam.data.dataset import FixedBatches
from aam.data.rarefaction import SampleDraws
from aam.data.sequences import encode_sequences, sequence_keys
from aam.data.tables import read_tables
from aam.models.sequence_encoder import SequenceEncoder
from aam.training.losses import nucleotide_loss, pairwise_gradient
from aam.training.masking import hidden_nucleotides

GIB = 2**30
BATCHES = 3
ROUNDS = 3
TOLERANCE = 1e-5
FASTER, SMALLER = 3.0, 0.5


class Work(NamedTuple):
    """What one step reads."""

    tokens: Tensor
    """uint8 [rows, L], rows are U or B x S."""
    slot: Tensor
    """int64 [B, S]."""
    count: Tensor
    """int64 [B, S]."""
    depth: Tensor
    """int64 [B]."""
    mask: Tensor
    """bool [rows, L]."""
    weight: Tensor
    """[rows], samples that a row stands for."""
    true: Tensor
    """[B, B], distances; any numbers will do for a measurement."""


def load_batches(data: Path, batch_size: int) -> tuple[list[Work], list[dict[str, int]]]:
    """Draw the batches, and count their unique, packed and padded rows."""
    table = read_tables([data / "moving_pictures" / "table.biom"])
    nucleotides = torch.from_numpy(encode_sequences(table.sequences))
    generator = torch.Generator().manual_seed(0)
    keys = torch.from_numpy(sequence_keys(table.sequences))
    hidden = hidden_nucleotides(nucleotides, keys, MaskConfig(), seed=0, step=0)
    samples = np.random.default_rng(0).permutation(table.n_samples)[: BATCHES * batch_size]
    works, rows = [], []
    batches = FixedBatches(SampleDraws(table, SamplingConfig(), seed=0), samples, batch_size)
    for batch in map(batches.__getitem__, range(BATCHES)):
        true = torch.rand(batch_size, batch_size, generator=generator)
        weight = batch.occurrence.float()
        drawn = (batch.slot, batch.count, batch.depth)
        works.append(Work(nucleotides[batch.asv], *drawn, hidden[batch.asv], weight, true))
        rows.append({"unique": len(batch.asv), "packed": int((batch.count > 0).sum()), "padded": batch.count.numel()})
    return works, rows


def padded(work: Work) -> Work:
    """The same batch with a row for every ASV of every sample and for padding."""
    slot, present = work.slot.flatten(), (work.count > 0).flatten()
    own = torch.arange(len(slot)).view(work.slot.shape)
    mask = work.mask[slot] & present[:, None]
    return Work(work.tokens[slot], own, work.count, work.depth, mask, present.float(), work.true)


def measure(side: str, data: Path, batch_size: int, checkpointing: bool) -> dict[str, Any]:
    """Time the steps of one side and read its peak memory; runs in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (12 * GIB, 12 * GIB))
    works, rows = load_batches(data, batch_size)
    if side == "padded":
        works = [padded(work) for work in works]
    torch.manual_seed(0)
    length = works[0].tokens.shape[1]
    shape = ModelConfig(embedding_dim=64, attention_layers=2, max_bp=length, gradient_checkpointing=checkpointing)
    model = SequenceEncoder(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outputs = step(model, optimizer, works[0])
    seconds = []
    for work in itertools.chain.from_iterable([works] * ROUNDS):
        start = time.perf_counter()
        step(model, optimizer, work)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # the fastest run of each batch: other processes of the machine only ever add time
    best = np.reshape(seconds, (ROUNDS, BATCHES)).min(axis=0).sum()
    totals = {kind: sum(row[kind] for row in rows) for kind in rows[0]}
    return {"samples_per_s": BATCHES * batch_size / best, "peak_bytes": peak * 1024, "rows": totals, "outputs": outputs}


def step(model: SequenceEncoder, optimizer: torch.optim.Optimizer, work: Work) -> list[float]:
    """One step of the optimizer; returns its losses, predicted distances and sample embeddings."""
    output = model(work.tokens, work.slot, work.count, work.depth, work.mask)
    weight = work.weight.repeat_interleave(work.mask.sum(dim=1))
    nucleotide = nucleotide_loss(output.nucleotide_logits, work.tokens[work.mask].long(), weight, weight.sum())
    z = output.z.detach()
    unifrac, pull = pairwise_gradient(z, z, 0, model.distance, lambda rows, columns: work.true[rows, columns])
    optimizer.zero_grad()
    ((output.z * pull).sum() + 0.1 * nucleotide).backward()
    optimizer.step()
    compared = model.distance(z, z).flatten().tolist() + output.sample_embedding.flatten().tolist()
    return [float(unifrac), float(nucleotide), *compared]


def measure_apart(side: str, data: Path, batch_size: int, checkpointing: bool) -> dict[str, Any] | None:
    """Run `measure` in a new process; None where it needs more than 12 GiB."""
    command = [sys.executable, __file__, "--measure", side, "--batch-sizes", str(batch_size), "--data", str(data)]
    run = subprocess.run(
        command + checkpointing * ["--gradient-checkpointing"], capture_output=True, text=True, check=False
    )
    if run.returncode and "can't allocate memory" in run.stderr:
        return None
    if run.returncode:
        raise SystemExit(run.stderr)
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures


def compare(data: Path, batch_size: int, checkpointing: bool) -> dict[str, Any] | None:
    """Both sides at one batch size; None where the baseline does not fit."""
    base = measure_apart("padded", data, batch_size, checkpointing)
    ours = measure_apart("unique", data, batch_size, checkpointing)
    if base is None or ours is None:
        return None
    difference = np.abs(np.subtract(ours.pop("outputs"), base.pop("outputs"))).max()
    return {
        "batch_size": batch_size,
        "rows": ours.pop("rows"),
        "unique": ours,
        "padded": {name: base[name] for name in ours},
        "faster": ours["samples_per_s"] / base["samples_per_s"],
        "memory_ratio": ours["peak_bytes"] / base["peak_bytes"],
        "largest_difference": float(difference),
    }


def report(results: list[dict[str, Any]]) -> None:
    """Print the figures."""
    columns = ["batch", "unique rows", "packed", "padded", "samples/s", "padded samples/s", "times faster"]
    columns += ["peak MiB", "padded peak MiB", "memory ratio", "largest difference"]
    rows = [
        [r["batch_size"], *r["rows"].values(), r["unique"]["samples_per_s"], r["padded"]["samples_per_s"], r["faster"]]
        + [r[side]["peak_bytes"] / 2**20 for side in ("unique", "padded")]
        + [r["memory_ratio"], r["largest_difference"]]
        for r in results
    ]
    print_table(columns, rows)
    print(f"rows: sums over {BATCHES} batches; memory: above the level before the first step")


def main() -> None:
    """Compare at every batch size and hold the largest against what is claimed."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--gradient-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--measure", choices=["unique", "padded"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    if options.measure:
        print(
            json.dumps(measure(options.measure, options.data, options.batch_sizes[0], options.gradient_checkpointing))
        )
        return
    compared = [compare(options.data, size, options.gradient_checkpointing) for size in options.batch_sizes]
    results = [result for result in compared if result is not None]
    report(results)
    write_json(options.json, results)
    largest = results[-1]
    same = max(result["largest_difference"] for result in results) <= TOLERANCE
    if not (same and largest["faster"] >= FASTER and largest["memory_ratio"] <= SMALLER):
        raise SystemExit(f"claimed: {FASTER} times faster, {SMALLER} of the memory, outputs equal to {TOLERANCE}")


if __name__ == "__main__":
    main()

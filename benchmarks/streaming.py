"""Pretraining on a table that is larger than the memory should be: resident memory, and the time until the first step.

Writes a simulated study (ASVs of 150 nucleotides, a few hundred a sample, two files with the ASVs in different orders,
and a tree), then runs `aam pretrain` on it until it has made some steps, while the memory of its process is watched.

    python benchmarks/streaming.py study --json streaming.json
"""

import argparse
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from _common import arguments, print_table, write_json

from aam.training.run_folder import RunFolder

LENGTH = 150
BLOCK = 2000
LIMIT_GB, LIMIT_SECONDS = 3.0, 120.0


def write_study(folder: Path, samples: int, asvs: int, per_sample: int) -> None:
    """Write two tables of half of the samples each, and the tree, a block at a time."""
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    sequences = letters[random.integers(0, 4, (asvs, LENGTH), dtype=np.uint8)].view(f"S{LENGTH}").ravel()
    folder.mkdir(parents=True, exist_ok=True)
    for number, order in enumerate((np.arange(asvs), random.permutation(asvs))):
        rows = range(number * samples // 2, (number + 1) * samples // 2)
        _write_table(folder / f"table{number}.biom", rows, sequences[order], per_sample)
    _write_tree(folder / "tree.nwk", sequences)


def _write_table(path: Path, rows: range, sequences: np.ndarray[Any, Any], per_sample: int) -> None:
    random = np.random.default_rng(rows.start + 1)
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.create_dataset("observation/ids", data=sequences.astype(object), dtype=text)
        file.create_dataset("sample/ids", data=[f"sample{row}" for row in rows], dtype=text)
        options = {"shape": (0,), "maxshape": (None,), "chunks": (2**18,), "compression": "lzf"}
        data = file.create_dataset("sample/matrix/data", dtype=np.float64, **options)
        indices = file.create_dataset("sample/matrix/indices", dtype=np.int32, **options)
        sizes = [np.zeros(1, dtype=np.int64)]
        for start in range(0, len(rows), BLOCK):
            block = min(BLOCK, len(rows) - start)
            # some ASVs are in most samples, most in few; the last one is in about (ASVs of a sample) / 4 of as many
            drawn = (len(sequences) * random.random((block, per_sample)) ** 4).astype(np.int64)
            places = np.unique(drawn + len(sequences) * np.arange(block)[:, None])
            sizes.append(np.bincount(places // len(sequences), minlength=block))
            for dataset, values in ((indices, places % len(sequences)), (data, random.integers(1, 100, len(places)))):
                dataset.resize(len(dataset) + len(places), axis=0)
                dataset[-len(places) :] = values
        file.create_dataset("sample/matrix/indptr", data=np.concatenate(sizes).cumsum())


def _write_tree(path: Path, sequences: np.ndarray[Any, Any]) -> None:
    """A tree that joins neighbours, level by level."""
    clades = [sequence.decode() for sequence in sequences]
    for level in range(math.ceil(math.log2(len(clades)))):
        pairs = [clades[i : i + 2] for i in range(0, len(clades), 2)]
        length = 0.01 * (level + 1)
        clades = [f"({','.join(f'{clade}:{length:.3g}' for clade in pair)})" for pair in pairs]
    path.write_text(clades[0] + ";\n")


def watch(folder: Path, steps: int, width: int, held_out: float) -> dict[str, float]:
    """Pretrain for some steps; peaks of the memory, and the time until the first step was done."""
    tables = [word for number in (0, 1) for word in ("--table", str(folder / f"table{number}.biom"))]
    words = ["--tree", folder / "tree.nwk", "--output-dir", folder / "run", "--overwrite", "--epochs", 1]
    words += ["--embedding-dim", width, "--attention-layers", 1, "--log-every", 1, "--val-fraction", held_out]
    command = [sys.executable, "-m", "aam", "pretrain", "--device", "cpu", *tables, *map(str, words)]
    shutil.rmtree(folder / "run", ignore_errors=True)  # of an earlier measurement
    metrics = RunFolder(folder / "run").metrics
    start = time.perf_counter()
    process = subprocess.Popen(command)
    peaks = {"VmRSS": 0, "RssAnon": 0}
    first = None
    running = True
    while running:
        running = process.poll() is None
        status = Path(f"/proc/{process.pid}/status").read_text() if running else ""
        for name, peak in peaks.items():
            found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
            peaks[name] = max(peak, 1024 * int(found[1]) if found else 0)
        done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if done and first is None:
            first = time.perf_counter() - start
        if done >= steps and running:
            process.send_signal(signal.SIGTERM)
            process.wait()
        time.sleep(0.05)
    if first is None:
        raise SystemExit(f"aam pretrain ended with code {process.returncode} before its first step")
    return {
        "peak_gb": peaks["VmRSS"] / 1e9,
        "peak_anonymous_gb": peaks["RssAnon"] / 1e9,
        "seconds_to_first_step": first,
    }


def main() -> None:
    """Write the study unless it is there, and watch a run on it."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the study (2 GB); used again if it is there")
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--asvs", type=int, default=500_000)
    parser.add_argument("--asvs-per-sample", type=int, default=250, help="draws; a few ASVs are drawn twice")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=32)
    options: argparse.Namespace = parser.parse_args()
    if not (options.folder / "tree.nwk").exists():
        write_study(options.folder, options.samples, options.asvs, options.asvs_per_sample)
    held_out = max(0.001, 4 / options.samples)
    figures: dict[str, Any] = watch(options.folder, options.steps, options.width, held_out)
    on_disk = sum((options.folder / f"table{number}.biom").stat().st_size for number in (0, 1)) / 1e9
    columns = ["samples", "ASVs", "tables GB", "peak GB", "of it not of files GB", "s to the first step"]
    row = [f"{options.samples:,}", f"{options.asvs:,}", on_disk, *figures.values()]
    print_table(columns, [row])
    write_json(options.json, json.loads(json.dumps(vars(options) | figures, default=str)))
    if figures["peak_gb"] > LIMIT_GB or figures["seconds_to_first_step"] > LIMIT_SECONDS:
        raise SystemExit(f"claimed: below {LIMIT_GB:g} GB, and a first step within {LIMIT_SECONDS:g} s")


if __name__ == "__main__":
    main()

"""Learning with kernels on many samples: time against their number, and memory beyond the table.

Samples are compared with landmarks once there are more than some thousand, so that time grows with their number and not
with its square. The study is simulated in memory: some ASVs are in most samples, most in few, under a random tree; the
target is the fraction of a clade. Each size runs in a process of its own, whose memory before the table is counted off.

    python benchmarks/kernel_size.py --json kernel_size.json --plot kernel_size.png
"""

import argparse
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import arguments, print_table, write_json
from numpy.typing import NDArray
from scipy import sparse

from aam.config.kernel import KernelConfig
from aam.data.distances.unifrac import StudyTree
from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.learners.base import Problem
from aam.learners.kernel import KernelLearner

LIMIT_GB, LIMIT_SECONDS = 4.0, 600.0
DRAWS = 300
"""ASVs that are drawn for a sample; some are drawn twice."""


def simulate(samples: int, asvs: int) -> tuple[Study, NDArray[np.float64]]:
    """Simulate a study, and as the target the logarithm of the fraction of an eighth of the tips, with noise."""
    random = np.random.default_rng(0)
    drawn = (asvs * random.random((samples, DRAWS)) ** 3).astype(np.int64)
    flat = np.unique(drawn + asvs * np.arange(samples)[:, None])
    reads = random.geometric(0.03, len(flat))
    ends = np.searchsorted(flat, asvs * np.arange(samples + 1))
    counts = sparse.csr_array((reads, flat % asvs, ends), shape=(samples, asvs))
    names = tuple(map(str, range(asvs)))
    table = FeatureTable(counts, tuple(f"s{i:07}" for i in range(samples)), names, names)
    tree = random_tree(asvs, random)
    clade = tree.rank < asvs // 8
    share = np.asarray(counts @ clade.astype(np.float64)) / np.asarray(counts.sum(axis=1))
    return Study(table, tree=tree), np.log(share + 0.01) + random.normal(0, 0.1, samples)


def random_tree(tips: int, random: np.random.Generator) -> StudyTree:
    """A tree that splits tips at random places, in preorder."""
    start, stop, stack = [], [], [(0, tips)]
    while stack:
        first, end = stack.pop()
        start.append(first)
        stop.append(end)
        if end - first > 1:
            middle = first + 1 + int((end - first - 1) * random.beta(2, 2))
            stack += [(middle, end), (first, middle)]
    length = random.exponential(0.02, len(start))
    order = random.permutation(tips)
    return StudyTree(length, np.array(start), np.array(stop), order, np.argsort(order))


def resident(name: str) -> float:
    """Resident memory of this process in GB, now (VmRSS) or at most until now (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) / 1e9 if found else math.nan


def measure(samples: int, asvs: int, config: KernelConfig) -> dict[str, float]:
    """Learn from samples in ten groups for every hundred, and predict a tenth as many."""
    study, y = simulate(samples + samples // 10, asvs)
    before, start = resident("VmRSS"), time.perf_counter()
    groups = np.arange(samples) % max(2, samples // 10)
    problem = Problem(study, np.arange(samples), y[:samples], 0, groups, np.ones(samples), 0)
    solution = KernelLearner(config).solve(problem)
    learned = time.perf_counter()
    others = np.arange(samples, len(y))
    value = solution.predict(study, others).value
    assert solution.left_out is not None
    pairs = {"r2": (value, y[samples:]), "r2_left_out": (solution.left_out.value, y[:samples])}
    scores = {name: float(1 - np.mean((truth - made) ** 2) / truth.var()) for name, (made, truth) in pairs.items()}
    seconds = {"seconds": learned - start, "seconds_to_predict": time.perf_counter() - learned}
    return {"samples": samples, **seconds, "gb_beyond_the_table": resident("VmHWM") - before, **scores}


def plot(path: Path, figures: list[dict[str, float]]) -> None:
    """Draw time against the number of samples."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    axes.plot([line["samples"] for line in figures], [line["seconds"] for line in figures], "o-")
    axes.set(xlabel="samples", ylabel="seconds to learn", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=150)


def run(samples: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure one size in a process of its own."""
    words = ["--measure", samples, "--asvs", options.asvs, "--exact", options.exact, "--landmarks", options.landmarks]
    command = [sys.executable, __file__, *map(str, words), "--weigh", str(options.weigh)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure every size, and say which missed what is claimed."""
    defaults = KernelConfig()
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[2_500, 5_000, 10_000, 20_000])
    parser.add_argument("--asvs", type=int, default=50_000)
    parser.add_argument("--exact", type=int, default=defaults.kernel_exact_samples)
    parser.add_argument("--landmarks", type=int, default=defaults.kernel_landmarks)
    parser.add_argument("--weigh", type=int, default=defaults.kernel_weight_samples)
    parser.add_argument("--plot", type=Path, help="draw time against samples here")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        names = {"kernel_exact_samples": "exact", "kernel_landmarks": "landmarks", "kernel_weight_samples": "weigh"}
        config = KernelConfig(**{name: getattr(options, word) for name, word in names.items()})
        print(json.dumps(measure(options.measure, options.asvs, config)))
        return
    figures = [run(samples, options) for samples in options.samples]
    print_table([name.replace("_", " ") for name in figures[0]], [list(line.values()) for line in figures])
    write_json(options.json, {"asvs": options.asvs, "runs": figures})
    if options.plot is not None:
        plot(options.plot, figures)
    largest: dict[str, Any] = figures[-1]
    if largest["seconds"] > LIMIT_SECONDS or largest["gb_beyond_the_table"] > LIMIT_GB:
        raise SystemExit(f"claimed: within {LIMIT_SECONDS:g} s, and {LIMIT_GB:g} GB beyond the table")


if __name__ == "__main__":
    main()

"""The time of a step of pretraining grows with unique ASVs, with samples, and with ASVs a sample.

One of the three is varied at a time, on random ASVs of 150 nucleotides. The processor time of a step is written and
drawn beside the straight line that fits best; full attention among the ASVs of a sample adds a square, which shows
where samples hold thousands.

    python benchmarks/linear_cost.py --plot docs/linear_cost.png --json linear_cost.json

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _common import arguments, print_table, write_json
from pretrain_step import Work, step

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.evaluation.figures import figure_row
from aam.models.sequence_encoder import SequenceEncoder
from aam.training.memory.allocator import keep_freed_memory

LENGTH = 150
ROUNDS = 3


class Size(NamedTuple):
    """How much a batch holds."""

    unique: int
    samples: int
    asvs: int


LEAST = Size(unique=1000, samples=16, asvs=100)
VARIED: dict[str, list[Size]] = {
    "unique ASVs": [LEAST._replace(unique=500 * times) for times in (1, 2, 4, 8)],
    "samples": [LEAST._replace(samples=16 * times) for times in (1, 2, 4, 8)],
    "ASVs a sample": [LEAST._replace(asvs=100 * times) for times in (1, 2, 4, 8)],
}


def draw(size: Size) -> Work:
    """Draw a batch; every sample holds as many ASVs."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 5, (size.unique, LENGTH), generator=generator, dtype=torch.uint8)
    index = torch.randint(0, size.unique, (size.samples, size.asvs), generator=generator)
    counts = torch.randint(1, 100, index.shape, generator=generator)
    mask = torch.rand(tokens.shape, generator=generator) < 0.15
    mask[size.unique // 4 :] = False
    distance = torch.rand(size.samples, size.samples, generator=generator)
    samples = Samples(tokens, index, counts, counts.sum(1), torch.zeros_like(counts).bool(), mask)
    return Work(samples, torch.ones(size.unique), distance)


def measure(sizes: list[Size], width: int) -> list[float]:
    """Processor seconds of a step at every size: the least of several rounds over all of them."""
    torch.manual_seed(0)
    model = SequenceEncoder(ModelConfig(embedding_dim=width, max_bp=LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batches = [draw(size) for size in sizes]
    step(model, optimizer, batches[-1])
    rounds = [[_processor_seconds(model, optimizer, batch) for batch in batches] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _processor_seconds(model: SequenceEncoder, optimizer: torch.optim.Optimizer, batch: Work) -> float:
    start = time.process_time()
    step(model, optimizer, batch)
    return time.process_time() - start


def lines(figures: dict[str, dict[str, list[float]]]) -> Iterator[list[object]]:
    """Rows of the table."""
    for name, figure in figures.items():
        slope, base = np.polyfit(figure["size"], figure["seconds"], 1)
        for size, seconds in zip(figure["size"], figure["seconds"], strict=True):
            yield [name, size, seconds, base + slope * size]


def plot(path: Path, figures: dict[str, dict[str, list[float]]]) -> None:
    """Draw time against size, and the straight line."""
    with figure_row(path, len(figures), width=3.6, height=3.4) as row:
        for axes, (name, figure) in zip(row, figures.items(), strict=True):
            size, seconds = np.array(figure["size"]), np.array(figure["seconds"])
            ends = np.array([0.0, size.max()])
            axes.plot(ends, np.polyval(np.polyfit(size, seconds, 1), ends), color="0.7", zorder=0)
            axes.scatter(size, seconds)
            axes.set(xlabel=name, ylabel="processor seconds a step", xlim=(0, None), ylim=(0, None))


def main() -> None:
    """Vary one size at a time."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="also draw a .png file here")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--divide", type=int, default=1, help="make all sizes so many times smaller")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    figures = {}
    for name, sizes in VARIED.items():
        smaller = [Size(*(max(4, value // options.divide) for value in size)) for size in sizes]
        field = {"unique ASVs": "unique", "samples": "samples", "ASVs a sample": "asvs"}[name]
        size = [float(getattr(each, field)) for each in smaller]
        figures[name] = {"size": size, "seconds": measure(smaller, options.width)}
    print_table(["varied", "size", "processor s a step", "straight line"], list(lines(figures)))
    write_json(options.json, figures)
    if options.plot is not None:
        plot(options.plot, figures)


if __name__ == "__main__":
    main()

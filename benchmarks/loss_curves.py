"""The same pretraining on 1, 2 and 4 ranks: loss curves that coincide, and what pairs within ranks alone would cost.

A pretraining on a simulated study by one process, by 2 ranks with DDP and by 4 ranks with FSDP: in float64 for
the whole run, and in float32 for its first steps. Beside them 4 ranks with DDP that compare their own samples alone, as
DDP does without a gather; that loss exists in this file only. Launches torchrun itself (gloo, CPU).

    python benchmarks/loss_curves.py --json loss_curves.json --figure loss_curves.png
    python benchmarks/loss_curves.py --batch-sizes 4 8 16 32     # also held-out figures by samples of a step

Held-out samples are judged by `Objective.validate`: all pairs of 80 samples.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments, print_table, write_json
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from aam.config import PretrainConfig, SimulateConfig
from aam.config.launch import launched_world_size
from aam.data.simulation.study import simulate_study, write_study
from aam.training.checkpoints.store import CheckpointStore
from aam.training.distributed import World, setup_distributed
from aam.training.losses import pairwise_gradient
from aam.training.run_folder import RunFolder
from aam.training.tasks.distances import UnifracTask
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

STRATEGIES = {1: {}, 2: {"distributed": True}, 4: {"fsdp": True}}
NAMES = {1: "1 process", 2: "2 ranks, DDP", 4: "4 ranks, FSDP"}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
SHARED = ("steps", "batch_size", "lr", "seed")
FIRST_STEPS = 20
"""Steps over which runs in float32 are held to their tolerance; rounding grows from step to step."""
SPREAD = 0.25
JUDGED_EVERY = 20
OPTIONS = {"embedding_dim": 32, "attention_layers": 1, "device": "cpu"}
STUDY = {"samples": 400, "asvs": 400, "bp": 100, "depth": 2000}


@dataclass
class Course:
    """One run: how it is made, and what came of it."""

    ranks: int
    dtype: str
    steps: int
    batch_size: int
    lr: float
    seed: int
    own_pairs: bool = False
    losses: list[float] = field(default_factory=list)
    """Of every step, summed over ranks."""
    held_out: list[dict[str, float]] = field(default_factory=list)
    """Step, and metrics of the distances between held-out samples."""

    @property
    def name(self) -> str:
        """What the run is called in tables and figures."""
        return f"{self.ranks} ranks, pairs within ranks" if self.own_pairs else NAMES[self.ranks]


def courses(ranks: int, options: argparse.Namespace) -> list[Course]:
    """The runs of one launch."""

    def planned(dtype: str, steps: int, batch_size: int, own_pairs: bool = False) -> Course:
        return Course(ranks, dtype, steps, batch_size, options.lr, options.seed, own_pairs)

    steps, size = options.steps, options.batch_size
    runs = [planned("float64", steps, size), planned("float32", FIRST_STEPS, size)]
    if ranks == 4:
        runs.append(planned("float64", steps, size, own_pairs=True))
        others = [other for other in options.batch_sizes if other != size]
        runs += [planned("float64", steps, other, own) for other in others for own in (False, True)]
    return runs


def own_pairs_gradient(
    world: World,
    own: Tensor,
    everyone: Tensor,
    start: int,
    distance: Callable[[Tensor, Tensor], Tensor],
    true: Callable[[slice, slice], Tensor],
) -> tuple[Tensor, Tensor]:
    """In place of `pairwise_gradient`: this rank's mean over pairs of its own samples, of which DDP takes the mean."""

    def true_of_own(rows: slice, columns: slice) -> Tensor:
        return true(rows, slice(start + columns.start, start + columns.stop))

    value, pull = pairwise_gradient(own, own, 0, distance, true_of_own)
    return value / world.size, pull / world.size


@contextmanager
def pairs_of(course: Course, world: World) -> Iterator[None]:
    """Let the objective compare what the course says."""
    if course.own_pairs:
        setattr(UnifracTask, "pair_gradient", staticmethod(partial(own_pairs_gradient, world)))  # noqa: B010
    yield
    setattr(UnifracTask, "pair_gradient", staticmethod(pairwise_gradient))  # noqa: B010


def follow(course: Course, folder: Path, world: World) -> None:
    """Make the steps of a run with the trainer, and judge the held-out samples on the way."""
    torch.set_default_dtype(DTYPES[course.dtype])
    strategy = {"distributed": True} if course.own_pairs else STRATEGIES[course.ranks]
    files = {"table": (folder / "table.biom",), "tree": folder / "tree.nwk", "output_dir": folder / "run"}
    planned = {"batch_size": course.batch_size, "epochs": course.steps, "lr": course.lr, "seed": course.seed}
    config = PretrainConfig.from_flat({**OPTIONS, **files, **planned, **strategy})
    study = load_pretraining_study(config)
    run = prepare_pretraining(study, config, world)
    optim = config.optim.model_copy(update={"epochs": -(-course.steps // run.material.sampler(config).steps_per_epoch)})
    run = prepare_pretraining(study, config.model_copy(update={"optim": optim}), world)
    trainer = run.trainer(CheckpointStore(RunFolder(folder).checkpoints))
    run.model.train()
    with pairs_of(course, world):
        for number, plan in enumerate(islice(trainer.train_sampler, course.steps), start=1):
            course.losses.append(world.sum(trainer.train_step(run.dataset[plan])["loss"].double()).item())
            if number % JUDGED_EVERY == 0 and course.dtype == "float64":
                metrics = run.objective.validate()
                named = {name: metrics[f"val/unifrac_{name}"] for name in ("std_ratio", "pearson", "r2")}
                course.held_out.append(
                    {"step": number} | {name: math.nan if v is None else v for name, v in named.items()}
                )
    torch.set_default_dtype(torch.float32)


def follow_all(options: argparse.Namespace) -> None:
    """What each rank of a launch does; rank 0 writes what it saw."""
    ranks = launched_world_size()
    config = PretrainConfig.from_flat({"output_dir": options.child, **STRATEGIES[ranks]})
    planned = courses(ranks, options)
    with setup_distributed("cpu", config.distribution) as world:
        for course in planned:
            follow(course, options.child, world)
        if world.is_main:
            written = json.dumps([asdict(course) for course in planned])
            (options.child / f"courses-{ranks}.json").write_text(written)


def launch(ranks: int, folder: Path, words: list[str]) -> list[Course]:
    """Start the ranks, and read what rank 0 wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | os.environ
    done = subprocess.run(
        [*command, __file__, "--child", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return [Course(**values) for values in json.loads((folder / f"courses-{ranks}.json").read_text())]


def differences(found: list[Course], batch_size: int) -> list[dict[str, Any]]:
    """Largest difference of the loss from that of one process, as a fraction of it, over the steps held to it."""
    alike = [course for course in found if not course.own_pairs and course.batch_size == batch_size]
    alone = {course.dtype: np.array(course.losses) for course in alike if course.ranks == 1}
    return [
        {
            "ranks": course.name,
            "type": course.dtype,
            "steps": course.steps,
            "largest difference": float(np.abs(course.losses / alone[course.dtype] - 1).max()),
            "allowed": TOLERANCE[course.dtype],
        }
        for course in alike
        if course.ranks > 1
    ]


def spreads(found: list[Course]) -> list[dict[str, Any]]:
    """How the distances of held-out samples are predicted at the end of each run."""
    return [
        {
            "run": course.name,
            "samples a step": course.batch_size,
            "pairs a step": pairs_in(course),
            "spread of predictions / truth": course.held_out[-1]["std_ratio"],
            "r": course.held_out[-1]["pearson"],
            "R2": course.held_out[-1]["r2"],
        }
        for course in sorted(found, key=lambda course: (course.batch_size, course.own_pairs))
        if course.held_out
    ]


def pairs_in(course: Course) -> int:
    """Pairs of samples that a step compares."""
    groups = np.array_split(np.arange(course.batch_size), course.ranks if course.own_pairs else 1)
    return sum(len(group) * (len(group) - 1) // 2 for group in groups)


def draw(found: list[Course], batch_size: int, path: Path) -> None:
    """Loss, and spread and R2 of held-out distances, by step."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    long = [course for course in found if course.held_out and course.batch_size == batch_size]
    looks = [("lightgrey", "-", 6.0), ("tab:blue", "-", 3.0), ("black", "--", 1.0), ("tab:red", "-", 1.2)]
    for course, (color, style, width) in zip(long, looks, strict=True):
        look = {"label": course.name, "linestyle": style, "color": color, "linewidth": width}
        axes[0].plot(range(1, course.steps + 1), course.losses, **look)
        steps = [point["step"] for point in course.held_out]
        axes[1].plot(steps, [point["std_ratio"] for point in course.held_out], **look)
        axes[2].plot(steps, [point["r2"] for point in course.held_out], **look)
    axes[1].axhspan(1 - SPREAD, 1 + SPREAD, color="tab:green", alpha=0.15)
    axes[2].axhline(0, color="grey", linewidth=0.8)
    axes[2].set_ylim(bottom=-2)
    labels = ("loss of the step", "spread of predictions / truth (held out)", "R2 of distances (held out)")
    for part, label in zip(axes, labels, strict=True):
        part.set(xlabel="step", title=label)
        part.title.set_fontsize(9)
        part.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)


def broken_claims(differing: list[dict[str, Any]], found: list[Course], batch_size: int) -> list[str]:
    """What is claimed and does not hold."""
    wrong = [
        f"{line['ranks']} in {line['type']}" for line in differing if not line["largest difference"] <= line["allowed"]
    ]
    spread = [
        course for course in found if course.held_out and not course.own_pairs and course.batch_size == batch_size
    ]
    return wrong + [
        f"spread of {course.name}" for course in spread if not abs(course.held_out[-1]["std_ratio"] - 1) <= SPREAD
    ]


def main() -> None:
    """Launch the runs, one number of ranks after the other, and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help=f"a multiple of {JUDGED_EVERY}")
    parser.add_argument("--batch-size", type=int, default=8, help="samples of a step, over all ranks")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[], help="more of them, for the held-out figures")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42, help="of weights, split, order and masks; not of the study")
    parser.add_argument("--figure", type=Path, help="also draw the curves into this file")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        follow_all(options)
        return
    words = [word for name in SHARED for word in (f"--{name.replace('_', '-')}", str(vars(options)[name]))]
    words += ["--batch-sizes", *map(str, options.batch_sizes)] if options.batch_sizes else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(simulate_study(SimulateConfig(directory=folder, **STUDY)), folder)
        found = [course for ranks in STRATEGIES for course in launch(ranks, folder, words)]
    differing, spread = differences(found, options.batch_size), spreads(found)
    for lines in (differing, spread):
        print_table(list(lines[0]), [list(line.values()) for line in lines])
    runs = [asdict(course) for course in found]
    write_json(options.json, {"differences": differing, "held_out": spread, "runs": runs})
    if options.figure is not None:
        draw(found, options.batch_size, options.figure)
    broken = broken_claims(differing, found, options.batch_size)
    if broken:
        raise SystemExit(f"claimed, and not so: {'; '.join(broken)}")


if __name__ == "__main__":
    main()

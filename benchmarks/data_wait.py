"""Fraction of a pretraining step that is spent waiting for its batch, by the number of workers.

A step is that of `aam pretrain` (the trainer's own, optimizer included); its batch is drawn, indexed and compared by
UniFrac either by the process itself, between two steps, or by workers beside it. The first step is not counted, before
which workers start; what they take to give the first batch is a column of its own. On a GPU a step is waited for before
the next batch is asked for, so that the share is the most that a GPU can be idle.

    AAM_TEST_DATA=../shared/data python benchmarks/data_wait.py --json data_wait.json
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import arguments, print_table, write_json
from _flops import synchronise

from aam.config import PretrainConfig
from aam.training.checkpoints.store import CheckpointStore
from aam.training.loading import default_workers, step_loader
from aam.training.run_folder import RunFolder
from aam.training.trainer import Trainer
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

STUDIES = ("ecam", "moving_pictures")
MOST = 0.05
"""Fraction of a step that waiting may take with the default number of workers."""


@contextmanager
def trainer_of(study: Path, options: Mapping[str, Any]) -> Iterator[Trainer]:
    """The trainer of a pretraining on a study."""
    with tempfile.TemporaryDirectory() as folder:
        flat = {"table": (study / "table.biom",), "tree": study / "tree.nwk", "output_dir": Path(folder) / "run"}
        config = PretrainConfig.from_flat({**flat, **options})
        run = prepare_pretraining(load_pretraining_study(config), config)
        yield run.trainer(CheckpointStore(RunFolder(Path(folder)).checkpoints))


def waiting(trainer: Trainer, workers: int | None, steps: int) -> dict[str, float]:
    """Train for some steps with a number of workers; None for the default."""
    device = trainer.compute.device
    runtime = trainer.config.runtime.model_copy(update={"num_workers": workers})
    begun = time.perf_counter()
    batches = iter(step_loader(trainer.memory.dataset, trainer.train_sampler, runtime, device))
    trainer.train_step(next(batches))
    synchronise(device)
    first = time.perf_counter() - begun
    waited, whole = 0.0, 0.0
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        came = time.perf_counter()
        trainer.train_step(batch)
        synchronise(device)
        waited += came - start
        whole += time.perf_counter() - start
    return {
        "waited_ms": 1e3 * waited / steps,
        "step_ms": 1e3 * whole / steps,
        "share": waited / whole,
        "first_s": first,
    }


def main() -> None:
    """Measure every study with every number of workers, and hold the default against what is claimed."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--studies", nargs="+", default=STUDIES, help="folders of --data")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="besides the default number")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rarefy-depth", type=int)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    figures: list[dict[str, Any]] = []
    shape = {name: getattr(options, name) for name in ("embedding_dim", "batch_size", "rarefy_depth", "device")}
    for study in options.studies:
        with trainer_of(options.data / study, shape) as trainer:
            device = trainer.compute.device
            default = default_workers(device)
            for workers in sorted({default, *options.workers}):
                line = {"study": study, "device": str(device), "workers": workers, "is_default": workers == default}
                figures.append(line | waiting(trainer, workers, options.steps))
    print_table(list(figures[0]), [list(line.values()) for line in figures])
    write_json(options.json, figures)
    worst = max(line["share"] for line in figures if line["is_default"])
    if worst > MOST:
        raise SystemExit(f"claimed: at most {MOST:.0%} of a step with the default number of workers")


if __name__ == "__main__":
    main()

"""Does ``--categorical-loss-weights auto`` help a rare class? A simulated study with 20 samples to 1, on equal splits.

usage: python benchmarks/class_weights.py FOLDER [--seeds 3] [--epochs N] [--samples N]

The rare class is the samples in the highest 1/21 of the log-ratio that drives ``acidity``: of acidity itself, less
the mean of its site, which leaves no trace in the community. For each seed a model is trained without weights and with
them, and is otherwise the same: initial weights, order of samples, and split, which holds out the same fraction of both
classes and no subject of the other side. Figures are those after the last epoch, where nothing is chosen by the
validation samples, and beside them the balanced accuracy of the checkpoint with the best loss of these samples, which a
run keeps.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from _common import arguments, print_table, write_json

from aam.config import SimulateConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.simulation.study import simulate_study, write_study
from aam.training.run_folder import RunFolder
from aam.workflows.train import train

SHARE = 1 / 21
KINDS = ("none", "auto")
METRICS = ("balanced_accuracy", "accuracy", "auroc")
MODEL = {"embedding_dim": 32, "attention_heads": 4, "attention_layers": 1, "nucleotide_patch": 10, "batch_size": 32}


def main() -> None:
    """Train without and with weights for each seed, and print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("folder", type=Path, help="receives the study and the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--samples", type=int, default=1260)
    given = parser.parse_args()
    files = write_files(given.folder, given.samples)
    figures: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for kind in KINDS:
            output = given.folder / f"{kind}-{seed}"
            train(config_of(files, output, seed=seed, epochs=given.epochs, categorical_loss_weights=kind))
            kept = json.loads(RunFolder(output).side_metrics("val").read_text())["balanced_accuracy"]
            figures.append({"seed": seed, "weights": kind, **last_metrics(output), "kept checkpoint": kept})
    print_table(list(figures[0]), [list(row.values()) for row in figures])
    write_json(given.json, figures)


def write_files(folder: Path, samples: int) -> dict[str, Any]:
    """Simulate the study, and add the class to its metadata."""
    place = folder / "study"
    config = SimulateConfig(directory=place, samples=samples, subjects=samples // 3, asvs=200, bp=50, depth=1000)
    write_study(simulate_study(config), place, overwrite=True)
    metadata = read_metadata(place / "metadata.tsv")
    signal = metadata["acidity"] - metadata.groupby("site")["acidity"].transform("mean")
    is_rare = signal.rank(ascending=False) <= round(SHARE * samples)
    metadata["acid"] = pd.Series("common", metadata.index, dtype=object).mask(is_rare, "rare")
    metadata.to_csv(folder / "metadata.tsv", sep="\t", index_label="sample_id")
    return {"table": (place / "table.biom",), "metadata": folder / "metadata.tsv"}


BEFORE: dict[str, Any] = {
    "encoder_lr_ratio": 1.0,
    "standardize_samples": False,
    "patience": 1000,
}
"""The defaults with which the figures of ARCHIVED_TICKETS.md were measured."""


def config_of(files: dict[str, Any], output: Path, **options: Any) -> TrainConfig:
    """The options of one run."""
    target = {"metadata_column": "acid", "classifier": True, "val_fraction": 0.3}
    split = {"stratify": True, "group_column": "subject"}
    run = {**BEFORE, "lr": 2e-3, "output_dir": output, "overwrite": True, "device": "cpu", "log_every": 1000}
    return TrainConfig.from_flat({**MODEL, **files, **target, **split, **run, **options})


def last_metrics(output: Path) -> dict[str, float]:
    """Metrics of validation samples after the last epoch."""
    lines = [json.loads(line) for line in RunFolder(output).metrics.read_text().splitlines()]
    last = [line for line in lines if "val/loss" in line][-1]
    return {name: last[f"val/{name}"] for name in METRICS}


if __name__ == "__main__":
    main()

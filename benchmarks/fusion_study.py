"""Do categorical metadata help, and does the way matter? Every fusion, flat and with a hierarchy, on identical splits.

usage: python benchmarks/fusion_study.py STUDY FOLDER [--data DATA] [--seeds 3] [--epochs N]

STUDY is one of those in `STUDIES`; FOLDER receives the encoder, the runs and results.tsv, to which a later call adds
what is missing. DATA is a folder of published studies (docs/testing.md); `simulated` needs none.

An encoder is pretrained once for each study, on all its samples without labels, and kept as it is; the heads and what
depends on categories are trained from it. So all rows see the same samples, held out the same way for the same seed.
Metrics are those after the last epoch, not of a best one: nothing is chosen by the held-out samples. Random forests on
the same splits, with and without the categories as columns of zeros and ones, stand beside it.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import print_table
from random_forest import centred_log_ratios, score_classes, score_values

from aam.config import PretrainConfig, SimulateConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.simulation.study import simulate_study, write_study
from aam.data.study import Study, load_study
from aam.training.run_folder import RunFolder
from aam.workflows.fit import Run
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train_study

FUSIONS = ("concat", "add", "gmu", "cross_attention", "perceiver")
NONE = "none"
FOREST, FOREST_TOLD = "random forest", "random forest, categories"


@dataclass(frozen=True)
class Design:
    """A study, what is predicted of it, and how it is split."""

    folder: str | None
    """Name of its folder among the published ones; None for a simulated study."""
    target: str
    metric: str
    columns: tuple[str, ...]
    hierarchy: tuple[str, ...]
    rarefy_depth: int
    group: str | None = None
    classifier: bool = False
    pretrain_epochs: int = 20
    epochs: int = 30
    options: dict[str, Any] = field(default_factory=dict)


EMP: dict[str, Any] = {
    "folder": "emp_2k",
    "target": "temperature_deg_c",
    "metric": "r2",
    "columns": ("empo_3", "envo_biome_2"),
    "hierarchy": ("empo_3=empo_2", "empo_2=empo_1"),
    "rarefy_depth": 1000,
    "pretrain_epochs": 4,
}
STUDIES = {
    "simulated": Design(None, "acidity", "r2", ("site", "habitat"), ("site=region",), 1000, "subject"),
    "emp_2k by study": Design(**EMP, group="study_id"),
    "emp_2k at random": Design(**EMP),
    # month alone is not nested in season (the 21st divides them): the column made here says both
    "mackerel by host": Design(
        "mackerel",
        "sample_type_body_site",
        "balanced_accuracy",
        ("season_month", "season"),
        ("season_month=season",),
        1000,
        "host_subject_id",
        classifier=True,
    ),
}
SHAPE = {"embedding_dim": 64, "attention_layers": 2, "nucleotide_patch": 10, "batch_size": 32, "lr": 2e-3}
MAX_ASVS = 128
"""Of a sample, the most abundant ones."""


def main() -> None:
    """Train what results.tsv lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    design = STUDIES[given.study]
    given.folder.mkdir(parents=True, exist_ok=True)
    files = study_files(design, given.data, given.folder)
    encoder = pretrained(design, files, given.folder)
    results = given.folder / "results.tsv"
    for seed in range(given.seeds):
        epochs = given.epochs or design.epochs
        finished = done(results, given.study, epochs)
        for row in rows(design, files, encoder, given.folder, seed, finished, epochs):
            with results.open("a", newline="") as file:
                csv.writer(file, delimiter="\t").writerow([given.study, *row, epochs])
    show(results, given.study, given.epochs or design.epochs)


def study_files(design: Design, data: Path | None, folder: Path) -> dict[str, Path]:
    """Table, tree and metadata; a simulated study is written first, and a column that joins season and month added."""
    if design.folder is None:
        place = folder / "study"
        if not place.exists():
            write_study(simulate_study(SimulateConfig(directory=place, samples=400, subjects=60)), place)
    elif data is None:
        raise SystemExit("--data is needed: a folder of published studies")
    else:
        place = data / design.folder
    files = {name: place / file for name, file in (("table", "table.biom"), ("tree", "tree.nwk"))}
    metadata = read_metadata(place / "metadata.tsv")
    if "season" in metadata and "month" in metadata:
        both = metadata["season"].notna() & metadata["month"].notna()
        joined = metadata["season"].astype(str) + " " + metadata["month"].astype(str)
        metadata["season_month"] = joined.where(both)
    if design.group == "host_subject_id":  # sea water has no host: each sample by itself
        metadata[design.group] = metadata[design.group].fillna(pd.Series(metadata.index, index=metadata.index))
    metadata.to_csv(folder / "metadata.tsv", sep="\t", index_label="sample_id")
    return files | {"metadata": folder / "metadata.tsv"}


def pretrained(design: Design, files: dict[str, Path], folder: Path) -> Path:
    """Pretrain the encoder, unless it is there."""
    place = folder / "encoder"
    if not RunFolder(place).distances.exists():
        inputs = {"table": (files["table"],), "tree": files["tree"], "rarefy_depth": design.rarefy_depth}
        run = {"epochs": design.pretrain_epochs, "output_dir": place, "overwrite": True, "device": "cpu"}
        pretrain(PretrainConfig.from_flat({**SHAPE, **inputs, **run}))
    return place


def config_of(design: Design, files: dict[str, Path], encoder: Path, output: Path, **options: Any) -> TrainConfig:
    """The options of one run."""
    fixed = {name: value for name, value in SHAPE.items() if name in ("batch_size", "lr")}
    inputs = {"table": (files["table"],), "metadata": files["metadata"], "rarefy_depth": design.rarefy_depth}
    inputs["max_asvs"] = MAX_ASVS
    target = {"metadata_column": design.target, "classifier": design.classifier, "group_column": design.group}
    frozen = {"pretrained_encoder": encoder, "freeze_base": True, "regressor_hidden_dims": (64,)}
    # docs/categories_study.md was measured with a head on embeddings as they are, and without early stopping
    run = {"output_dir": output, "overwrite": True, "device": "cpu", "log_every": 1000}
    run |= {"standardize_samples": False, "patience": 1000}
    return TrainConfig.from_flat({**fixed, **inputs, **target, **frozen, **run, **options})


@cache
def read_study(table: Path, metadata: Path, depth: int) -> Study:
    """Read a study once for all runs."""
    options = {"output_dir": "unused", "metadata_column": "unused", "table": (table,), "metadata": metadata}
    config = TrainConfig.from_flat(options | {"rarefy_depth": depth})
    return load_study(config.inputs, config.sampling, needs=("metadata",))


def rows(
    design: Design, files: dict[str, Path], encoder: Path, folder: Path, seed: int, finished: set[str], epochs: int
) -> Iterator[list[object]]:
    """Run what is not finished: name, seed, metric."""
    study = read_study(files["table"], files["metadata"], design.rarefy_depth)
    ways = [NONE, *(f"{fusion}, {kind}" for fusion, kind in product(FUSIONS, ("flat", "hierarchy")))]
    for way in ways:
        if f"{way} {seed}" in finished and way != NONE:
            continue
        options: dict[str, Any] = {"seed": seed, "epochs": epochs}
        if way != NONE:
            fusion, kind = way.split(", ")
            options |= {"categorical_columns": design.columns, "categorical_fusion": fusion}
            options |= {"categorical_hierarchy": design.hierarchy} if kind == "hierarchy" else {}
        needs_forest = way == NONE and not {f"{name} {seed}" for name in (NONE, FOREST, FOREST_TOLD)} <= finished
        if way != NONE or needs_forest:
            config = config_of(design, files, encoder, folder / "run", **options)
            run, output = train_study(study, config)
            yield [way, seed, last_metric(output, design.metric)]
            if needs_forest:
                yield from ([name, seed, value] for name, value in forests(run, design, seed))


def last_metric(output: Path, metric: str) -> float:
    """The metric after the last epoch."""
    lines = [json.loads(line) for line in RunFolder(output).metrics.read_text().splitlines()]
    return float([line[f"val/{metric}"] for line in lines if f"val/{metric}" in line][-1])


def forests(run: Run, design: Design, seed: int) -> Iterator[tuple[str, float]]:
    """Random forests on the split of a run, without and with the categories."""
    study, split = run.material.study, run.material.split
    assert study.metadata is not None
    values = study.metadata[design.target]
    asvs = centred_log_ratios(study.table.counts, split.train)
    columns = [*design.columns, *(part.split("=")[1] for part in design.hierarchy)]
    told = pd.get_dummies(study.metadata[list(dict.fromkeys(columns))].astype(object)).to_numpy(np.float64)
    score = score_classes if design.classifier else score_values
    for name, features in ((FOREST, asvs), (FOREST_TOLD, np.hstack([asvs, told]))):
        value = score(features, values, split.train, split.val, seed)[design.metric]
        assert value is not None
        yield name, value


def done(results: Path, study: str, epochs: int) -> set[str]:
    """What results.tsv has of a study and a number of epochs: way and seed."""
    if not results.exists():
        return set()
    return {
        f"{row[1]} {row[2]}"
        for row in csv.reader(results.open(), delimiter="\t")
        if row[0] == study and row[4] == str(epochs)
    }


def show(results: Path, study: str, epochs: int) -> None:
    """Print mean and standard deviation over the seeds."""
    table = pd.read_csv(results, sep="\t", names=["study", "way", "seed", "value", "epochs"])
    table = table[(table["study"] == study) & (table["epochs"] == epochs)].drop_duplicates(["way", "seed"], keep="last")
    grouped = table.groupby("way", sort=False)["value"]
    print_table(
        (study, "mean", "standard deviation", "seeds"),
        [(way, f"{each.mean():.3f}", f"{each.std():.3f}", " ".join(f"{v:.3f}" for v in each)) for way, each in grouped],
    )


if __name__ == "__main__":
    main()

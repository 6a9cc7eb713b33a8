"""Do attributions find the ASVs that drive a column? Simulated studies, with the truth of `aam simulate` (truth.tsv).

usage: python benchmarks/attribution.py FOLDER [--seeds 3] [--first-seed 0] [--samples 200] [--asvs 400]
       [--epochs 20] [--columns acidity,health] [--learners linear,forest,clades,kernel,ensemble,network]

Each learner is trained on 70 % of the subjects of a study; the samples of the others are explained. ASVs are ordered by
the mean size of their attributions in these samples, and the average precision is that of the ASVs of the two clades
that the column depends on. The forest's own importance (mean decrease of impurity) is the yardstick, and of a random
order it is the fraction of such ASVs. With the ensemble and the network comes their deletion test: the mean change of
the prediction without the first 5 ASVs of each sample.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import arguments, print_table, write_json
from sklearn.metrics import average_precision_score

from aam.config import SimulateConfig, TrainConfig
from aam.config.explain import ExplainConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.data.study import Study
from aam.interpret.attribution import attribute, mean_absolute
from aam.interpret.deletion import Deletion
from aam.interpret.explained import ExplainedModel, drawn_rows
from aam.interpret.forest_importance import impurity_decrease
from aam.learners.base import Floats, Rows
from aam.learners.trees import ForestSolution
from aam.training.distributed import World
from aam.training.machine.compute import CPU
from aam.training.run_folder import RunFolder
from aam.workflows.explain_deletion import rankings_of
from aam.workflows.explained_model import LearnerModel, open_model
from aam.workflows.train import train

LEARNERS = ("linear", "forest", "clades", "kernel", "ensemble", "network")
COLUMNS = {"acidity": {}, "health": {"classifier": True}}
MODEL = {"embedding_dim": 32, "attention_heads": 4, "attention_layers": 1, "nucleotide_patch": 10, "batch_size": 32}
BACKGROUND = 10


def main() -> None:
    """Train and explain for each seed, column and learner, and print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("folder", type=Path, help="receives the studies and the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--asvs", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    figures: list[dict[str, Any]] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        study = given.folder / f"study-{seed}"
        size = {"samples": given.samples, "asvs": given.asvs, "seed": seed}
        write_study(simulate_study(SimulateConfig(directory=study, **size)), study, overwrite=True)
        for column in given.columns.split(","):
            for learner in given.learners.split(","):
                output = given.folder / f"{column}-{learner}-{seed}"
                train(config_of(study, output, column, learner, seed, given.epochs))
                figures.append({"seed": seed, "column": column, "learner": learner, **explained(study, output, column)})
    means = summary(figures)
    print_table(list(means[0]), [list(row.values()) for row in means])
    write_json(given.json, {"runs": figures, "means": means})


def config_of(study: Path, output: Path, column: str, learner: str, seed: int, epochs: int) -> TrainConfig:
    """The options of one training."""
    files = {"table": (study / "table.biom",), "metadata": study / "metadata.tsv"}
    split = {"group_column": "subject", "val_fraction": 0.3, "seed": seed}
    target = {"metadata_column": column, **COLUMNS[column]}
    of_kind: dict[str, Any] = {"learner": learner, "tree": study / "tree.nwk"}
    if learner == "network":
        of_kind = {**MODEL, "lr": 2e-3, "epochs": epochs, "log_every": 1000, "device": "cpu", "baselines": False}
    where = {"output_dir": output, "overwrite": True}
    return TrainConfig.from_flat({**files, **split, **target, **of_kind, **where})


def explained(study: Path, run: Path, column: str) -> dict[str, Any]:
    """Average precision of the true ASVs, and the deletion test."""
    options = {"what": "attribution", "checkpoint": run, "output_dir": run / "why"}
    files = {"table": (study / "table.biom",), "metadata": study / "metadata.tsv"}
    with World(CPU) as world:
        model = open_model(ExplainConfig.from_flat({**options, **files, "device": "cpu"}), world)
        split = pd.read_csv(RunFolder(run).split, sep="\t", index_col=0).iloc[:, 0]
        held_out = np.array([row for row, name in enumerate(model.study.table.sample_ids) if split[name] == "val"])
        background = drawn_rows(model.study, BACKGROUND, 0, "background")
        samples = list(attribute(model, held_out, background))
        true = true_asvs(study, column, model.study)
        gap = max(float(np.abs(sample.contributions.gap).max()) for sample in samples)
        own = average_precision_score(true, impurity(model, split, column)) if model.learner == "forest" else np.nan
        found = {
            "average precision": average_precision_score(true, mean_absolute(samples)),
            "forest's importance": own,
            "random": float(true.mean()),
            "largest gap": gap,
        }
        return found | deletion(model, held_out, background)


def true_asvs(study: Path, column: str, seen: Study) -> Rows:
    """1 for the ASVs that drive the column [A]."""
    truth = pd.read_csv(study / "truth.tsv", sep="\t")
    causal = set(truth["id"][(truth["column"] == column) & (truth["level"] == "asv")])
    return np.array([name in causal for name in seen.table.asv_ids], dtype=np.int64)


def impurity(model: ExplainedModel, split: "pd.Series[str]", column: str) -> Floats:
    """The forest's own importance [A]."""
    assert isinstance(model, LearnerModel)
    (solution,) = model.trained.fitted.solutions
    assert isinstance(solution, ForestSolution)
    ids = model.study.table.sample_ids
    rows = np.array([row for row, name in enumerate(ids) if split[name] == "train"])
    values = model.study.require_metadata()[column].iloc[rows]
    numbers = pd.get_dummies(values) if model.classes else values
    truth: Floats = np.asarray(numbers, dtype=np.float64).reshape(len(rows), -1)
    return impurity_decrease(solution, model.study, rows, truth)


def deletion(model: ExplainedModel, rows: Rows, background: Rows) -> dict[str, float]:
    """Mean change of the prediction without the first 5 ASVs, by order."""
    table = Deletion(model, rows, None, 0).table(rankings_of(model, background, None), (5,))
    changes = dict(zip(table["order"], table["change"], strict=True))
    return {f"{order} 5": changes.get(order, np.nan) for order in ("attribution", "attention", "abundance", "random")}


def summary(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds."""
    table = pd.DataFrame(figures).drop(columns="seed").groupby(["column", "learner"], sort=False).mean()
    return [{str(name): value for name, value in row.items()} for row in table.reset_index().to_dict("records")]


if __name__ == "__main__":
    main()

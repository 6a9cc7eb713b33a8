"""How well `aam predict` tells samples that are unlike the training data: infants' guts against other habitats.

A learner is fitted to the children of ecam, in the table of `corpus_v4_90` (one sequence length and one tree for all of
its studies), with a fifth of the children held out, once for each seed. Then it predicts the held-out children and the
mothers of ecam, and mackerel and people of moving_pictures; the table says how many of each have `yes` in the column
`unlike`.

    python benchmarks/unlike.py --data STUDIES --seeds 5

STUDIES has the folders corpus_v4_90 and ecam (default: AAM_TEST_DATA).
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from _common import print_table

from aam.config import PredictConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.training.run_folder import RunFolder
from aam.workflows.predict import predict
from aam.workflows.train import train

CORPUS = "corpus_v4_90"
COLUMN, GROUP, KIND = "month_of_life", "host_subject_id", "kind"


def kinds(studies: Path) -> pd.DataFrame:
    """Metadata of the corpus with what ecam knows of its own samples, and a column of what each sample is."""
    corpus, ecam = (read_metadata(studies / name / "metadata.tsv") for name in (CORPUS, "ecam"))
    joined = corpus[["dataset", "habitat"]].join(ecam[[COLUMN, GROUP, "mom_child"]])
    person = joined["dataset"] == "ecam"
    kind = joined["dataset"].where(joined["dataset"] != "moving_pictures", joined["habitat"])
    kind = kind.where(~person, joined["mom_child"].map({"C": "child", "M": "mother"}))
    return joined.assign(**{KIND: kind})


def flagged(studies: Path, scratch: Path, learner: str, seed: int) -> pd.Series:
    """Train on some of the children, and say of every other sample whether it is called unlike, by id."""
    corpus, run, metadata = studies / CORPUS, scratch / f"run{seed}", scratch / "metadata.tsv"
    files: dict[str, Any] = {"table": (corpus / "table.biom",), "metadata": metadata}
    choice = {"learner": learner, "metadata_column": (COLUMN,), "group_column": GROUP, "where": (f"{KIND}=child",)}
    sides = {"val_fraction": 0.0, "test_fraction": 0.2, "seed": seed}
    train(TrainConfig.from_flat({**files, "tree": corpus / "tree.nwk", "output_dir": run, **choice, **sides}))
    split = pd.read_csv(RunFolder(run).split, sep="\t", index_col=0, dtype=str).iloc[:, 0]
    output = scratch / f"predictions{seed}.tsv"
    chosen = {"where": (f"{KIND}=child,mother,mackerel,human skin,human oral,human gut",)}
    predict(PredictConfig.from_flat({**files, **chosen, "checkpoint": run, "output": output}))
    unlike = pd.read_csv(output, sep="\t", index_col=0, dtype=str)["unlike"] == "yes"
    return unlike[~unlike.index.isin(split.index[split == "train"])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"))
    parser.add_argument("--learner", default="linear")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data, or set AAM_TEST_DATA")
    metadata = kinds(options.data)
    with TemporaryDirectory() as scratch:
        metadata.to_csv(Path(scratch) / "metadata.tsv", sep="\t")
        found = [flagged(options.data, Path(scratch), options.learner, seed) for seed in range(options.seeds)]
    rows = []
    for kind in ("child", "mother", "human gut", "human oral", "human skin", "mackerel"):
        of_kind = [unlike[metadata.loc[unlike.index, KIND] == kind] for unlike in found]
        rates = [float(unlike.mean()) for unlike in of_kind]
        samples = sum(map(len, of_kind)) / len(of_kind)
        rows.append(
            (kind, f"{samples:.0f}", f"{sum(rates) / len(rates):.3f}", f"{min(rates):.3f}", f"{max(rates):.3f}")
        )
    print_table(("samples", "each time", "called unlike", "least", "most"), rows)


if __name__ == "__main__":
    main()

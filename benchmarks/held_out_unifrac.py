"""How well are distances predicted in a study that pretraining has not seen?

Pretrains on the corpus of several studies without one of them (no sample of it, by its dataset or its ids), and
compares predicted with exact UniFrac over all pairs of that study's samples, on reads rarefied as in pretraining:

    python benchmarks/held_out_unifrac.py results --data STUDIES --study ecam -- --sample-level clades --epochs 20

The study is a folder of STUDIES with a metadata.tsv; of ecam the children alone are compared. Options of `aam pretrain`
follow after ``--``.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aam.config import PretrainConfig
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import Study, load_study
from aam.training.distributed import setup_distributed
from aam.training.machine.compute import Compute
from aam.training.metrics import DistanceMetrics
from aam.workflows.embed import embed_study
from aam.workflows.restore import restore

DEPTH = 500
ONLY = {"ecam": ("mom_child", "C")}
"""Column and value of the samples that are compared."""


def sides(corpus: Path, study: Path, name: str) -> pd.DataFrame:
    """The side of every sample of the corpus: test for the study, and of the others every twentieth for validation."""
    metadata = pd.read_csv(corpus / "metadata.tsv", sep="\t", dtype=str, index_col=0)
    held_out = (metadata["dataset"] == name) | metadata.index.isin(_metadata(study).index)
    others = np.flatnonzero(~held_out.to_numpy())
    side = pd.Series("test", index=metadata.index, name="side")
    side.iloc[others] = "train"
    side.iloc[np.random.default_rng(0).choice(others, len(others) // 20, replace=False)] = "val"
    return side.to_frame()


def compared(corpus: Path, study: Path, name: str) -> list[str]:
    """Ids of the samples that are compared."""
    metadata = _metadata(study)
    if name in ONLY:
        column, value = ONLY[name]
        metadata = metadata[metadata[column] == value]
    known = set(pd.read_csv(corpus / "metadata.tsv", sep="\t", dtype=str, index_col=0).index)
    return [sample for sample in metadata.index if sample in known]


def _metadata(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "metadata.tsv", sep="\t", dtype=str, index_col=0)


def judge(run: Path, chosen: list[str] | None, own: Path | None = None) -> dict[str, float | None]:
    """Scores of the distances between samples of the corpus, or of a study with a table and a tree of its own."""
    trained = restore(run)
    assert isinstance(trained.config, PretrainConfig)
    inputs = trained.config.inputs
    if own is not None:
        inputs = inputs.model_copy(update={"table": (own / "table.biom",), "tree": own / "tree.nwk", "metadata": None})
    study: Study = load_study(inputs, trained.config.sampling, trained.config.unifrac)
    if chosen is not None:
        rows = np.flatnonzero([sample in set(chosen) for sample in study.table.sample_ids])
        study = replace(study, table=study.table.select_samples(rows), metadata=None)
    with setup_distributed("cpu", inference=True) as world, torch.no_grad():
        embedded = embed_study(trained, study, 32, Compute.of(world, trained.config.runtime))
        z = trained.encoder.scale(torch.tensor(embedded.to_numpy()))
        predicted = trained.encoder.distance(z, z).double()
    every = np.arange(study.table.n_samples)
    drawn = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed).rows(every, FIXED)
    true = study.distance_source(trained.config.unifrac).distances(every, drawn)
    upper = torch.triu_indices(len(every), len(every), 1)
    metrics = DistanceMetrics()
    metrics.update(predicted[upper[0], upper[1]], true[upper[0], upper[1]])
    return {"samples": len(every), **metrics.compute()}


def main() -> None:
    """Pretrain and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="folder of studies, with corpus_v4_90")
    parser.add_argument("--study", default="ecam", help="the study that is held out")
    parser.add_argument("--also", nargs="*", default=[], help="studies of STUDIES that are not in the corpus")
    parser.add_argument("--judge-only", action="store_true", help="of a run that is there already")
    options, more = parser.parse_known_args()
    corpus, study = options.data / "corpus_v4_90", options.data / options.study
    options.out.mkdir(parents=True, exist_ok=True)
    run = options.out / "run"
    if not options.judge_only:
        table = options.out / "sides.tsv"
        sides(corpus, study, options.study).to_csv(table, sep="\t")
        command = [sys.executable, "-m", "aam.cli", "pretrain", "--table", corpus / "table.biom", "--tree"]
        command += [corpus / "tree.nwk", "--metadata", table, "--split-column", "side", "--rarefy-depth", DEPTH]
        command += ["--output-dir", run, *(option for option in more if option != "--")]
        print(" ".join(map(str, command)), flush=True)
        subprocess.run([str(part) for part in command], check=True)
    scores = {options.study: judge(run, compared(corpus, study, options.study))}
    scores |= {name: judge(run, None, options.data / name) for name in options.also}
    print("study", *scores[options.study], sep="\t")
    for name, row in scores.items():
        print(name, *("" if value is None else f"{value:.4g}" for value in row.values()), sep="\t")


if __name__ == "__main__":
    main()

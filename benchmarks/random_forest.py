"""A random forest on the split of an aam run, to hold aam's predictions against.

usage: python benchmarks/random_forest.py RUN     (RUN: the output folder of `aam train`, with its config and split)

500 trees (scikit-learn) on centred log-ratios (one pseudocount) of the ASVs in at least 2 % of the training samples;
the same samples train it and the same samples judge it as in the run: those of the test where there is one, else those
of validation, which chose the checkpoint of the run and nothing of the forest. Of several numbers, each has forests of
its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from aam.config import TrainConfig
from aam.data.labels.target_table import target_values
from aam.data.study import Study, load_study, select_samples
from aam.training.metrics import ClassificationMetrics, Metrics, RegressionMetrics
from aam.training.run_folder import RunFolder, Side

SEEDS = (0, 1, 2)

Rows = NDArray[np.int64]
Values = NDArray[np.float64]


def main() -> None:
    """Print the metrics of the run and of forests with three seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    config = TrainConfig.model_validate_json(RunFolder(run).config.read_text())
    study = load_study(config.inputs, config.sampling, needs=("metadata",))
    assert study.metadata is not None
    values = target_values(study.metadata, config.target)
    split = pd.read_csv(RunFolder(run).split, sep="\t", dtype=str, index_col=0)["split"]
    side: Side = "test" if (split == "test").any() else "val"
    metrics = json.loads(RunFolder(run).side_metrics(side).read_text())
    metrics.pop("warning", None)
    print(f"aam, {side}", json.dumps(rounded(metrics)))
    for name in values:
        known = select_samples(study, np.flatnonzero(values[name].notna()), f"no value of {name}")
        for seed in SEEDS:
            metrics = judge(known, values[name], (split, side), config.target.classifier, seed)
            print(f"random forest of {name}, seed {seed}", json.dumps(rounded(metrics)))


def judge(
    study: Study, values: "pd.Series[Any]", split: tuple["pd.Series[str]", str], classes: bool, seed: int
) -> Metrics:
    """Metrics of a forest for one column, of samples of a side that have a value."""
    values = values.loc[list(study.table.sample_ids)]
    sides, judged = split
    of_samples = sides.reindex(values.index)
    train, val = (np.flatnonzero(of_samples == name) for name in ("train", judged))
    fit = score_classes if classes else score_values
    return fit(centred_log_ratios(study.table.counts, train), values, train, val, seed)


def centred_log_ratios(counts: csr_array, train: Rows) -> Values:
    """Centred log-ratios of prevalent ASVs, [samples, ASVs]."""
    prevalent = np.bincount(counts[train].indices, minlength=counts.shape[1]) >= 0.02 * len(train)
    logs: Values = np.log(counts[:, np.flatnonzero(prevalent)].toarray() + 1.0)
    centred: Values = logs - logs.mean(axis=1, keepdims=True)
    return centred


def score_values(features: Values, values: "pd.Series[Any]", train: Rows, val: Rows, seed: int) -> Metrics:
    """Metrics of a regression forest on the validation samples."""
    forest = RandomForestRegressor(500, max_features=0.2, min_samples_leaf=2, n_jobs=-1, random_state=seed)
    forest.fit(features[train], values.iloc[train].astype(float))
    metrics = RegressionMetrics()
    true = values.iloc[val].to_numpy(np.float64)
    metrics.update(torch.from_numpy(forest.predict(features[val])), torch.from_numpy(true))
    return metrics.compute()


def score_classes(features: Values, values: "pd.Series[Any]", train: Rows, val: Rows, seed: int) -> Metrics:
    """Metrics of a classification forest on the validation samples."""
    forest = RandomForestClassifier(500, n_jobs=-1, random_state=seed).fit(features[train], values.iloc[train])
    index = {name: i for i, name in enumerate(forest.classes_)}
    metrics = ClassificationMetrics(len(index))
    true = torch.tensor([index[name] for name in values.iloc[val]])
    metrics.update(torch.from_numpy(forest.predict_proba(features[val])), true)
    return metrics.compute()


def rounded(values: Metrics) -> Metrics:
    """Three digits of each."""
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()

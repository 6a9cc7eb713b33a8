"""`aam explain --what log-ratio` on a study in which one clade drives the columns."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam.training.run_folder import RunFolder

DRIVER = range(8, 12)


@pytest.fixture(scope="module")
def why(driven, of_number, explained) -> Path:
    return explained("log-ratio", of_number, taxonomy=driven.folder / "taxonomy.tsv")


def test_the_driver_is_on_top(why, driven):
    taxa = pd.read_csv(RunFolder(why).log_ratio_taxa, sep="\t")
    top = taxa[taxa["side"] == "top"]
    assert set(top["id"]) & {driven.names[place] for place in DRIVER}
    assert top["name"].iloc[0].startswith("F2 ")
    assert (top["correlation"] > 0).all()
    assert (taxa[taxa["side"] == "bottom"]["correlation"] < 0).all()
    assert len(top) == (taxa["side"] == "bottom").sum() <= 10
    assert taxa["folds"].between(0, 1).all()


def test_the_number_is_the_log_ratio_of_the_written_taxa(why, driven):
    taxa = pd.read_csv(RunFolder(why).log_ratio_taxa, sep="\t")
    samples = pd.read_csv(RunFolder(why).log_ratio, sep="\t")
    fractions = pd.DataFrame(driven.counts / driven.counts.sum(axis=1, keepdims=True), driven.samples, driven.names)
    top, bottom = (fractions[taxa[taxa["side"] == side]["id"]].sum(axis=1) + 1e-4 for side in ("top", "bottom"))
    expected = np.log(top / bottom).loc[samples["sample_id"]].to_numpy()
    assert samples["log_ratio"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert np.corrcoef(samples["log_ratio"], samples["true"])[0, 1] > 0.7
    assert np.corrcoef(samples["held_out"], samples["true"])[0, 1] > 0.6


def test_the_summary_has_the_out_of_fold_score(why):
    summary = json.loads(RunFolder(why).explanation.read_text())
    assert (summary["what"], summary["column"]) == ("log-ratio", "y")
    samples = pd.read_csv(RunFolder(why).log_ratio, sep="\t")
    error = ((samples["held_out"] - samples["true"]) ** 2).sum()
    r2 = 1 - error / ((samples["true"] - samples["true"].mean()) ** 2).sum()
    assert f"R² {r2:.2f} (95 % " in summary["sentence"]
    assert r2 > 0.4
    assert "0.0001" in summary["notes"][0]
    assert RunFolder(why).log_ratio_plot("png").exists()
    assert "F2 " in RunFolder(why).log_ratio_plot("svg").read_text()


def test_jobs_change_nothing(why, driven, of_number, explained):
    again = explained("log-ratio", of_number, taxonomy=driven.folder / "taxonomy.tsv", jobs=2)
    for name in ("log_ratio", "log_ratio_taxa", "explanation"):
        assert getattr(RunFolder(again), name).read_bytes() == getattr(RunFolder(why), name).read_bytes()


def test_a_balance_of_two_classes(of_class, explained):
    why = explained("log-ratio", of_class, taxa=3)
    summary = json.loads(RunFolder(why).explanation.read_text())
    assert "up is likelier" in summary["sentence"]
    assert "balanced accuracy 0." in summary["sentence"]
    assert "AUROC 0." in summary["sentence"]
    samples = pd.read_csv(RunFolder(why).log_ratio, sep="\t")
    means = samples.groupby("true")["log_ratio"].mean()
    assert means["up"] > means["down"]
    taxa = pd.read_csv(RunFolder(why).log_ratio_taxa, sep="\t")
    assert (taxa["side"] == "top").sum() <= 3

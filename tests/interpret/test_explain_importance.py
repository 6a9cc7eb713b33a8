"""`aam explain --what importance` on a study in which one clade drives the columns."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skbio import TreeNode

from aam.config.explain import ExplainConfig
from aam.training.run_folder import RunFolder
from aam.workflows.explained_evaluation import ExplainedEvaluation, read_fitted

CONTRACT = [
    *("level", "id", "name", "importance", "low", "high", "top", "direction", "prevalence", "p_value", "stable"),
    "forest",
]
DRIVER = range(8, 12)


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(RunFolder(folder).importance, sep="\t", keep_default_na=False, na_values=[""])


@pytest.fixture(scope="module")
def why(driven, of_number, explained) -> Path:
    return explained("importance", of_number, taxonomy=driven.folder / "taxonomy.tsv")


@pytest.fixture(scope="module")
def table(why) -> pd.DataFrame:
    return table_of(why)


def test_the_clade_that_drives_is_found_and_others_are_not(table, why, driven):
    """A clade that is found besides may only be so for the reads that it takes from the driver: hardly important."""
    row, *others = table[table["level"] == "clade"].to_dict("records")
    assert row["name"] == "F2 (4 ASVs)"
    assert row["importance"] > 0.5
    assert all(other["importance"] < 0.05 * row["importance"] for other in others)
    assert (row["direction"], row["stable"], row["top"]) == ("rises", "yes", 1.0)
    assert row["p_value"] <= 0.05
    assert row["low"] > 0
    tree = TreeNode.read(StringIO(RunFolder(why).importance_tree.read_text()), convert_underscores=False)
    assert {tip.name for tip in tree.find(row["id"]).tips()} == {driven.names[place] for place in DRIVER}
    assert len(list(tree.tips())) == len(driven.names)


def test_taxa_of_every_rank_are_listed_down_to_the_driver(table):
    taxa = table[table["level"] == "rank"]
    assert taxa["id"].tolist()[0] == "B; P0; F2"
    assert set(taxa["id"]) >= {"B", "B; P0", "B; P0; F2"}
    assert dict(zip(taxa["id"], taxa["rank"], strict=True))["B; P0; F2"] == "family"


def test_asvs_are_those_below_the_important_clade(table, driven):
    asvs = table[table["level"] == "asv"]
    assert sorted(asvs["id"][:4]) == sorted(driven.names[place] for place in DRIVER)
    held = (driven.counts > 0).mean(axis=0)
    prevalence = dict(zip(driven.names, held, strict=True))
    assert asvs["prevalence"].tolist() == pytest.approx([prevalence[name] for name in asvs["id"]], abs=1e-5)
    clade = table[table["level"] == "clade"]
    assert asvs["forest"][:4].sum() == pytest.approx(clade["forest"].iloc[0], rel=1e-4)
    assert clade["forest"].iloc[0] > 0.5


def test_the_table_is_as_agreed(table):
    assert list(table.columns)[: len(CONTRACT)] == CONTRACT
    assert (table["low"] <= table["importance"]).all()
    assert (table["importance"] <= table["high"]).all()
    assert table["p_value"].between(0, 1).all()
    assert set(table["direction"]) <= {"rises", "falls", "mixed"}
    for _, rows in table.groupby("level"):
        assert rows["importance"].is_monotonic_decreasing


def test_the_summary_says_what_was_found(why):
    summary = json.loads(RunFolder(why).explanation.read_text())
    assert set(summary) == {"what", "column", "learner", "sentence", "notes", "source"}
    assert (summary["what"], summary["column"], summary["learner"]) == ("importance", "y", "clades")
    assert "F2 (4 ASVs)" in summary["sentence"]
    assert "rank correlation with the importance that the forest gives them is" in summary["sentence"]
    assert "Meinshausen" in summary["source"]


def test_plots_are_there_with_names(why):
    assert "F2 (4 ASVs)" in RunFolder(why).importance_plot("svg").read_text()
    assert RunFolder(why).importance_plot("png").read_bytes()[:4] == b"\x89PNG"
    lines = RunFolder(why).importance_itol.read_text().splitlines()
    values = dict(line.split("\t") for line in lines[lines.index("DATA") + 1 :])
    tree = TreeNode.read(StringIO(RunFolder(why).importance_tree.read_text()), convert_underscores=False)
    assert len(values) >= 5
    assert all(tree.find(name) is not None for name in values)


def test_jobs_change_nothing_and_seeds_do(why, of_number, explained, driven):
    again = explained("importance", of_number, taxonomy=driven.folder / "taxonomy.tsv", jobs=2)
    for name in ("importance", "explanation", "importance_tree", "importance_itol"):
        assert getattr(RunFolder(again), name).read_bytes() == getattr(RunFolder(why), name).read_bytes()
    assert RunFolder(again).importance_plot("svg").read_bytes() == RunFolder(why).importance_plot("svg").read_bytes()
    other = table_of(explained("importance", of_number, seed=7, permutations=1))
    assert other["name"].iloc[0].startswith("clade of ")
    assert other["importance"].iloc[0] != table_of(why)["importance"].iloc[0]


def test_the_kept_models_predict_what_the_evaluation_did(of_number):
    given = {"what": "importance", "evaluation": of_number, "learner": "clades", "output_dir": "o"}
    evaluation = ExplainedEvaluation.open(ExplainConfig.from_flat(given))
    stored = pd.read_csv(RunFolder(of_number).predictions(""), sep="\t", dtype={"sample_id": str})
    stored = stored[stored["learner"] == "clades"]
    for kept in evaluation.folds_of("clades"):
        opened = kept.open(read_fitted)
        repeat, fold = map(int, kept.name.split("."))
        rows = stored[(stored["repeat"] == repeat) & (stored["fold"] == fold)].set_index("sample_id")
        expected = rows.loc[list(opened.study.table.sample_ids), "prediction"].to_numpy()
        assert opened.predicted[:, 0] == pytest.approx(expected, rel=1e-12)
        effects = opened.effects([np.arange(32), np.array([3])], 3, 0)
        alone = opened.effects([np.array([3])], 3, 0)
        assert effects[1].rise == pytest.approx(alone[0].rise, abs=1e-12)  # batches change nothing
        assert effects[0].rise.mean() == pytest.approx(effects[0].by_permutation.mean())


def test_classes_are_explained_by_the_second_of_them(of_class, explained):
    table = table_of(explained("importance", of_class, permutations=3))
    row = table[table["level"] == "clade"].iloc[0]
    assert (row["asvs"], row["direction"], row["class"]) == (4, "rises", "up")
    assert row["importance"] > 0.2


def test_without_a_tree_taxa_lead(driven, evaluated, explained, tmp_path):
    folder = evaluated(tmp_path / "bare", tree=None, repeats=1, learners="linear")
    taxonomy = driven.folder / "taxonomy.tsv"
    why = explained("importance", folder, taxonomy=taxonomy, permutations=2, learner="linear")
    table = table_of(why)
    assert set(table["level"]) == {"rank", "asv"}
    assert table["name"].iloc[0] == "family F2 (4 ASVs)"
    assert not RunFolder(why).importance_tree.exists()


def test_a_column_of_noise_depends_on_nothing(driven, evaluated, explained, tmp_path):
    metadata = driven.metadata.assign(y=np.random.default_rng(2).standard_normal(len(driven.metadata)))
    metadata.to_csv(tmp_path / "noise.tsv", sep="\t", index_label="sample-id")
    folder = evaluated(tmp_path / "noise", metadata=tmp_path / "noise.tsv", repeats=1)
    why = explained("importance", folder, permutations=2)
    assert len(table_of(why)) == 0
    assert json.loads(RunFolder(why).explanation.read_text())["sentence"].startswith("No clade was found")

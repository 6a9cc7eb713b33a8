"""`aam explain --what robustness` on a small study: without damage the scores are the evaluation's."""

import json

import pandas as pd
import pytest

from aam.config import EvaluateConfig, ExplainConfig, SimulateConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.interpret.damage import DAMAGES
from aam.workflows.evaluate import evaluate
from aam.workflows.explain import explain


@pytest.fixture(scope="module", params=["acidity", "health"])
def explained(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("study")
    write_study(
        simulate_study(SimulateConfig(directory=folder, samples=60, asvs=60, bp=40, depth=400, subjects=12)), folder
    )
    options = {"table": (folder / "table.biom",), "tree": folder / "tree.nwk", "metadata": folder / "metadata.tsv"}
    options |= {"metadata_column": request.param, "classifier": request.param == "health", "group_column": "subject"}
    options |= {"learners": "linear,kernel", "trees": 20, "folds": 3, "repeats": 1, "keep_models": True}
    evaluate(EvaluateConfig.from_flat(options | {"output_dir": folder / "out"}))
    again = {"what": "robustness", "evaluation": folder / "out", "output_dir": folder / "why"}
    explain(ExplainConfig.from_flat(again))
    return folder


def test_scores_begin_as_the_evaluation_s_and_fall(explained):
    table = pd.read_csv(explained / "why" / "robustness.tsv", sep="\t")
    scores = pd.read_csv(explained / "out" / "scores.tsv", sep="\t", keep_default_na=False)
    metric = table["metric"].iloc[0]
    told = scores[scores["metric"] == metric].set_index("learner")["value"].astype(float)
    for way, damage in DAMAGES.items():
        rows = table[table["damage"] == way]
        assert set(rows["learner"]) == {"forest", "linear", "kernel"}
        first = rows[rows["level"] == damage.levels[0]].set_index("learner")["value"]
        pd.testing.assert_series_equal(first, told.loc[first.index], check_names=False)
    worst = table[(table["damage"] == "spurious") & (table["level"] == 0.4)].set_index("learner")["value"]
    assert worst.mean() < told.loc[worst.index].mean()


def test_the_summary_names_the_best_learner_for_each_way(explained):
    document = json.loads((explained / "why" / "explanation.json").read_text())
    assert document["what"] == "robustness"
    for damage in DAMAGES.values():
        assert damage.label in document["sentence"]
    assert (explained / "why" / "plots" / "robustness.png").stat().st_size > 10_000

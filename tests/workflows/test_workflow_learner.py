"""`aam train --learner`, what it leaves behind, and what the network is compared with."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest

from aam.cli import main
from aam.config import (
    InspectConfig,
    LearnersConfig,
    PhylogenyConfig,
    PredictConfig,
    SamplingConfig,
    TargetConfig,
    TrainConfig,
    UnifracConfig,
)
from aam.data.files.tables import read_tables
from aam.data.labels.target_table import target_values
from aam.data.study import load_study
from aam.learners.base import Labels
from aam.learners.registry import make_learner
from aam.learners.storage import load_learner
from aam.workflows.inspect import inspect
from aam.workflows.predict import predict
from aam.workflows.train import train

LEARNERS = ("null", "depth", "linear", "forest", "clades", "kernel", "ensemble")


def options(study_folder, output, **more) -> TrainConfig:
    given = {
        "table": (study_folder / "table.biom",),
        "tree": study_folder / "tree.nwk",
        "metadata": study_folder / "metadata.tsv",
        "metadata_column": "acidity",
        "group_column": "subject",
        "output_dir": output,
    }
    return TrainConfig.from_flat(given | more)


def few_trees(learner: str) -> dict[str, int]:
    return {"trees": 20} if learner in ("forest", "clades", "ensemble") else {}


def predicted(checkpoint, study_folder, output, **more) -> pd.DataFrame:
    predict(
        PredictConfig.from_flat(
            {"checkpoint": checkpoint, "table": (study_folder / "table.biom",), "output": output} | more
        )
    )
    return pd.read_csv(output, sep="\t", index_col="sample_id", keep_default_na=False)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_run_predicts_as_it_reports(learner, study_folder, tmp_path):
    run = tmp_path / "run"
    train(options(study_folder, run, learner=learner, test_fraction=0.2, **few_trees(learner)))
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        ".launch",
        "provenance.json",
        "report.html",
        "config.json",
        "split.tsv",
        "left_out.tsv",
        "leakage.json",
        "plots",
        "checkpoints",
        "val_predictions.tsv",
        "val_metrics.json",
        "test_predictions.tsv",
        "test_metrics.json",
    }
    table = predicted(run, study_folder, tmp_path / "predictions.tsv")
    for side in ("val", "test"):
        reported = pd.read_csv(run / f"{side}_predictions.tsv", sep="\t", index_col="sample_id")
        np.testing.assert_array_equal(table.loc[reported.index, "prediction"].astype(float), reported["prediction"])
    assert (table["reads_lost"].astype(float) == 0).all()
    assert f"learner: {learner}" in inspect(InspectConfig.from_flat({"checkpoint": run}))


def test_all_samples_train_where_none_validates(study_folder, tmp_path):
    run = tmp_path / "run"
    train(options(study_folder, run, learner="forest", val_fraction=0, **few_trees("forest")))
    assert len(load_learner(run).spec.training) == 40
    assert not (run / "val_metrics.json").exists()


def test_rarefied_draws_are_those_of_the_run(study_folder, tmp_path):
    run = tmp_path / "run"
    train(options(study_folder, run, learner="linear", rarefy_depth=150, rarefy_draws=2))
    table = predicted(run, study_folder, tmp_path / "predictions.tsv")
    reported = pd.read_csv(run / "val_predictions.tsv", sep="\t", index_col="sample_id")
    np.testing.assert_array_equal(table.loc[reported.index, "prediction"].astype(float), reported["prediction"])
    rarefaction = load_learner(run).spec.rarefaction
    assert (rarefaction.depth, rarefaction.draws) == (150, 2)


def test_the_automatic_depth_is_as_if_its_number_were_given(study_folder, tmp_path, caplog):
    """A fifth of the samples have no target; the depth is that of the others."""
    lines = (study_folder / "metadata.tsv").read_text().splitlines()
    at = lines[0].split("\t").index("acidity")
    for number in range(2, len(lines), 5):
        cells = lines[number].split("\t")
        cells[at] = ""
        lines[number] = "\t".join(cells)
    metadata = tmp_path / "metadata.tsv"
    metadata.write_text("\n".join(lines) + "\n")
    kernel = {"learner": "kernel", "metadata": metadata}
    train(options(study_folder, tmp_path / "auto", rarefy_depth="auto", **kernel))
    trained = load_learner(tmp_path / "auto")
    read = read_tables([study_folder / "table.biom"])
    empty = {line.split("\t")[0] for line in lines[2::5]}
    depth = sorted(int(reads) for sample, reads in zip(read.sample_ids, read.depth, strict=True) if sample not in empty)
    kept = depth[len(depth) - int(np.ceil(0.95 * len(depth)))]
    assert trained.spec.rarefaction.depth == kept
    assert f"--rarefy-depth auto: {kept} reads" in caplog.text
    assert json.loads((tmp_path / "auto/config.json").read_text())["sampling"]["rarefy_depth"] == kept
    train(options(study_folder, tmp_path / "number", rarefy_depth=kept, **kernel))
    same = [(tmp_path / name / "val_predictions.tsv").read_bytes() for name in ("auto", "number")]
    assert same[0] == same[1]


@pytest.fixture
def sided(study_folder, tmp_path):
    """Metadata with a column ``side`` that keeps subjects together, but for one sample of one of them."""
    table = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str, keep_default_na=False)
    subjects = sorted(set(table["subject"][1:]))
    side = table["subject"].map({name: ("train", "train", "val", "test")[at % 4] for at, name in enumerate(subjects)})
    side.iloc[0] = "categorical"
    mine = table.index[table["subject"] == subjects[0]]
    side.loc[mine[0]] = "val"
    table.assign(side=side).to_csv(tmp_path / "sided.tsv", sep="\t", index=False)
    return tmp_path / "sided.tsv", subjects[0], dict(zip(table["sample-id"][1:], side[1:], strict=True))


@pytest.mark.parametrize("learner", ["linear", "kernel", "neural"])
def test_groups_beside_a_split_column_serve_inner_choices(learner, sided, study_folder, tmp_path, caplog):
    metadata, subject, side = sided
    more = {"metadata": metadata, "split_column": "side", "learner": learner}
    if learner == "neural":
        more |= {"embedding_dim": 8, "attention_layers": 1, "attention_heads": 1, "epochs": 1, "min_steps": 1}
        more |= {"baselines": False}
    train(options(study_folder, tmp_path / "run", **more))
    written = pd.read_csv(tmp_path / "run" / "split.tsv", sep="\t", index_col=0, dtype=str)["split"]
    assert written.to_dict() == side
    told = "--split-column side puts 1 of 8 groups of subject on several sides"
    assert f"{told}, so that scores of validation and test flatter for new ones: {subject}" in caplog.text
    found = json.loads((tmp_path / "run" / "leakage.json").read_text())["findings"]
    assert [one["text"].startswith(told) for one in found if one["column"] == "subject" and one["kind"] == "group"] == [
        True
    ]
    if learner == "neural":
        return
    train(options(study_folder, tmp_path / "alone", **more, group_column=None))
    grouped, alone = (load_learner(tmp_path / name).fitted.solutions[0] for name in ("run", "alone"))
    assert (grouped.left_out.value != alone.left_out.value).any()
    inputs = PhylogenyConfig(table=(study_folder / "table.biom",), metadata=metadata, tree=study_folder / "tree.nwk")
    study = load_study(inputs, SamplingConfig(), UnifracConfig())
    target = TargetConfig(metadata_column=("acidity",))
    groups = study.metadata["subject"].to_numpy(dtype=np.str_)
    rows = np.flatnonzero([side[sample] == "train" for sample in study.table.sample_ids])
    labels = Labels(target_values(study.metadata, target), target, groups)
    direct = make_learner(learner, LearnersConfig()).fit(study, rows, labels, 42).solutions[0]
    np.testing.assert_array_equal(grouped.left_out.value, direct.left_out.value)


def test_classes_are_weighed(study_folder, tmp_path):
    run = tmp_path / "run"
    more = {"metadata_column": "health", "classifier": True, "class_weights": "balanced"}
    train(options(study_folder, run, learner="linear", **more))
    table = predicted(run, study_folder, tmp_path / "predictions.tsv")
    assert {"probability_sick", "probability_healthy"} <= set(table.columns)
    plain = tmp_path / "plain"
    train(options(study_folder, plain, learner="linear", **more | {"class_weights": "none"}))
    other = predicted(plain, study_folder, tmp_path / "plain.tsv")
    assert (table["probability_sick"].astype(float) != other["probability_sick"].astype(float)).any()


def test_the_network_is_compared_and_the_printed_command_runs(study_folder, tmp_path, caplog):
    run = tmp_path / "run"
    small = {"embedding_dim": 8, "attention_layers": 1, "attention_heads": 1, "epochs": 1, "min_steps": 1}
    train(options(study_folder, run, test_fraction=0.2, **small))
    document = json.loads((run / "baselines.json").read_text())
    assert document["scores"].keys() == {"val", "test"}
    assert document["scores"]["test"].keys() == {"neural", "forest", "ensemble"}
    assert document["scores"]["test"]["neural"] == json.loads((run / "test_metrics.json").read_text())
    verdict = document["verdict"]
    assert verdict.startswith("on the test samples")
    assert verdict in caplog.text
    best = max(document["scores"]["test"], key=lambda name: document["scores"]["test"][name]["r2"])
    assert f"{best} is best" in verdict
    if best != "neural":
        words = shlex.split(verdict.partition("trains it: ")[2])
        with pytest.raises(SystemExit) as stop:
            main(words[1:])
        assert not stop.value.code
        assert load_learner(run.with_name(f"run-{best}")).name == best


def test_a_random_split_over_subjects_is_warned_of(study_folder, tmp_path, caplog):
    run = tmp_path / "run"
    train(options(study_folder, run, learner="null", group_column=None))
    findings = json.loads((run / "leakage.json").read_text())["findings"]
    assert ("group", "subject", True) in [(found["kind"], found["column"], found["refuses"]) for found in findings]
    assert "--group-column subject" in caplog.text


def test_a_wrong_tree_is_told_before_the_network_is_trained(study_folder, tmp_path):
    with pytest.raises(ValueError, match=r"nosuch\.nwk"):
        train(options(study_folder, tmp_path / "run", tree=study_folder / "nosuch.nwk"))
    assert not (tmp_path / "run").exists()

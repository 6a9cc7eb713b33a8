"""`aam evaluate`: the same bytes however the work was divided, stopped and resumed."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam.cli import main
from aam.config import EvaluateConfig, SimulateConfig
from aam.data.files import counts
from aam.data.simulation.study import simulate_study, write_study
from aam.errors import InputError
from aam.learners.trees import CladesLearner
from aam.training.checkpoints.store import read_checkpoint
from aam.training.run_folder import RunFolder
from aam.workflows.evaluate import evaluate, load_labelled
from aam.workflows.folder import share_folder
from aam.workflows.makers import read_learner
from aam.workflows.train_command import train_command

RESULTS = ("evaluation", "fold_table", "predictions", "scores", "differences", "errors_by_group", "coverage")
PLOTS = ("predictions_plot", "scores_plot")
EVALUATION_FILES = [name for each in (*RESULTS, *PLOTS) for name in vars(RunFolder)[each].names]

FOLDS = ["1.1", "1.2", "2.1", "2.2"]


@pytest.fixture(scope="module")
def wide_study(tmp_path_factory) -> Path:
    """Files of a study of twelve subjects."""
    folder = tmp_path_factory.mktemp("wide")
    config = SimulateConfig(directory=folder, samples=48, asvs=60, bp=30, depth=300, subjects=12)
    write_study(simulate_study(config), folder)
    return folder


@pytest.fixture(scope="module")
def options(wide_study):
    """Flat options of a small evaluation."""
    files = {"table": (wide_study / "table.biom",), "tree": wide_study / "tree.nwk"}
    files |= {"metadata": wide_study / "metadata.tsv", "metadata_column": "acidity", "group_column": "subject"}
    small = {"learners": "clades", "trees": 5, "folds": 2, "repeats": 2, "gap": True, "interval": 0.8}
    return lambda output_dir, **more: EvaluateConfig.from_flat({**files, **small, "output_dir": output_dir, **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options) -> Path:
    """Folder of an evaluation that was not disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    evaluate(options(folder))
    return folder


def results_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in EVALUATION_FILES if (folder / name).exists()}


def read(path: Path) -> pd.DataFrame:
    """A table in which null is the name of a learner, and only an empty cell is missing."""
    return pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""])


def test_all_files_are_there_and_say_what_they_should(whole):
    expected = {name for name in EVALUATION_FILES if "rarefied" not in name}
    assert set(results_of(whole)) == expected
    tables = {name: read(whole / f"{name}.tsv") for name in ("folds", "predictions", "scores")}
    assert list(tables["folds"]) == ["sample_id", "repeat", "fold", "group"]
    assert len(tables["folds"]) == 96
    assert list(tables["predictions"])[:6] == ["sample_id", "learner", "repeat", "fold", "true", "prediction"]
    assert list(dict.fromkeys(tables["scores"]["learner"])) == ["null", "depth", "forest", "clades"]
    assert tables["scores"][["value", "low", "high"]].notna().all().all() or "pearson" in set(
        tables["scores"]["metric"]
    )
    document = json.loads((whole / "evaluation.json").read_text())
    assert document["samples"] == 48
    assert document["groups"] == 12
    assert "over 12 groups (subject)" in document["verdict"]
    if document["command"] is not None:
        assert document["command"].startswith(f"aam train --learner {document['to_train']} --table")


@pytest.mark.parametrize("learner", ["forest", "linear", "clades", "kernel", "ensemble"])
def test_the_command_that_trains_a_learner_does(options, learner, tmp_path, monkeypatch):
    config = options(tmp_path / "out", min_prevalence=0.05, kernel_steps=3, rarefy_depth="auto", seed=7)
    words = shlex.split(train_command(config, learner, f"acidity-{learner}", rarefy_depth=150))
    assert words[:4] == ["aam", "train", "--learner", learner]
    assert ("--trees" in words) == (learner != "kernel")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words[1:])
    assert left.value.code == 0
    assert (tmp_path / f"acidity-{learner}" / "checkpoints" / "best").exists()


def test_scores_can_be_computed_again_from_the_predictions(whole):
    table = read(whole / "predictions.tsv")
    mean = table.groupby(["learner", "sample_id"])[["true", "prediction"]].mean()
    error = (mean["prediction"] - mean["true"]).abs().groupby("learner").mean()
    scores = read(whole / "scores.tsv").query("metric == 'mae'").set_index("learner")["value"]
    pd.testing.assert_series_equal(error, scores.sort_index(), check_names=False)


def test_coverage_can_be_computed_again_from_the_predictions(whole):
    """Groups count alike: this is what the intervals promise."""
    groups = read(whole / "folds.tsv").drop_duplicates("sample_id").set_index("sample_id")["group"]
    for end in ("", "_random"):
        table = read(whole / f"predictions{end}.tsv")
        held = table.assign(held=table["true"].between(table["low"], table["high"]), width=table["high"] - table["low"])
        by_sample = held.groupby(["learner", "sample_id"])[["held", "width"]].mean().reset_index()
        by_sample["group"] = by_sample["sample_id"].map(groups)
        expected = by_sample.groupby(["learner", "group"])[["held", "width"]].mean().groupby("learner").mean()
        told = read(whole / f"coverage{end}.tsv").set_index("learner")
        assert list(told) == ["level", "coverage", "low", "high", "width"]
        assert list(told.index) == ["null", "depth", "forest", "clades"]
        assert set(told["level"]) == {0.8}
        assert told["coverage"].to_numpy() == pytest.approx(expected.loc[told.index, "held"].to_numpy())
        assert told["width"].to_numpy() == pytest.approx(expected.loc[told.index, "width"].to_numpy())
        assert (told["low"] <= told["coverage"]).all()
        assert (told["coverage"] <= told["high"]).all()
    document = json.loads((whole / "evaluation.json").read_text())
    assert document["main"]["coverage"][0]["learner"] == "null"
    assert any(note.startswith("intervals of 80% that") for note in document["notes"]) or not document["to_train"]


def test_folds_of_too_few_groups_have_infinite_intervals_and_say_so(options, tmp_path):
    """Six groups of training samples are too few for 90 %."""
    evaluate(options(tmp_path / "out", interval=0.9, gap=False, repeats=1))
    table = read(tmp_path / "out" / "predictions.tsv")
    assert set(table["low"]) == {-np.inf}
    assert set(table["high"]) == {np.inf}
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert all(row["width"] is None and row["coverage"] == 1 for row in document["main"]["coverage"])
    if document["to_train"] is not None:
        assert "are infinite in some folds" in " ".join(document["notes"])


def test_models_of_folds_are_kept_and_predict_what_the_folds_say(options, tmp_path):
    config = options(tmp_path / "out", keep_models=True, learners="clades,ensemble", ensemble_members="clades,linear")
    evaluate(config)
    said = read(tmp_path / "out" / "predictions.tsv").set_index(["learner", "repeat", "fold", "sample_id"]).sort_index()
    study = load_labelled(config)[0]
    kept = sorted((tmp_path / "out" / "models").glob("main-*/*"))
    assert {path.name for path in kept} == {"forest", "clades", "ensemble"}
    assert len(kept) == 12
    for path in kept:
        repeat, fold = map(int, path.parent.name.removeprefix("main-").split("."))
        told = said.loc[path.name, repeat, fold]
        predicted, _ = read_learner(read_checkpoint(path)).predict(study)
        assert predicted.loc[told.index, "prediction"].to_numpy() == pytest.approx(told["prediction"].to_numpy())
        intervals, _ = read_learner(read_checkpoint(path)).predict(study, level=0.8)
        assert intervals.loc[told.index, "high"].to_numpy() == pytest.approx(told["high"].to_numpy())


def test_a_fold_without_its_models_is_computed_again(options, tmp_path):
    folder = tmp_path / "out"
    evaluate(options(folder, keep_models=True))
    lost = folder / "models" / "main-1.2" / "clades"
    shutil.rmtree(lost)
    evaluate(options(folder, keep_models=True, resume=True))
    assert lost.exists()


def test_folds_that_are_done_are_kept(whole, options, tmp_path):
    folder = tmp_path / "out"
    (folder / "folds").mkdir(parents=True)
    config = json.loads((whole / "config.json").read_text())
    config["output"]["output_dir"] = str(folder)
    (folder / "config.json").write_text(json.dumps(config))
    kept = [folder / "folds" / f"main-{name}.json" for name in FOLDS[:2]]
    for path in kept:
        shutil.copy(whole / "folds" / path.name, path)
        os.utime(path, (1, 1))
    evaluate(options(folder, resume=True))
    assert results_of(folder) == results_of(whole)
    assert [path.stat().st_mtime for path in kept] == [1, 1]


@pytest.mark.parametrize("on_disk", [False, True])
def test_processes_side_by_side_give_the_same_bytes(whole, options, tmp_path, monkeypatch, on_disk):
    if on_disk:
        monkeypatch.setattr(counts, "CELLS_IN_MEMORY", 0)
    evaluate(options(tmp_path / "out", jobs=2))
    assert results_of(tmp_path / "out") == results_of(whole)


def test_jobs_of_an_array_give_the_same_bytes(whole, options, tmp_path):
    folder = tmp_path / "out"
    for number in ("3", "2.2", "1", "2"):
        evaluate(options(folder, only_fold=number))
    assert results_of(folder) == {}
    evaluate(options(folder, collect=True))
    assert results_of(folder) == results_of(whole)


def test_jobs_of_an_array_share_the_folder_and_nobody_else_does(options, tmp_path):
    folder = tmp_path / "out"
    one = options(folder, only_fold="1")
    with share_folder(one, one.output):
        evaluate(options(folder, only_fold="2"))
        with pytest.raises(InputError, match="another run is writing there"):
            evaluate(options(folder, resume=True))
    assert sorted(path.name for path in (folder / "folds").iterdir()) == ["main-1.2.json", "random-1.2.json"]


def test_what_is_not_complete_is_not_collected(options, tmp_path):
    folder = tmp_path / "out"
    evaluate(options(folder, only_fold="1"))
    with pytest.raises(InputError, match=r"--collect: 6 of 8 folds are not done: 1\.2, 2\.1, 2\.2, 1\.2, 2\.1, \.\.\."):
        evaluate(options(folder, collect=True))


def test_a_fold_of_other_data_is_refused(whole, options, tmp_path, wide_study):
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / "folds" / "main-2.2.json").unlink()
    other = tmp_path / "metadata.tsv"
    lines = (wide_study / "metadata.tsv").read_text().splitlines()
    other.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(InputError, match=r"main-1\.1\.json is of other data"):
        evaluate(options(folder, resume=True, metadata=other))


def test_a_damaged_fold_is_named(whole, options, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / "folds" / "main-1.1.json").write_text("{")
    with pytest.raises(InputError, match=r"main-1\.1\.json is damaged; delete it"):
        evaluate(options(folder, resume=True))


def test_an_evaluation_is_overwritten_as_a_whole(whole, options, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / "notes.txt").write_text("mine")
    evaluate(options(folder, overwrite=True, gap=False))
    assert not (folder / "scores_random.tsv").exists()
    assert not list((folder / "folds").glob("random*"))
    assert (folder / "notes.txt").read_text() == "mine"


def test_classes_are_evaluated_with_stratified_groups(options, tmp_path):
    folder = tmp_path / "out"
    evaluate(options(folder, metadata_column="habitat", classifier=True, repeats=1, gap=False, batch_column="site"))
    scores = read(folder / "scores.tsv")
    assert list(dict.fromkeys(scores["learner"])) == ["null", "depth", "batch", "forest", "clades"]
    assert {"balanced_accuracy", "auroc", "log_loss"} < set(scores["metric"])
    assert (folder / "plots" / "predictions.svg").exists()


def test_a_learner_that_refuses_a_fold_is_named_with_it(wide_study, tmp_path, monkeypatch, capsys):
    def refuse(self, problem):
        raise InputError("no clade is prevalent enough")

    monkeypatch.setattr(CladesLearner, "solve", refuse)
    files = {"table": "table.biom", "tree": "tree.nwk", "metadata": "metadata.tsv"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(wide_study / file))]
    words += ["--metadata-column", "acidity", "--group-column", "subject", "--learners", "clades", "--trees", "5"]
    with pytest.raises(SystemExit) as left:
        main(["evaluate", *words, "--folds", "2", "--repeats", "1", "--output-dir", str(tmp_path / "out")])
    assert left.value.code == 2
    assert "clades in fold 1.1: no clade is prevalent enough" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on(whole, options, tmp_path):
    folder, config = tmp_path / "out", options(tmp_path / "out")
    words = [sys.executable, "-m", "aam", "evaluate"]
    given = {"table": config.inputs.table[0], "tree": config.inputs.tree, "metadata": config.inputs.metadata}
    given |= {"metadata-column": "acidity", "group-column": "subject", "learners": "clades", "trees": 5, "folds": 2}
    given |= {"repeats": 2, "interval": 0.8, "output-dir": folder}
    words += ["--gap", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (folder / "folds" / "main-1.2.json").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "evaluation.json").exists()
    subprocess.run([*words, "--resume"], check=True, capture_output=True)
    assert results_of(folder) == results_of(whole)

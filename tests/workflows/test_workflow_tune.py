"""`aam tune`: honest scores, the same proposals in every run, and results that other commands take."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam.cli import main
from aam.config import EvaluateConfig, SimulateConfig, TuneConfig
from aam.config.search_space import SPACES
from aam.data.simulation.study import simulate_study, write_study
from aam.errors import InputError
from aam.workflows.evaluate import evaluate

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'aam[tune]'")

from aam.workflows.tune import tune  # noqa: E402
from aam.workflows.tuning.space import as_toml, readable_options, space_of, space_toml  # noqa: E402

FOLDS = 3


@pytest.fixture(scope="module")
def small_study(tmp_path_factory) -> Path:
    """Files of a study of nine subjects."""
    folder = tmp_path_factory.mktemp("small")
    config = SimulateConfig(directory=folder, samples=45, asvs=50, bp=30, depth=300, subjects=9)
    write_study(simulate_study(config), folder)
    return folder


@pytest.fixture(scope="module")
def files(small_study) -> dict:
    return {
        "table": (small_study / "table.biom",),
        "tree": small_study / "tree.nwk",
        "metadata": small_study / "metadata.tsv",
        "metadata_column": "acidity",
        "group_column": "subject",
        "folds": FOLDS,
    }


@pytest.fixture(scope="module")
def options(files):
    """Flat options of a small tuning."""
    small = {"learner": "linear", "trials": 6, "nested_trials": 3, "nested_folds": 2}
    return lambda output_dir, **more: TuneConfig.from_flat({**files, **small, "output_dir": output_dir, **more})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, options) -> Path:
    """Output folder of a tuning that was not disturbed."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    tune(options(folder))
    return folder


def tuning_of(folder: Path) -> dict:
    return json.loads((folder / "tuning.json").read_text())


def tried(folder: Path) -> list[tuple]:
    """Options and scores of the trials that count, in their order."""
    table = pd.read_csv(folder / "trials.tsv", sep="\t")
    kept = table[table["state"].isin(["complete", "given up"])]
    return list(kept.drop(columns=["trial", "seconds", "note"]).itertuples(index=False, name=None))


def test_what_a_tuning_leaves(tuned):
    document = tuning_of(tuned)
    assert {"column", "learner", "metric", "best", "sentence", "nested", "trials"} <= document.keys()
    assert (document["column"], document["learner"], document["metric"]) == ("acidity", "linear", "r2")
    assert document["trials"] == 6
    assert len(pd.read_csv(tuned / "trials.tsv", sep="\t")) == 6
    assert "optimistic" in document["sentence"]
    assert f"{document['nested']['score']:.3f}" in document["sentence"]
    assert len(document["nested"]["chosen"]) == FOLDS
    for plot in ("history", "importance"):
        assert (tuned / f"plots/tuning_{plot}.png").exists()
        assert (tuned / f"plots/tuning_{plot}.svg").exists()
    assert sum(document["importance"].values()) == pytest.approx(1)


def test_the_options_as_given_are_tried_first(tuned):
    first = pd.read_csv(tuned / "trials.tsv", sep="\t").iloc[0]
    assert (first["linear_penalty"], first["min_prevalence"]) == ("l2", 0.02)


def test_the_score_is_that_of_evaluate_with_the_same_options(tuned, files, tmp_path):
    document = tuning_of(tuned)
    given = {**files, **document["best"]["options"], "repeats": 1, "learners": "linear", "trees": 3}
    evaluate(EvaluateConfig.from_flat({**given, "output_dir": tmp_path / "out"}))
    scores = pd.read_csv(tmp_path / "out/scores.tsv", sep="\t").set_index(["learner", "metric"])["value"]
    assert scores["linear", "r2"] == document["best"]["score"]


def test_other_commands_take_the_best_options(tuned, files, tmp_path):
    common = ["--table", files["table"][0], "--metadata", files["metadata"], "--metadata-column", "acidity"]
    common += ["--config", tuned / "best.toml", "--group-column", "subject"]
    trained = ["train", "--learner", "linear", "--output-dir", tmp_path / "trained"]
    compared = ["evaluate", "--learners", "linear", "--trees", 3, "--folds", 2, "--repeats", 1]
    for words in (trained, [*compared, "--output-dir", tmp_path / "compared"]):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in [*words, *common]])
        assert left.value.code == 0
    best = tuning_of(tuned)["best"]["options"]
    config = json.loads((tmp_path / "trained/config.json").read_text())
    assert config["linear"]["linear_penalty"] == best["linear_penalty"]
    assert config["trees"]["min_prevalence"] == best["min_prevalence"]


def test_the_choice_for_a_fold_does_not_depend_on_what_the_fold_holds(options, small_study, tuned, tmp_path):
    """Other values of the samples of a fold change nothing of what is tried and chosen without them."""
    fold = json.loads((tuned / "tuning.json").read_text())["nested"]["chosen"][0]["fold"]
    kept = json.loads(next((tuned / "folds").glob(f"chosen-*-{fold}.json")).read_text())
    metadata = (small_study / "metadata.tsv").read_text().splitlines()
    place = metadata[0].split("\t").index("acidity")
    changed = []
    for line in metadata:
        cells = line.split("\t")
        if cells[0] in kept["result"]["sample_id"]:
            cells[place] = str(100 - 3 * float(cells[place]))
        changed.append("\t".join(cells))
    path = tmp_path / "metadata.tsv"
    path.write_text("\n".join(changed) + "\n")
    tune(options(tmp_path / "out", metadata=path, trials=1))
    before, after = (tuning_of(folder)["nested"] for folder in (tuned, tmp_path / "out"))
    assert after["chosen"][0] == before["chosen"][0]
    assert after["chosen"][1:] != before["chosen"][1:]
    assert after["score"] != before["score"]


def test_a_longer_tuning_goes_on_where_a_shorter_one_stopped(options, tuned, tmp_path):
    tune(options(tmp_path / "out", trials=4))
    assert tried(tmp_path / "out") == tried(tuned)[:4]
    tune(options(tmp_path / "out", resume=True))
    assert tried(tmp_path / "out") == tried(tuned)
    assert tuning_of(tmp_path / "out")["nested"] == tuning_of(tuned)["nested"]


def test_an_interrupted_tuning_ends_as_an_undisturbed_one(options, tuned, tmp_path, monkeypatch):
    """Interrupted at several places; a trial that was under way is tried again, with the same options."""
    from aam.workflows.tuning import scoring  # noqa: PLC0415

    fit, calls = scoring.fit_fold, []

    def interrupted(*given):
        calls.append(None)
        if len(calls) in (5, 11, 24):
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(scoring, "fit_fold", interrupted)
    for resume in (False, True, True):
        with pytest.raises(KeyboardInterrupt):
            tune(options(tmp_path / "out", resume=resume))
    tune(options(tmp_path / "out", resume=True))
    assert tried(tmp_path / "out") == tried(tuned)
    assert tuning_of(tmp_path / "out")["nested"] == tuning_of(tuned)["nested"]
    assert tuning_of(tmp_path / "out")["interrupted"] == 2  # the third one in a fold of the nested score


def test_other_data_are_not_mixed_with_earlier_trials(options, tuned, small_study, tmp_path):
    tune(options(tmp_path / "out", trials=1, nested_trials=0))
    text = (small_study / "metadata.tsv").read_text().splitlines()
    header = text[0].split("\t")
    cells = text[-1].split("\t")
    cells[header.index("acidity")] = "0.123"
    path = tmp_path / "metadata.tsv"
    path.write_text("\n".join([*text[:-1], "\t".join(cells)]) + "\n")
    with pytest.raises(InputError, match="of other data or of another search space"):
        tune(options(tmp_path / "out", trials=2, nested_trials=0, resume=True, metadata=path))


def test_a_database_keeps_trials_of_several_tunings(options, tmp_path):
    place = f"sqlite:///{tmp_path / 'trials.db'}"
    for name in ("one", "two"):
        tune(options(tmp_path / name, trials=2, nested_trials=0, study=place))
        assert not (tmp_path / name / "study.journal").exists()
    assert tried(tmp_path / "one") == tried(tmp_path / "two")
    assert tuning_of(tmp_path / "one")["nested"] is None
    assert "not known" in tuning_of(tmp_path / "one")["sentence"]


def test_options_that_are_not_possible_are_told_and_the_others_are_scored(options, tmp_path, caplog):
    space = tmp_path / "space.toml"
    space.write_text("embedding_dim = {choices = [8, 12]}\nattention_heads = {choices = [4, 8]}\n")
    small = {"learner": "neural", "epochs": 1, "min_steps": 0, "nested_trials": 0, "folds": 2, "prune": False}
    tune(options(tmp_path / "out", space=space, trials=8, embedding_dim=8, attention_heads=4, **small))
    table = pd.read_csv(tmp_path / "out/trials.tsv", sep="\t")
    wrong = (table["embedding_dim"] == 12) & (table["attention_heads"] == 8)
    assert 0 < wrong.sum() < len(table)
    assert set(table["state"][~wrong]) == {"complete"}
    assert set(table["state"][wrong]) == {"given up"}
    assert table["note"][wrong].str.contains("--embedding-dim 12 is not a multiple|embedding_dim 12 is not").all()
    assert "is not possible" in caplog.text


def test_classes_are_tuned_by_balanced_accuracy(options, tmp_path):
    small = {"learner": "forest", "metadata_column": "habitat", "classifier": True, "trees": 5, "folds": 2}
    space = tmp_path / "space.toml"
    space.write_text("min_prevalence = {low = 0, high = 0.5}\n")
    tune(options(tmp_path / "out", space=space, trials=3, nested_trials=2, **small))
    document = tuning_of(tmp_path / "out")
    assert document["metric"] == "balanced_accuracy"
    assert 0 <= document["nested"]["score"] <= 1
    assert document["best"]["options"]["trees"] == 5, "an option that was given is one of the best ones"


@pytest.mark.parametrize("learner", SPACES)
def test_the_search_space_that_is_shown_is_the_one_that_is_read(learner, tmp_path):
    shown = tune(TuneConfig.from_flat({"learner": learner, "show_space": True}))
    assert shown is not None
    path = tmp_path / "space.toml"
    path.write_text(shown)
    given = {"learner": learner, "space": path, "metadata_column": "a", "output_dir": "out"}
    config = TuneConfig.from_flat(given)
    assert space_of(config) == SPACES[learner]
    assert set(SPACES[learner]) <= set(readable_options(config))
    assert space_toml(space_of(config)) in shown


def test_options_are_written_as_toml_reads_them():
    import tomllib  # noqa: PLC0415

    values = {"a": ("x", 'y"'), "b": 1e-05, "c": True, "d": Path("p/é"), "e": 3}
    assert tomllib.loads(as_toml(values)) == {"a": 'x,y"', "b": 1e-05, "c": True, "d": "p/é", "e": 3}


def test_the_sampler_repeats_itself(options, tuned, tmp_path):
    tune(options(tmp_path / "out"))
    assert tried(tmp_path / "out") == tried(tuned)
    assert np.isfinite([score for _, score, *_ in tried(tuned)]).all()

"""Intervals and samples that are unlike, from `aam train` to `aam predict`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam.config import PredictConfig, SimulateConfig, TrainConfig
from aam.data.files.tables import read_tables
from aam.data.simulation.study import simulate_study, write_study
from aam.errors import InputError
from aam.learners.conformal import listed
from aam.learners.storage import learner_of, load_learner
from aam.training.checkpoints.store import read_checkpoint, write_checkpoint
from aam.workflows.predict import predict
from aam.workflows.train import train

LEARNERS = ("null", "depth", "linear", "forest", "clades", "kernel", "ensemble")
FEW = {"forest": {"trees": 5}, "clades": {"trees": 5}, "ensemble": {"trees": 5, "ensemble_members": "clades,linear"}}


def trained(study_folder: Path, output: Path, learner: str, **more) -> Path:
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    tree = {} if learner == "neural" else {"tree": study_folder / "tree.nwk"}
    given = {"metadata_column": "acidity", "group_column": "subject", **FEW.get(learner, {}), **more}
    train(TrainConfig.from_flat({**files, **tree, "output_dir": output, "learner": learner, **given}))
    return output


def predicted(checkpoint: Path, study_folder: Path, output: Path, **more) -> pd.DataFrame:
    files = {"checkpoint": checkpoint, "table": (study_folder / "table.biom",), "output": output}
    predict(PredictConfig.from_flat({**files, **more}))
    return pd.read_csv(output, sep="\t", index_col="sample_id", keep_default_na=False)


@pytest.mark.parametrize("learner", LEARNERS)
def test_intervals_of_numbers(learner, study_folder, tmp_path, caplog):
    run = trained(study_folder, tmp_path / "run", learner)
    with caplog.at_level("INFO", "aam"):
        table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.8)
    numbers = table[["low", "prediction", "high"]].astype(float)
    assert np.isfinite(numbers).all().all()
    assert (numbers["low"] < numbers["prediction"]).all()
    assert (numbers["prediction"] < numbers["high"]).all()
    groups = load_learner(run).fitted.solutions[0].conformity.groups
    assert "acidity: intervals hold the true value with probability 0.8 if that of a new sample" in caplog.text
    assert f"is drawn like the {groups} groups of the training (subject)" in caplog.text
    plain = predicted(run, study_folder, tmp_path / "q.tsv")
    pd.testing.assert_frame_equal(table.drop(columns=["low", "high"]), plain)
    assert set(plain["unlike"]) <= {"yes", "no"}


@pytest.mark.parametrize("learner", LEARNERS)
def test_sets_of_classes(learner, study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", learner, metadata_column="habitat", classifier=True)
    table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.8)
    sets = [listed(text) for text in table["set"]]
    assert all(names[0] == prediction for names, prediction in zip(sets, table["prediction"], strict=True))
    assert {name for names in sets for name in names} <= {"gut", "oral", "skin"}


def test_too_few_groups_give_an_infinite_interval_and_a_warning(study_folder, tmp_path, caplog):
    run = trained(study_folder, tmp_path / "run", "linear")
    table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.95)
    assert set(table["low"]) == {-np.inf}
    assert set(table["high"]) == {np.inf}
    (said,) = [record for record in caplog.records if "every interval is infinite" in record.message]
    assert said.levelname == "WARNING"
    assert "too few for probability 0.95, which takes 19" in said.message
    run = trained(study_folder, tmp_path / "classes", "linear", metadata_column="habitat", classifier=True)
    table = predicted(run, study_folder, tmp_path / "q.tsv", interval=0.95)
    assert {tuple(sorted(listed(text))) for text in table["set"]} == {("gut", "oral", "skin")}


def test_without_groups_samples_are_exchangeable(study_folder, tmp_path, caplog):
    run = trained(study_folder, tmp_path / "run", "kernel", group_column=None)
    with caplog.at_level("INFO", "aam"):
        table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.95)
    assert np.isfinite(table[["low", "high"]].astype(float)).all().all()
    assert "if a new sample is drawn like the 32 training samples (exchangeable)" in caplog.text


def test_several_columns_have_an_interval_each(study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", "linear", metadata_column="acidity,day")
    table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.8)
    for name in ("acidity", "day"):
        assert (table[f"low_{name}"] < table[f"prediction_{name}"]).all()
        assert (table[f"prediction_{name}"] < table[f"high_{name}"]).all()


def test_intervals_on_a_logarithmic_scale_are_longer_upwards(study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", "linear", metadata_column="day", target_transform="log-zscore")
    table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.8)
    up, down = table["high"] - table["prediction"], table["prediction"] - table["low"]
    assert (up > down).all()
    assert (table["low"] > -1).all()


def test_a_rarefied_model_has_intervals(study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", "kernel", rarefy_depth=150)
    table = predicted(run, study_folder, tmp_path / "p.tsv", interval=0.8)
    assert np.isfinite(table[["low", "high"]].astype(float)).all().all()


def test_an_older_checkpoint_predicts_without_intervals_and_says_to_train_again(study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", "linear")
    checkpoint = read_checkpoint(run)
    added = ("conformity/", "likeness/")
    arrays = {name: array for name, array in checkpoint.model.items() if not any(each in name for each in added)}
    assert len(arrays) < len(checkpoint.model)
    documents = {name: document for name, document in checkpoint.documents.items() if name != "likeness"}
    write_checkpoint(replace(checkpoint, model=arrays, documents=documents), tmp_path / "old")
    new, old = (predicted(path, study_folder, tmp_path / f"{path.name}.tsv") for path in (run, tmp_path / "old"))
    pd.testing.assert_frame_equal(new.drop(columns=["unlike", "why"]), old)
    with pytest.raises(InputError, match="train it again"):
        predicted(tmp_path / "old", study_folder, tmp_path / "p.tsv", interval=0.8)
    assert not (tmp_path / "p.tsv").exists()


@pytest.fixture
def other_study(tmp_path) -> Path:
    """Sequences of the same length, none of which is in the other study."""
    folder = tmp_path / "other"
    folder.mkdir()
    write_study(simulate_study(SimulateConfig(directory=folder, samples=16, asvs=60, bp=30, depth=300, seed=7)), folder)
    return folder


def test_the_network_tells_other_sequences(study_folder, other_study, tmp_path):
    small = {"epochs": 1, "embedding_dim": 8, "attention_heads": 2, "attention_layers": 1}
    run = trained(study_folder, tmp_path / "run", "neural", **small)
    assert (predicted(run, study_folder, tmp_path / "p.tsv")["unlike"] == "no").mean() > 0.8
    table = predicted(run, other_study, tmp_path / "q.tsv")
    assert set(table["unlike"]) == {"yes"}
    assert table["why"].str.startswith("100% of the reads of ASVs that no training sample holds").all()


def test_a_learner_tells_mixed_and_foreign_samples(study_folder, other_study, tmp_path, caplog):
    """Foreign samples with one known read are told; those without, which cannot be predicted, are told too."""
    run = trained(study_folder, tmp_path / "run", "linear")
    here, there = (read_tables([folder / "table.biom"]) for folder in (study_folder, other_study))
    rows = [["#OTU ID", "like", "mixed", "foreign"]]
    like, strange = here.counts[[0]].toarray()[0], there.counts[[0]].toarray()[0]
    rows += [
        [name, count, int(place == 0), 0] for place, (name, count) in enumerate(zip(here.asv_ids, like, strict=True))
    ]
    rows += [[name, 0, count, count] for name, count in zip(there.asv_ids, strange, strict=True)]
    path = tmp_path / "mixed.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    output = tmp_path / "p.tsv"
    predict(PredictConfig.from_flat({"checkpoint": run, "table": (path,), "output": output, "interval": 0.8}))
    table = pd.read_csv(output, sep="\t", index_col="sample_id", keep_default_na=False)
    assert table["unlike"].to_dict() == {"like": "no", "mixed": "yes", "foreign": "yes"}
    assert "of ASVs that no training sample holds" in table.loc["mixed", "why"]
    assert table.loc["foreign", "why"] == table.loc["foreign", "note"] == "no read of an ASV that the model knows"
    assert table.loc["foreign", "low"] == ""
    assert "2 of 3 samples are unlike those of the training" in caplog.text


def test_what_is_loaded_predicts_the_same_intervals(study_folder, tmp_path):
    run = trained(study_folder, tmp_path / "run", "ensemble")
    checkpoint = read_checkpoint(run)
    write_checkpoint(checkpoint, tmp_path / "again")
    one, other = (learner_of(read_checkpoint(path)) for path in (run, tmp_path / "again"))
    for attribute in ("score", "group"):
        values = [getattr(each.fitted.solutions[0].conformity, attribute) for each in (one, other)]
        np.testing.assert_array_equal(*values)
    assert one.likeness.limits == other.likeness.limits

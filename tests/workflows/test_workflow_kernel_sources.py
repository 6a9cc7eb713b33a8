"""The kernel learner on metadata and embeddings too: trained, compared, saved, read, and predicting."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest

import aam
from aam.cli import main
from aam.config import EvaluateConfig, InspectConfig, PredictConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.learners.storage import load_learner
from aam.workflows.evaluate import evaluate
from aam.workflows.inspect import inspect
from aam.workflows.predict import predict
from aam.workflows.train import train
from aam.workflows.train_command import train_command

COLUMNS = {"categorical_columns": "site,habitat", "categorical_hierarchy": "site=region", "numeric_columns": "day"}


@pytest.fixture(scope="module")
def files(study_folder):
    names = {"tree": "tree.nwk", "metadata": "metadata.tsv"}
    return {"table": (study_folder / "table.biom",)} | {name: study_folder / file for name, file in names.items()}


def predicted(checkpoint, files, output, **more) -> pd.DataFrame:
    given = {"checkpoint": checkpoint, "table": files["table"], "metadata": files["metadata"], "output": output}
    predict(PredictConfig.from_flat(given | more))
    return pd.read_csv(output, sep="\t", index_col="sample_id")


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize(
    "learner", [{"learner": "kernel"}, {"learner": "ensemble", "ensemble_members": "kernel,linear"}], ids=str
)
def test_a_run_predicts_as_it_reports(files, pretrained, learner, classifier, tmp_path, caplog):
    target = {"metadata_column": "health" if classifier else "acidity", "classifier": classifier}
    more = {"pretrained_encoder": pretrained, "group_column": "subject", "rarefy_depth": 160, "rarefy_draws": 2}
    run = tmp_path / "run"
    train(TrainConfig.from_flat({**files, **target, **more, **COLUMNS, **learner, "output_dir": run, "device": "cpu"}))
    assert "the pretrained encoder has seen, without labels" in caplog.text
    caplog.clear()
    table = predicted(run, files, tmp_path / "p.tsv")
    reported = pd.read_csv(run / "val_predictions.tsv", sep="\t", index_col="sample_id")
    assert len(reported)
    same = reported.columns.intersection(table.columns)
    pd.testing.assert_frame_equal(table.loc[reported.index, same], reported[same], check_exact=True)
    assert load_learner(run).metadata_columns == ("site", "habitat", "day")
    shown = inspect(InspectConfig.from_flat({"checkpoint": run}))
    assert "--categorical-columns site,habitat, --categorical-hierarchy site=region" in shown
    assert "metadata with the columns site, habitat, day" in shown
    text = files["metadata"].read_text().replace("coast1", "moon")
    (tmp_path / "new.tsv").write_text(text)
    predicted(run, {**files, "metadata": tmp_path / "new.tsv"}, tmp_path / "new.predictions.tsv")
    assert caplog.text.count("'moon'") == 1


def test_without_these_options_it_is_as_before(files, tmp_path):
    given = {**files, "metadata_column": "acidity", "group_column": "subject", "learner": "kernel"}
    train(TrainConfig.from_flat({**given, "output_dir": tmp_path / "plain"}))
    train(TrainConfig.from_flat({**given, **COLUMNS, "output_dir": tmp_path / "told"}))
    plain, told = (load_learner(tmp_path / name).fitted.solutions[0] for name in ("plain", "told"))
    assert "sources" not in plain.settings()
    assert not any("source" in name for name in plain.arrays())
    assert told.basis.names[: len(plain.basis.names)] == plain.basis.names
    np.testing.assert_array_equal(plain.basis.widths, told.basis.widths[: len(plain.basis.names)])


def test_an_evaluation_and_the_command_that_it_prints(files, pretrained, tmp_path, monkeypatch):
    given = {**files, "metadata_column": "acidity", "group_column": "subject", "folds": 2, "repeats": 1, "trees": 5}
    given |= {"learners": "kernel,ensemble", "ensemble_members": "kernel,linear", "pretrained_encoder": pretrained}
    config = EvaluateConfig.from_flat({**given, **COLUMNS, "output_dir": tmp_path / "out"})
    evaluate(config)
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [text for text in document["leakage"] if "pretrained encoder has seen" in text]
    evaluate(EvaluateConfig.from_flat({**given, **COLUMNS, "output_dir": tmp_path / "jobs", "jobs": 2}))
    for name in ("predictions.tsv", "scores.tsv"):
        assert (tmp_path / "jobs" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    words = shlex.split(train_command(config, "kernel", str(tmp_path / "trained")))
    assert {"--pretrained-encoder", "--categorical-columns", "--categorical-hierarchy", "--numeric-columns"} < set(
        words
    )
    assert "--numeric-columns" not in train_command(config, "linear", "to")
    with pytest.raises(SystemExit) as left:
        main(words[1:])
    assert not left.value.code
    assert load_learner(tmp_path / "trained").metadata_columns == ("site", "habitat", "day")


def test_other_values_are_another_evaluation(files, tmp_path):
    given = {**files, "metadata_column": "acidity", "group_column": "subject", "folds": 2, "repeats": 1, "trees": 5}
    given |= {"learners": "kernel", "numeric_columns": "day", "output_dir": tmp_path / "out"}
    evaluate(EvaluateConfig.from_flat(given))
    text = files["metadata"].read_text()
    (tmp_path / "new.tsv").write_text(text.replace("\t3.0\t", "\t5.0\t", 1))
    assert text != (tmp_path / "new.tsv").read_text()
    with pytest.raises(ValueError, match="another"):
        evaluate(EvaluateConfig.from_flat({**given, "metadata": tmp_path / "new.tsv", "resume": True}))


def test_files_of_options_may_differ_in_columns(files, tmp_path):
    names = []
    for name, line in (("plain", 'numeric-columns = ""'), ("told", 'numeric-columns = "day"')):
        names.append(tmp_path / f"{name}.toml")
        names[-1].write_text(line + "\n")
    given = {**files, "metadata_column": "acidity", "group_column": "subject", "folds": 2, "repeats": 1, "trees": 5}
    evaluate(
        EvaluateConfig.from_flat(
            {**given, "learners": "kernel", "configs": ",".join(map(str, names)), "output_dir": tmp_path / "out"}
        )
    )
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_estimators(files, study_folder, tmp_path):
    metadata = read_metadata(study_folder / "metadata.tsv")
    encoder = aam.SampleEncoder(
        embedding_dim=8, attention_heads=2, attention_layers=1, epochs=1, batch_size=16, device="cpu"
    ).fit(files["table"][0], tree=files["tree"])
    model = aam.SampleRegressor(
        learner="kernel", encoder=encoder, options={**COLUMNS, "group_column": "subject"}, device="cpu"
    )
    model.fit(files["table"][0], metadata["acidity"], tree=files["tree"], metadata=metadata)
    values = model.predict(files["table"][0], metadata=metadata)
    model.save(tmp_path / "saved")
    again = aam.SampleRegressor.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(files["table"][0], metadata=metadata), values)
    assert again.options["categorical_columns"] == ["site", "habitat"]
    with pytest.raises(ValueError, match=r"site, habitat, day.*give --metadata"):
        model.predict(files["table"][0])

import json
import logging
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as reference

from aam.config import PredictConfig, PretrainConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.data.study import load_study
from aam.errors import InputError
from aam.training.checkpoints.store import read_checkpoint
from aam.training.metrics import RegressionMetrics
from aam.workflows.predict import predict
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import pretrain
from aam.workflows.restore import restore
from aam.workflows.train import train


def read_table(path) -> pd.DataFrame:
    """Text as it is, so that two files are compared to the last digit."""
    return pd.read_csv(path, sep="\t", index_col="sample_id", dtype=str, keep_default_na=False)


def validations(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val/loss" in line]


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_the_output_folder_holds_what_the_readme_lists(kind, request):
    folder = request.getfixturevalue(kind)
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        ".launch",
        "provenance.json",
        "report.html",
        "config.json",
        "split.tsv",
        "left_out.tsv",
        "metrics.jsonl",
        "training.log",
        "tensorboard",
        "plots",
        "checkpoints",
        "val_predictions.tsv",
        "val_metrics.json",
        "leakage.json",
        "baselines.json",
    }
    assert (folder / "plots/val_predictions.png").stat().st_size > 5000


def test_no_group_is_on_both_sides(regressor, study_folder):
    split = pd.read_csv(regressor / "split.tsv", sep="\t", index_col=0)["split"]
    subject = pd.read_csv(study_folder / "metadata.tsv", sep="\t", index_col=0)["subject"][split.index]
    assert not set(subject[split == "train"]) & set(subject[split == "val"])
    assert set(read_table(regressor / "val_predictions.tsv").index) == set(split.index[split == "val"])


def test_the_metrics_are_those_of_the_predictions_as_written(regressor, study_folder):
    table = pd.read_csv(regressor / "val_predictions.tsv", sep="\t", index_col="sample_id")
    assert list(table.columns) == ["true", "prediction"]
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", index_col=0, comment="#")
    assert table["true"].to_dict() == pytest.approx(metadata["acidity"].astype(float)[table.index].to_dict())
    values = json.loads((regressor / "val_metrics.json").read_text())
    assert values["r2"] == pytest.approx(reference.r2_score(table["true"], table["prediction"]), rel=1e-12)
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(table["true"], table["prediction"]), rel=1e-12)
    best = min(validations(regressor), key=lambda line: line["val/loss"])
    # but for the correlation: six digits are few where all predictions are much the same, as after so few steps
    for name in ("mae", "rmse"):
        assert values[name] == pytest.approx(best[f"val/{name}"], rel=1e-4)
    # the share that is not explained, since R2 itself is close to 0 after so few steps
    assert 1 - values["r2"] == pytest.approx(1 - best["val/r2"], rel=1e-4)


def test_class_metrics_are_those_of_the_predictions_as_written(classifier):
    table = pd.read_csv(classifier / "val_predictions.tsv", sep="\t", index_col="sample_id")
    classes = ["gut", "oral", "skin"]
    assert list(table.columns) == ["true", "prediction", *(f"probability_{name}" for name in classes)]
    probability = table.iloc[:, 2:].to_numpy()
    assert probability.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-4)
    assert [classes[i] for i in probability.argmax(axis=1)] == list(table["prediction"])
    values = json.loads((classifier / "val_metrics.json").read_text())
    assert values["accuracy"] == pytest.approx((table["true"] == table["prediction"]).mean())
    own = probability[np.arange(len(table)), [classes.index(name) for name in table["true"]]]
    assert values["log_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-12)


def test_the_metrics_are_exactly_those_of_predict(regressor, study_folder, aam, tmp_path):
    table = held_out_table(regressor, study_folder, tmp_path)
    assert aam("predict", **words(regressor, study_folder, tmp_path / "p.tsv", table=table, batch_size=8)) == 0
    predicted = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col="sample_id")["prediction"]
    true = read_metadata(study_folder / "metadata.tsv")["acidity"].reindex(predicted.index)
    metrics = RegressionMetrics()
    metrics.update(torch.tensor(predicted.to_numpy()), torch.tensor(true.to_numpy()))
    written = json.loads((regressor / "val_metrics.json").read_text())
    assert {name: value for name, value in written.items() if name != "warning"} == metrics.compute()


def words(folder, study_folder, output, **options) -> dict:
    return {"checkpoint": folder, "table": study_folder / "table.biom", "output": output, "device": "cpu", **options}


@pytest.fixture(params=["regressor", "classifier"])
def trained(request):
    return request.getfixturevalue(request.param)


def held_out_table(trained, study_folder, tmp_path):
    """A table with the held-out samples of a run alone."""
    table = read_tables([study_folder / "table.biom"])
    names = read_table(trained / "val_predictions.tsv").index
    frame = pd.DataFrame(table.counts.toarray(), index=table.sample_ids, columns=table.asv_ids).loc[list(names)]
    frame.T.to_csv(tmp_path / "held-out.tsv", sep="\t", index_label="#OTU ID")
    return tmp_path / "held-out.tsv"


def test_predictions_of_held_out_samples_are_those_of_validation(trained, study_folder, aam, tmp_path):
    table = held_out_table(trained, study_folder, tmp_path)
    assert aam("predict", **words(trained, study_folder, tmp_path / "p.tsv", table=table, batch_size=8)) == 0
    expected = read_table(trained / "val_predictions.tsv").drop(columns="true")
    found = read_table(tmp_path / "p.tsv")
    assert set(found.pop("note")) == {""}
    pd.testing.assert_frame_equal(found.drop(columns=["unlike", "why"]), expected)


def test_predictions_do_not_depend_on_the_other_samples(trained, study_folder, aam, tmp_path):
    assert aam("predict", **words(trained, study_folder, tmp_path / "p.tsv")) == 0
    found = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col="sample_id")
    found = found.drop(columns=["unlike", "why", "note"])
    assert sorted(found.index) == sorted(read_tables([study_folder / "table.biom"]).sample_ids)
    expected = pd.read_csv(trained / "val_predictions.tsv", sep="\t", index_col="sample_id").drop(columns="true")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected, rtol=1e-4, atol=1e-5)


def test_samples_that_were_not_chosen_have_no_row(regressor, study_folder, aam, tmp_path, capsys):
    options = {"metadata": study_folder / "metadata.tsv", "where": "habitat=gut"}
    assert aam("predict", **words(regressor, study_folder, tmp_path / "p.tsv", **options)) == 0
    assert f"wrote {tmp_path / 'p.tsv'}" in capsys.readouterr().err
    habitat = pd.read_csv(study_folder / "metadata.tsv", sep="\t", index_col=0, comment="#")["habitat"]
    assert set(read_table(tmp_path / "p.tsv").index) == set(habitat.index[habitat == "gut"])


def test_predictions_replace_nothing_unasked(regressor, study_folder, aam, tmp_path, capsys):
    table = tmp_path / "table.biom"
    shutil.copy(study_folder / "table.biom", table)
    (tmp_path / "p.tsv").write_text("precious")
    (tmp_path / "link.biom").symlink_to(table)
    assert aam("predict", **words(regressor, study_folder, tmp_path / "p.tsv")) == 2
    assert "p.tsv exists; replace it with --overwrite" in capsys.readouterr().err
    assert (tmp_path / "p.tsv").read_text() == "precious"
    for output in (table, tmp_path / "link.biom"):
        options = words(regressor, study_folder, output, table=table, overwrite=True)
        assert aam("predict", **options) == 2
        assert "is the file of --table" in capsys.readouterr().err
    assert table.read_bytes() == (study_folder / "table.biom").read_bytes()
    assert aam("predict", **words(regressor, study_folder, tmp_path / "p.tsv", overwrite=True)) == 0
    assert len(read_table(tmp_path / "p.tsv")) == 40


def test_prediction_needs_nothing_but_the_checkpoint(trained, study_folder, aam, tmp_path):
    shutil.copytree((trained / "checkpoints/best").resolve(), tmp_path / "alone")
    for folder, output in [(trained, "a.tsv"), (tmp_path / "alone", "b.tsv"), (trained / "checkpoints/best", "c.tsv")]:
        assert aam("predict", **words(folder, study_folder, tmp_path / output)) == 0
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes() == (tmp_path / "c.tsv").read_bytes()


def test_samples_without_a_usable_asv_are_reported(regressor, study_folder, aam, tmp_path, capsys):
    known = read_tables([study_folder / "table.biom"]).sequences[0]
    (tmp_path / "more.tsv").write_text(
        f"#OTU ID\tblank\tstrange\tshallow\n{known}\t0\t0\t7\nasv-without-sequence\t0\t900\t500\n"
    )
    options = words(regressor, study_folder, tmp_path / "p.tsv", drop_missing_sequences=True)
    options["table"] = (options["table"], tmp_path / "more.tsv")
    assert aam("predict", **options) == 0
    table = read_table(tmp_path / "p.tsv")
    assert table.loc[["blank", "strange"], "note"].tolist() == ["no reads", "no reads"]
    assert "sampling depth 160" in table.loc["shallow", "note"]
    assert table.loc[["blank", "strange", "shallow"], "prediction"].tolist() == ["", "", ""]
    assert (table["note"] == "").sum() == (table["prediction"] != "").sum()
    assert "blank" in capsys.readouterr().err


def test_samples_without_a_target_are_left_out(train_options, study_folder, tmp_path, caplog):
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    at = header.split("\t").index("acidity")
    cells = [row.split("\t") for row in rows]
    for row in cells[3:8]:
        row[at] = ""
    (tmp_path / "metadata.tsv").write_text("\n".join([header, types, *("\t".join(row) for row in cells)]) + "\n")
    options = train_options(tmp_path / "run", metadata=tmp_path / "metadata.tsv", epochs=1, group_column=None)
    with caplog.at_level(logging.WARNING, "aam"):
        train(TrainConfig.from_flat(options))
    assert "left out 5 of 40 samples, no value of acidity" in caplog.text
    left_out = read_table(tmp_path / "run/left_out.tsv")
    assert left_out["reason"].to_dict() == {row[0]: "no value of acidity" for row in cells[3:8]}
    log = (tmp_path / "run/training.log").read_text()
    assert "left out 5 of 40 samples, no value of acidity" in log
    assert f"wrote {tmp_path / 'run'}" in log
    split = read_table(tmp_path / "run/split.tsv")
    assert len(split) == 35
    assert not {row[0] for row in cells[3:8]} & set(split.index)


def test_the_scale_is_fitted_to_the_training_samples(train_options, study_folder, tmp_path):
    options = train_options(tmp_path / "run", target_transform="minmax", epochs=1)
    train(TrainConfig.from_flat(options))
    split = read_table(tmp_path / "run/split.tsv")["split"]
    values = pd.read_csv(study_folder / "metadata.tsv", sep="\t", index_col=0, comment="#")["acidity"].astype(float)
    scale = restore(tmp_path / "run").targets.only.scale
    train_values = values[split.index[split == "train"]]
    assert (scale.offset, scale.scale) == (train_values.min(), train_values.max() - train_values.min())


def test_a_frozen_encoder_keeps_the_pretrained_weights(train_options, pretrained, tmp_path):
    options = {"pretrained_encoder": pretrained, "freeze_base": True, "epochs": 1, "nucleotide_dropout": 0.2}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    encoder = read_checkpoint(pretrained).model
    model = read_checkpoint(tmp_path / "run").model
    assert {name.removeprefix("encoder.") for name in model if name.startswith("encoder.")} == set(encoder)
    assert all(torch.equal(model[f"encoder.{name}"], value) for name, value in encoder.items())


def test_a_pretrained_encoder_brings_its_induced_points(train_options, pretrain_options, tmp_path):
    points = {"sample_attention": "induced", "induced_points": 3}
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "encoder", epochs=1, **points)))
    options = train_options(tmp_path / "run", pretrained_encoder=tmp_path / "encoder", epochs=1)
    train(TrainConfig.from_flat(options))
    name = "encoder.sample_encoder.transformer.blocks.0.attention.points"
    assert read_checkpoint(tmp_path / "run").model[name].shape == (3, 8)
    model = restore(tmp_path / "run").config.model
    assert (model.sample_attention, model.induced_points) == ("induced", 3)
    other = {**options, "output_dir": tmp_path / "other", "sample_attention": "full"}
    with pytest.raises(InputError, match=r"fixes --sample-attention full \(pretrained with induced\)"):
        train(TrainConfig.from_flat(other))


def test_a_free_encoder_starts_from_the_pretrained_weights(regressor, pretrained, train_options, tmp_path):
    encoder, model = read_checkpoint(pretrained).model, read_checkpoint(regressor).model
    name = "asv_encoder.stem.project.weight"
    change = (model[f"encoder.{name}"] - encoder[name]).norm() / encoder[name].norm()
    assert 0 < change < 0.5
    assert restore(regressor).config.model.max_bp == 30


def test_a_resumed_run_writes_the_same_report(aam, regressor, train_options, pretrained, tmp_path):
    shutil.copytree(regressor, tmp_path / "run", symlinks=True)
    (tmp_path / "run/val_predictions.tsv").unlink()
    options = train_options(tmp_path / "run", pretrained_encoder=pretrained, rarefy_depth=160)
    assert aam("train", **options) == 2
    assert aam("train", **options, resume=True) == 0
    for name in ("val_predictions.tsv", "metrics.jsonl", "split.tsv"):
        assert (tmp_path / "run" / name).read_bytes() == (regressor / name).read_bytes()


@pytest.mark.parametrize("column", ["acidity", "subject"])
def test_a_run_is_not_resumed_on_other_metadata(aam, train_options, study_folder, tmp_path, capsys, column):
    """A changed target and a changed split; the table is the same."""
    metadata = tmp_path / "metadata.tsv"
    shutil.copy(study_folder / "metadata.tsv", metadata)
    options = train_options(tmp_path / "run", metadata=metadata, epochs=1)
    assert aam("train", **options) == 0
    header, types, *rows = metadata.read_text().splitlines()
    at = header.split("\t").index(column)
    cells = [row.split("\t") for row in rows]
    turned = [row[at] for row in cells[7:] + cells[:7]]
    for row, value in zip(cells, turned, strict=True):
        row[at] = value
    metadata.write_text("\n".join([header, types, *("\t".join(row) for row in cells)]) + "\n")
    capsys.readouterr()
    assert aam("train", **options, resume=True) == 2
    assert re.search(
        r"--resume.*changed: .*target" if column == "acidity" else "changed: .*split", capsys.readouterr().err
    )


def test_a_model_is_rebuilt_without_touching_the_random_numbers_of_others(regressor):
    before = torch.get_rng_state()
    restore(regressor)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pretrained_encoder_predicts_no_column(pretrained, study_folder, tmp_path):
    options = {"checkpoint": pretrained, "table": (study_folder / "table.biom",), "output": tmp_path / "p.tsv"}
    with pytest.raises(InputError, match="aam train"):
        predict(PredictConfig.from_flat(options))
    assert not (tmp_path / "p.tsv").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metadata": None}, "--metadata is needed"),
        ({"stratify": True, "group_column": None}, "--stratify"),
        ({"best_metric": "val/auroc"}, "--best-metric val/auroc"),
        ({"pretrained_encoder": "nowhere"}, "nowhere"),
    ],
)
def test_a_refused_run_leaves_nothing(train_options, tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    assert not (tmp_path / "run").exists()


def test_what_is_settled_is_said_and_stored(train_options, tmp_path, caplog):
    left = {"lr": None, "epochs": None, "min_steps": 12, "embedding_dim": 16}
    options = {name: value for name, value in train_options(tmp_path / "run", **left).items() if value is not None}
    with caplog.at_level(logging.INFO, logger="aam"):
        train(TrainConfig.from_flat(options | {"patience": 1}))
    stored = restore(tmp_path / "run").config
    assert stored.optim.lr == pytest.approx(3e-3 * (64 / (16 + 1024)) ** 0.5)
    assert f"learning rate 0.000744, the encoder stays as it is; {stored.optim.epochs} epochs of" in caplog.text
    assert (stored.finetune.freeze_base, stored.target.asv_features) == (True, 1024)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["lr"] is None


def test_predictions_without_a_spread_are_called_so(train_options, tmp_path, caplog):
    options = {"lr": 1e-9, "epochs": 1, "standardize_samples": False}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    written = json.loads((tmp_path / "run" / "val_metrics.json").read_text())
    assert "acidity" in written["warning"]
    assert "--min-steps" in written["warning"]
    assert any(record.levelname == "WARNING" and record.message == written["warning"] for record in caplog.records)


@pytest.mark.parametrize(
    ("values", "classifier", "says"),
    [
        (["1", "2"], False, "kind has 2 whole numbers only: if they stand for classes, give --classifier"),
        (["0", "1", "2"], True, "the 3 classes of kind are all numbers"),
        (["a", "b", "c"], True, None),
        ([str(number) for number in range(8)], False, None),
    ],
)
def test_numbers_that_look_like_classes_are_said(
    values, classifier, says, train_options, study_folder, tmp_path, caplog
):
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str, keep_default_na=False)
    metadata["kind"] = ["categorical" if classifier else "numeric", *np.resize(values, len(metadata) - 1)]
    metadata.to_csv(tmp_path / "metadata.tsv", sep="\t", index=False)
    options = {"metadata": tmp_path / "metadata.tsv", "metadata_column": "kind", "classifier": classifier, "epochs": 1}
    with caplog.at_level(logging.INFO, logger="aam"):
        train(TrainConfig.from_flat(train_options(tmp_path / "run", **options, group_column=None)))
    assert ("whole numbers only" in caplog.text or "are all numbers" in caplog.text) == (says is not None)
    assert says is None or says in caplog.text


def test_the_head_starts_from_standardized_samples(study_folder, train_options, tmp_path):
    config = TrainConfig.from_flat(train_options(tmp_path / "run", categorical_columns="site"))
    study = load_study(config.inputs, config.sampling, needs=("metadata",))
    run = prepare_training(study, config)
    batches = run.material.batches(run.material.split.train, run.config)
    run.model.eval()
    read = run.model.target_head.norm(
        run.objective.inputs.over(lambda samples, _: run.model(samples).head_input, batches)
    )
    assert read.mean(0).abs().max() < 1e-4
    assert (read.std(0, unbiased=False) - 1).abs().max() < 1e-3
    plain = config.model_copy(update={"target": config.target.model_copy(update={"standardize_samples": False})})
    assert (prepare_training(study, plain).model.target_head.norm.weight == 1).all()

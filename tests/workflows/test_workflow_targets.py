"""Several numbers at once, quantiles, limited ranges and scales by category: from files to predictions, and again."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from aam.config import PredictConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.errors import InputError
from aam.workflows.predict import predict
from aam.workflows.restore import restore
from aam.workflows.train import train


def read_table(path) -> pd.DataFrame:
    """Text as it is, so that two files are compared to the last digit."""
    return pd.read_csv(path, sep="\t", index_col="sample_id", dtype=str, keep_default_na=False)


@pytest.fixture(scope="session")
def gaps(tmp_path_factory, study_folder):
    """Metadata with a share in [0, 1], and of whose numbers some are missing here and some there."""
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    names = header.split("\t")
    lines = [f"{header}\tshare", f"{types}\tnumeric"]
    for number, row in enumerate(rows):
        cells = [*row.split("\t"), str(round(0.02 * number, 3))]
        for name, missing in {"acidity": number % 5 == 1, "day": number % 4 == 3}.items():
            if missing:
                cells[names.index(name)] = ""
        lines.append("\t".join(cells))
    path = tmp_path_factory.mktemp("gaps") / "metadata.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def several_options(train_options, gaps):
    return lambda output_dir: train_options(
        output_dir,
        metadata=gaps,
        metadata_column="acidity,day",
        target_loss="acidity=quantile,day=mse",
        quantiles="0.05,0.5,0.95",
        target_transform="minmax",
        output_activation="softplus",
        learnable_output_scale=True,
        count_weight=0.1,
    )


@pytest.fixture(scope="session")
def several(tmp_path_factory, several_options, aam):
    """Output folder of `aam train` on two numbers with missing values."""
    folder = tmp_path_factory.mktemp("runs") / "several"
    assert aam("train", **several_options(folder)) == 0
    return folder


@pytest.fixture(scope="session")
def by_region(tmp_path_factory, train_options):
    """Output folder of a run whose scale is fitted for each region."""
    folder = tmp_path_factory.mktemp("runs") / "region"
    train(TrainConfig.from_flat(train_options(folder, normalize_by="region")))
    return folder


def table_of(samples, study_folder, tmp_path):
    """A table with some samples alone."""
    table = read_tables([study_folder / "table.biom"])
    frame = pd.DataFrame(table.counts.toarray(), index=table.sample_ids, columns=table.asv_ids).loc[list(samples)]
    frame.T.to_csv(tmp_path / "some.tsv", sep="\t", index_label="#OTU ID")
    return tmp_path / "some.tsv"


def predict_options(folder, table, output, **more) -> dict:
    return {"checkpoint": folder, "table": table, "output": output, "device": "cpu", "batch_size": 8, **more}


COLUMNS = [
    "prediction_acidity",
    "quantile_0.05_acidity",
    "quantile_0.5_acidity",
    "quantile_0.95_acidity",
    "prediction_day",
]


def test_the_report_has_columns_and_metrics_of_every_target(several, gaps):
    table = pd.read_csv(several / "val_predictions.tsv", sep="\t", index_col="sample_id")
    assert list(table) == ["true_acidity", "true_day", *COLUMNS]
    true = read_metadata(gaps).loc[table.index, ["acidity", "day"]]
    assert true.isna().any().all()
    assert table[["true_acidity", "true_day"]].to_numpy() == pytest.approx(true.to_numpy(), nan_ok=True)
    assert table["prediction_acidity"].tolist() == table["quantile_0.5_acidity"].tolist()
    assert (np.diff(table[COLUMNS[1:4]].to_numpy(), axis=1) >= 0).all()
    values = json.loads((several / "val_metrics.json").read_text())
    for name in ("acidity", "day"):
        known = true[name].notna()
        error = (table[f"prediction_{name}"] - true[name])[known].abs().mean()
        assert values[f"mae_{name}"] == pytest.approx(error, rel=1e-12)
    covered = table["quantile_0.05_acidity"].le(true["acidity"]) & table["quantile_0.95_acidity"].ge(true["acidity"])
    assert values["coverage_acidity"] == pytest.approx(covered[true["acidity"].notna()].mean())
    assert (several / "plots/val_predictions.png").stat().st_size > 5000


def test_the_configuration_says_which_loss_each_target_has(several):
    targets = restore(several).targets
    assert [(column.name, column.loss, column.quantiles) for column in targets.columns] == [
        ("acidity", "quantile", (0.05, 0.5, 0.95)),
        ("day", "mse", ()),
    ]


@pytest.mark.parametrize("run", ["several", "by_region"])
def test_predictions_of_held_out_samples_are_those_of_validation(run, request, study_folder, aam, tmp_path):
    folder = request.getfixturevalue(run)
    expected = read_table(folder / "val_predictions.tsv")
    expected = expected[[name for name in expected if not name.startswith("true")]]
    table = table_of(expected.index, study_folder, tmp_path)
    more = {"metadata": study_folder / "metadata.tsv"} if run == "by_region" else {}
    assert aam("predict", **predict_options(folder, table, tmp_path / "p.tsv", **more)) == 0
    found = read_table(tmp_path / "p.tsv")
    assert set(found.pop("note")) == {""}
    pd.testing.assert_frame_equal(found.drop(columns=["unlike", "why"]), expected)


def test_a_resumed_run_writes_the_same_report(several, several_options, aam, tmp_path):
    shutil.copytree(several, tmp_path / "run", symlinks=True)
    (tmp_path / "run/val_predictions.tsv").unlink()
    assert aam("train", **several_options(tmp_path / "run"), resume=True) == 0
    for name in ("val_predictions.tsv", "val_metrics.json", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (several / name).read_bytes()


def test_the_scale_of_a_category_is_undone_in_predictions(by_region, study_folder):
    metadata = read_metadata(study_folder / "metadata.tsv")
    split = read_table(by_region / "split.tsv")["split"]
    train_values = metadata.loc[split.index[split == "train"]].groupby("region")["acidity"]
    assert train_values.count().min() >= 5
    column = restore(by_region).targets.only
    one = metadata.loc[split.index].drop_duplicates("region")
    means = column.decode(np.zeros((len(one), 1)), one)["prediction"]
    assert means.to_numpy() == pytest.approx(one["region"].map(train_values.mean()).to_numpy())


def test_scales_by_category_need_the_metadata_of_new_samples(by_region, study_folder, tmp_path):
    options = predict_options(by_region, (study_folder / "table.biom",), tmp_path / "p.tsv")
    with pytest.raises(InputError, match=r"the model reads columns of the metadata \(region\): give --metadata"):
        predict(PredictConfig.from_flat(options))
    read_metadata(study_folder / "metadata.tsv").drop(columns="region").to_csv(tmp_path / "m.tsv", sep="\t")
    with pytest.raises(InputError, match="'region'"):
        predict(PredictConfig.from_flat(options | {"metadata": tmp_path / "m.tsv"}))
    assert not (tmp_path / "p.tsv").exists()


def test_a_new_category_has_the_scale_of_all_and_that_is_said(by_region, study_folder, aam, tmp_path, capsys):
    metadata = read_metadata(study_folder / "metadata.tsv")
    table = table_of(metadata.index[:2], study_folder, tmp_path)
    metadata.assign(region=["island", *metadata["region"][1:]]).to_csv(tmp_path / "m.tsv", sep="\t")
    options = predict_options(by_region, table, tmp_path / "p.tsv", metadata=tmp_path / "m.tsv")
    assert aam("predict", **options) == 0
    assert "--normalize-by: for acidity, 1 samples" in (message := capsys.readouterr().err)
    assert "island: 1" in message
    same = predict_options(by_region, table, tmp_path / "q.tsv", metadata=study_folder / "metadata.tsv")
    assert aam("predict", **same) == 0
    new, known = (pd.read_csv(tmp_path / name, sep="\t", index_col=0)["prediction"] for name in ("p.tsv", "q.tsv"))
    column = restore(by_region).targets.only
    own = column.groups.groups[metadata["region"].iloc[0]]
    assert column.scale.transform(new)[0] == pytest.approx(own.transform(known)[0], abs=1e-4)
    assert new.iloc[1] == known.iloc[1]


def test_bounded_predictions_are_shares(train_options, gaps, study_folder, tmp_path):
    options = {"metadata_column": "share", "bounded_targets": True, "target_loss": "mae", "lr": 0.1, "epochs": 3}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", metadata=gaps, **options)))
    predict(
        PredictConfig.from_flat(predict_options(tmp_path / "run", (study_folder / "table.biom",), tmp_path / "p.tsv"))
    )
    predicted = pd.read_csv(tmp_path / "p.tsv", sep="\t")["prediction"]
    assert predicted.between(0, 1).all()
    assert predicted.nunique() > 1


@pytest.mark.parametrize("option", [{"output_activation": "exp"}, {"bounded_targets": True}])
def test_a_target_out_of_range_leaves_nothing(train_options, gaps, tmp_path, option):
    metadata = read_metadata(gaps)
    metadata["share"] -= 0.1
    metadata.to_csv(tmp_path / "m.tsv", sep="\t")
    options = {"metadata": tmp_path / "m.tsv", "metadata_column": "day,share", **option}
    with pytest.raises(InputError, match=r"'(share|day)' has other values: samples S00"):
        train(TrainConfig.from_flat(train_options(tmp_path / "run", **options)))
    assert not (tmp_path / "run").exists()


def test_a_classifier_with_smoothed_labels_and_weights_by_category(train_options, aam, tmp_path):
    options = {
        "metadata_column": "habitat",
        "classifier": True,
        "label_smoothing": 0.1,
        "class_weights": "effective",
        "categorical_loss_weights": "auto",
        "categorical_loss_weight_column": "region,health",
    }
    assert aam("train", **train_options(tmp_path / "run", epochs=1, **options)) == 0
    log = (tmp_path / "run/training.log").read_text()
    assert "class weights: gut " in log
    assert "weights of samples by category" in log
    stored = restore(tmp_path / "run").documents["loss_weights"]["weights"]
    assert set(stored) == {"region", "health"}

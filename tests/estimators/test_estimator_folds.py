"""scikit-learn's tools: tables whose ids are no sequences, samples that cannot be used, a folder for each fit."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    PredefinedSplit,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)

import aam
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.estimators.folders import folder_of_clone

LINEAR = {"learner": "linear"}
TINY = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def sequences(study_folder):
    """DNA by its hash, as QIIME 2 names ASVs."""
    read = read_tables([study_folder / "table.biom"])
    return {md5(dna.encode(), usedforsecurity=False).hexdigest(): dna for dna in read.sequences}


@pytest.fixture(scope="module")
def table(study_folder, sequences):
    """Counts, samples x ASVs, with hashes for ids."""
    read = read_tables([study_folder / "table.biom"])
    return pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(sequences))


@pytest.fixture(scope="module")
def spelled_out(table, sequences):
    """The same with sequences for ids."""
    return table.rename(columns=sequences)


@pytest.fixture(scope="module")
def metadata(study_folder, table):
    return read_metadata(study_folder / "metadata.tsv").loc[table.index]


def test_cross_validation_with_hashed_ids(table, spelled_out, sequences, metadata):
    y, model = metadata["acidity"], aam.SampleRegressor(**LINEAR)
    predicted = cross_val_predict(model, spelled_out, y, cv=2)
    expected = [r2_score(y.iloc[rows], predicted[rows]) for rows in (slice(20), slice(20, None))]
    given = {"params": {"sequences": sequences}, "cv": 2}
    np.testing.assert_allclose(cross_val_score(model, table, y, error_score="raise", **given), expected)
    np.testing.assert_array_equal(cross_val_predict(model, table, y, **given), predicted)
    whole = aam.read(table, sequences=sequences)
    np.testing.assert_array_equal(cross_val_predict(model, whole, y.to_numpy(), cv=2), predicted)


def test_classes_with_hashed_ids(table, spelled_out, sequences, metadata):
    model, y = aam.SampleClassifier(**LINEAR), metadata["habitat"]
    expected = cross_val_predict(model, spelled_out, y, cv=2, method="predict_proba")
    found = cross_val_predict(model, table, y, cv=2, method="predict_proba", params={"sequences": sequences})
    np.testing.assert_array_equal(found, expected)


def test_a_search_with_hashed_ids(table, sequences, metadata):
    y, tried = metadata["acidity"], {"learner": ["linear", "null"]}
    search = GridSearchCV(aam.SampleRegressor(), tried, cv=2, error_score="raise")
    search.fit(table, y, sequences=sequences)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(table, y) == search.best_estimator_.score(table, y)
    assert search.n_features_in_ == table.shape[1]


def test_sequences_are_routed(table, sequences, metadata):
    y, given = metadata["acidity"], {"sequences": sequences}
    expected = cross_val_score(aam.SampleRegressor(learner="null"), table, y, cv=2, params=given)
    with sklearn.config_context(enable_metadata_routing=True):
        for scored in (False, True):
            model = aam.SampleRegressor(learner="null").set_fit_request(sequences=True)
            model.set_score_request(sequences=scored)
            np.testing.assert_array_equal(cross_val_score(model, table, y, cv=2, params=given), expected)


def test_sequences_are_remembered_and_saved(table, sequences, metadata, tmp_path):
    fasta = tmp_path / "rep-seqs.fasta"
    fasta.write_text("".join(f">{name}\n{dna}\n" for name, dna in sequences.items()))
    model = aam.SampleRegressor(**LINEAR).fit(table, metadata["acidity"], sequences=fasta)
    assert model.sequences_ == sequences
    expected = model.predict(table)
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(aam.SampleRegressor.load(tmp_path / "saved").predict(table), expected)
    # others may be given, and go before what is remembered
    swapped = dict(zip(sequences, reversed(sequences.values()), strict=True))
    assert (model.predict(table, sequences=swapped) != expected).any()
    np.testing.assert_array_equal(model.predict(table), expected)
    with pytest.raises(aam.InputError, match=r"1 of 52 ASVs .* without a sequence: new; .* sequences, or drop"):
        model.predict(table.rename(columns={table.columns[0]: "new"}))


def test_an_encoder_remembers_too(table, sequences, study_folder, tmp_path):
    tree = study_folder / "tree.nwk"
    encoder = aam.SampleEncoder(**TINY).fit(aam.read(table, sequences=sequences), tree=tree)
    assert encoder.embed(table).notna().all(axis=None)
    encoder.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(aam.SampleEncoder.load(tmp_path / "saved").embed(table), encoder.embed(table))


def test_names_of_features(table, spelled_out, metadata, sequences, study_folder):
    model = aam.SampleRegressor(**LINEAR).fit(table, metadata["acidity"], sequences=sequences)
    assert list(model.feature_names_in_) == list(table.columns)
    assert model.n_features_in_ == 52
    model.fit(study_folder / "table.biom", metadata["acidity"])
    assert sorted(model.feature_names_in_) == sorted(spelled_out.columns)
    assert model.sequences_ == {}


@pytest.fixture(scope="module")
def with_empty_samples(spelled_out):
    """The first and the last sample without reads, another with few."""
    some = spelled_out.copy()
    some.iloc[[0, -1]] = 0
    some.iloc[20] = (np.arange(52) < 3).astype(int)
    return some


@pytest.mark.parametrize("scoring", [None, "neg_mean_absolute_error"])
def test_numbers_of_folds_with_samples_that_cannot_be_used(with_empty_samples, metadata, scoring):
    y, model = metadata["acidity"], aam.SampleRegressor(learner="linear", rarefy_depth=100)
    with pytest.warns(UserWarning, match="cannot be predicted and get the null prediction"):
        scores = cross_val_score(model, with_empty_samples, y, cv=KFold(2), scoring=scoring, error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss"])
def test_classes_of_folds_with_samples_that_cannot_be_used(with_empty_samples, metadata, scoring):
    y, model = metadata["habitat"], aam.SampleClassifier(**LINEAR)
    with pytest.warns(UserWarning, match="cannot be predicted and get the null prediction"):
        scores = cross_val_score(model, with_empty_samples, y, cv=2, scoring=scoring, error_score="raise")
    assert np.isfinite(scores).all()


def test_a_fold_of_one_sample_that_cannot_be_used(with_empty_samples, metadata):
    y, folds = metadata["acidity"], PredefinedSplit([0] + 20 * [1] + 19 * [2])
    with pytest.warns(UserWarning, match="null prediction") as caught:
        predicted = cross_val_predict(aam.SampleRegressor(**LINEAR), with_empty_samples, y, cv=folds)
    assert [str(each.message).split(" cannot")[0] for each in caught] == ["1 of 1 samples", "1 of 19 samples"]
    assert predicted[0] == y.iloc[1:-1].median()


def test_a_table_of_other_asvs_is_no_gap(spelled_out, metadata):
    """The wrong table, not a sample that cannot be used."""
    model = aam.SampleRegressor(**LINEAR).fit(spelled_out, metadata["acidity"])
    with pytest.raises(aam.InputError, match="none of the 52 ASVs of the table is known to the model"):
        model.predict(spelled_out.rename(columns=lambda dna: dna[::-1] + "A"))


def test_the_null_prediction_is_saved(with_empty_samples, spelled_out, metadata, tmp_path):
    model = aam.SampleRegressor(**LINEAR).fit(spelled_out, metadata[["acidity", "day"]])
    model.save(tmp_path / "saved")
    again = aam.SampleRegressor.load(tmp_path / "saved")
    assert again.null_ == model.null_ == metadata[["acidity", "day"]].median().tolist()
    with pytest.warns(UserWarning, match="2 of 40"):
        values = again.predict(with_empty_samples)
    assert values[0].tolist() == model.null_
    assert again.predictions(with_empty_samples)["note"].iloc[0] == "no reads"


@pytest.mark.parametrize("kind", [aam.SampleRegressor, aam.SampleClassifier])
def test_runs_of_the_command_line_keep_no_null_prediction(kind, with_empty_samples, spelled_out, metadata, tmp_path):
    y = metadata["acidity" if kind is aam.SampleRegressor else "health"]
    kind(**LINEAR, output_dir=tmp_path / "run").fit(spelled_out, y)
    model = kind.load(tmp_path / "run")
    assert model.null_ is None
    if kind is aam.SampleClassifier:
        with pytest.raises(aam.InputError, match="no class can be predicted for S0001, S0040: no reads"):
            model.predict(with_empty_samples)
        return
    with pytest.warns(UserWarning, match="2 of 40 samples cannot be predicted and are nan"):
        values = model.predict(with_empty_samples)
    assert np.isnan(values).nonzero()[0].tolist() == [0, 39]
    score = model.score(with_empty_samples, y)
    assert score == r2_score(y.iloc[1:-1], values[1:-1])


def test_every_fit_of_a_cross_validation_has_a_folder(spelled_out, metadata, tmp_path):
    model = aam.SampleRegressor(**LINEAR, output_dir=tmp_path / "run")
    found = cross_validate(model, spelled_out, metadata["acidity"], cv=2, error_score="raise", return_estimator=True)
    folders = [tmp_path / "run" / f"fit-{number}" for number in (1, 2)]
    assert sorted((tmp_path / "run").iterdir()) == folders
    for folder, estimator in zip(folders, found["estimator"], strict=True):
        again = aam.SampleRegressor.load(folder)
        np.testing.assert_array_equal(again.predict(spelled_out), estimator.predict(spelled_out))


def test_fits_at_the_same_time_have_folders(spelled_out, metadata, tmp_path):
    def work(number):
        with folder_of_clone(tmp_path / "run") as folder:
            (folder / f"file {number}").touch()
        return folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(work, range(100)))
    assert set(folders) == {tmp_path / "run" / f"fit-{number}" for number in range(1, 101)}


def test_other_processes_know_a_clone(spelled_out, metadata, tmp_path):
    """joblib pickles the clones of a cross-validation in several processes."""
    model = pickle.loads(pickle.dumps(clone(aam.SampleRegressor(learner="null", output_dir=tmp_path / "run"))))
    model.fit(spelled_out, metadata["acidity"])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["fit-1"]


def test_a_clone_pretrains_into_its_folder(spelled_out, metadata, study_folder, tmp_path):
    model = clone(aam.SampleRegressor(**TINY, pretrain_epochs=1, output_dir=tmp_path / "run"))
    model.fit(spelled_out, metadata["acidity"], tree=study_folder / "tree.nwk")
    assert sorted(path.name for path in (tmp_path / "run" / "fit-1").iterdir()) == ["pretrain", "train"]


def test_a_clone_that_cannot_be_fitted_leaves_no_folder(spelled_out, metadata, tmp_path):
    model = clone(aam.SampleRegressor(**LINEAR, output_dir=tmp_path / "run"))
    with pytest.raises(aam.InputError, match="habitat"):
        model.fit(spelled_out, metadata["habitat"])
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("a file")
    with pytest.raises(aam.InputError, match=r"output_dir .*run: no folder can be made in it"):
        model.fit(spelled_out, metadata["acidity"])

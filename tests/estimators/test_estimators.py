"""The objects for notebooks: conventions of scikit-learn, joins by id, and the same results as the command line."""

import json
import pickle
import re
import subprocess
import sys
import tempfile
import tomllib
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import biom
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score
from sklearn.utils import estimator_checks

import aam
from aam.config import PredictConfig, PretrainConfig, TrainConfig
from aam.config.learning import ASV_FEATURES
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.workflows.predict import predict
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train

ESTIMATORS = [aam.SampleEncoder, aam.SampleRegressor, aam.SampleClassifier]
PREDICTORS = ESTIMATORS[1:]
TINY = {
    "embedding_dim": 16,
    "attention_heads": 2,
    "attention_layers": 1,
    "epochs": 2,
    "batch_size": 16,
    "rarefy_depth": 150,
    "device": "cpu",
}
FAST = TINY | {"epochs": 1}


@pytest.fixture(scope="module")
def table(study_folder):
    """Counts, samples x ASVs."""
    read = read_tables([study_folder / "table.biom"])
    return pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids))


@pytest.fixture(scope="module")
def tree(study_folder):
    return study_folder / "tree.nwk"


@pytest.fixture(scope="module")
def metadata(study_folder):
    return read_metadata(study_folder / "metadata.tsv")


@pytest.fixture(scope="module")
def encoder(table, tree):
    return aam.SampleEncoder(**TINY).fit(table, tree=tree)


@pytest.fixture(scope="module")
def regressor(table, metadata):
    return aam.SampleRegressor(**TINY).fit(table, metadata["acidity"])


@pytest.fixture(scope="module")
def classifier(table, metadata):
    return aam.SampleClassifier(**TINY, stratify=True).fit(table, metadata["health"])


@pytest.fixture
def with_an_empty_sample(table):
    """Six samples in another order than in the study, the third without reads."""
    some = table.iloc[[30, 2, 7, 5, 21, 11]].copy()
    some.iloc[2] = 0
    return some


def _weights(estimator):
    model = estimator.trained_.predictor or estimator.trained_.encoder
    return model.state_dict()


def _assert_same_weights(one, other):
    torch.testing.assert_close(_weights(one), _weights(other), rtol=0, atol=0)


# the package


def test_importing_the_package_does_not_wait_for_the_heavy_libraries():
    code = "import sys, aam; print(sorted({'torch', 'pandas', 'sklearn', 'skbio', 'biom'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_names_of_the_package():
    assert set(aam.__all__) <= set(dir(aam))
    for name in aam.__all__:
        assert getattr(aam, name) is not None
    assert issubclass(aam.InputError, ValueError)
    with pytest.raises(AttributeError, match="nonsense"):
        aam.nonsense  # noqa: B018


def test_version_agrees_with_the_project():
    path = Path(aam.__file__).parent.parent / "pyproject.toml"
    assert tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] == aam.__version__


# parameters


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_defaults_are_those_of_the_command_line(kind):
    declared = PretrainConfig.options() | kind.config_type.options()
    parameters = kind().get_params(deep=False)
    beside = {"options", "output_dir", "encoder", "pretrain_epochs"}
    for name in parameters.keys() - beside:
        assert parameters[name] == declared[name][1].default, name
    assert parameters.get("pretrain_epochs", 50) == PretrainConfig.options()["epochs"][1].default


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_choices_are_those_of_the_command_line(kind):
    declared = PretrainConfig.options() | kind.config_type.options()
    hints = get_type_hints(kind)
    choices = {field.name: hints[field.name] for field in fields(kind) if get_origin(hints[field.name]) is Literal}
    assert "device" in choices
    for name, choice in choices.items():
        assert get_args(choice) == get_args(declared[name][1].annotation), name


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_tree_without_a_root_needs_the_choice(kind, table, tree, metadata):
    """Ends before training: the tips are of another table."""
    y = None if kind is aam.SampleEncoder else metadata["health" if kind is aam.SampleClassifier else "acidity"]
    for root, said in [
        ("error", "not rooted.*with root midpoint"),
        ("midpoint", "the tree has no tip"),
        ("as-is", "tip"),
    ]:
        with pytest.raises(aam.InputError, match=said):
            kind(**FAST, root=root).fit(table, y, tree="(a:1,b:1,c:1);")
    with pytest.raises(aam.InputError, match="root outgroup"):
        kind(**FAST, root="outgroup").fit(table, y, tree=tree)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_parameter_is_documented(kind):
    text = kind.__doc__ if kind is aam.SampleEncoder else aam.SampleEncoder.__doc__ + aam.SampleRegressor.__doc__
    for name in kind().get_params(deep=False):
        assert re.search(rf"^ +{name}: ", text + kind.__doc__, re.MULTILINE), name


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_mixin_order,
        estimator_checks.check_valid_tag_types,
    ],
)
def test_conventions_of_scikit_learn(kind, check):
    check(kind.__name__, kind())


def test_kinds():
    assert is_regressor(aam.SampleRegressor())
    assert is_classifier(aam.SampleClassifier())
    assert not is_regressor(aam.SampleEncoder())


def test_parameters_are_stored_as_given_and_checked_by_fit(table, tree):
    options = {"weight_decay": 0.5}
    model = aam.SampleEncoder(epochs=-3, options=options)
    assert model.epochs == -3
    assert model.options is options
    with pytest.raises(aam.InputError, match="epochs -3"):
        model.fit(table, tree=tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, "epochs has its own place"),
        ({"tree": "tree.nwk"}, "tree has its own place"),
        ({"metadata_column": "age"}, "metadata_column has its own place"),
        ({"wait_decay": 1}, "unknown option wait_decay"),
        ({"weight_decay": -1}, "weight_decay -1"),
    ],
)
def test_wrong_options(table, metadata, options, message):
    with pytest.raises(aam.InputError, match=message):
        aam.SampleRegressor(options=options).fit(table, metadata["acidity"])


def test_a_taxonomy_is_a_path_or_a_dataframe(table, study_folder, tmp_path):
    path = study_folder / "taxonomy.tsv"
    frame = pd.read_csv(path, sep="\t", index_col="Feature ID")
    fitted = [aam.SampleEncoder(**FAST, encoder_type="taxonomy").fit(table, taxonomy=given) for given in (path, frame)]
    _assert_same_weights(*fitted)
    assert "val/taxonomy_accuracy_genus" in fitted[0].history_
    fitted[0].save(tmp_path / "saved")
    again = aam.SampleEncoder.load(tmp_path / "saved")
    assert again.encoder_type == "taxonomy"
    _assert_same_weights(again, fitted[0])
    pd.testing.assert_frame_equal(again.embed(table), fitted[1].embed(table))


def test_a_taxonomy_and_what_learns_it_go_together(table, tree, study_folder):
    with pytest.raises(aam.InputError, match=r"encoder_type combined .*give taxonomy"):
        aam.SampleEncoder(**FAST, encoder_type="combined").fit(table, tree=tree)
    with pytest.raises(aam.InputError, match="nothing is learned from it"):
        aam.SampleEncoder(**FAST).fit(table, tree=tree, taxonomy=study_folder / "taxonomy.tsv")
    with pytest.raises(aam.InputError, match="no column 'Taxon'"):
        aam.SampleEncoder(**FAST, encoder_type="taxonomy").fit(table, taxonomy=pd.DataFrame({"x": [1]}, index=["a"]))


def test_options_reach_the_run(table, tree):
    options = {"nuc_mask_ratio": 0.3, "weight_decay": 0.5, "nucleotide_weight": 0.0}
    config = aam.SampleEncoder(**FAST, max_asvs=20, options=options).fit(table, tree=tree).trained_.config
    flat = config.flat()
    assert {name: flat[name] for name in options} == options
    assert {name: flat[name] for name in FAST} == FAST
    assert flat["max_asvs"] == 20


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("method", ["embed", "transform", "embed_asvs", "predict", "predict_proba", "predictions"])
def test_not_fitted(kind, method, table):
    if method in dir(kind):
        with pytest.raises(NotFittedError):
            getattr(kind(), method)(table)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_not_fitted_cannot_be_scored_or_saved(kind, table, metadata, tmp_path):
    with pytest.raises(NotFittedError):
        kind().save(tmp_path / "model")
    if kind is not aam.SampleEncoder:
        with pytest.raises(NotFittedError):
            kind().score(table, metadata["health"])


# the same functions as the command line


def test_encoder_learns_what_the_command_line_learns(encoder, study_folder, tmp_path):
    files = {"table": [study_folder / "table.biom"], "tree": study_folder / "tree.nwk"}
    pretrain(PretrainConfig.from_flat(TINY | files | {"output_dir": tmp_path / "run"}))
    _assert_same_weights(aam.SampleEncoder.load(tmp_path / "run"), encoder)


def test_regressor_learns_and_predicts_what_the_command_line_does(regressor, study_folder, tmp_path):
    inputs = {"table": [study_folder / "table.biom"], "metadata": study_folder / "metadata.tsv"}
    train(TrainConfig.from_flat(TINY | inputs | {"metadata_column": "acidity", "output_dir": tmp_path / "run"}))
    _assert_same_weights(aam.SampleRegressor.load(tmp_path / "run"), regressor)

    regressor.save(tmp_path / "saved")
    output = tmp_path / "predictions.tsv"
    predict(PredictConfig.from_flat({"checkpoint": tmp_path / "saved", "table": inputs["table"], "output": output}))
    written = pd.read_csv(output, sep="\t", index_col=0)
    given = regressor.predictions(study_folder / "table.biom")
    assert list(given.columns) == list(written.columns)
    # the command line writes what the sampling depth leaves out after the others
    np.testing.assert_allclose(given["prediction"], written["prediction"].loc[given.index], rtol=1e-5)


# inputs


def test_every_kind_of_table_gives_the_same(encoder, table, study_folder):
    expected = encoder.embed(table)
    short = {f"asv{i}": sequence for i, sequence in enumerate(table.columns)}
    renamed = table.set_axis(list(short), axis=1)
    counts = biom.Table(csr_matrix(table.to_numpy().T), list(short), list(table.index))
    for given, sequences in [
        (study_folder / "table.biom", None),
        (str(study_folder / "table.biom"), None),
        (renamed, short),
        (counts, short),
    ]:
        pd.testing.assert_frame_equal(encoder.embed(given, sequences=sequences), expected)
    with pytest.raises(aam.InputError, match="without a sequence"):
        encoder.embed(renamed)


def test_tables_and_trees_in_memory_are_learned_as_those_in_files(encoder, table, tree):
    counts = biom.Table(csr_matrix(table.to_numpy().T), list(table.columns), list(table.index))
    _assert_same_weights(aam.SampleEncoder(**TINY).fit(counts, tree=tree.read_text()), encoder)


def test_pretraining_needs_a_tree(table):
    with pytest.raises(aam.InputError, match="distances are learned from a tree"):
        aam.SampleEncoder(**FAST).fit(table)


def test_the_order_of_a_series_does_not_matter(regressor, table, metadata):
    shuffled = metadata["acidity"].sample(frac=1, random_state=1)
    assert list(shuffled.index) != list(table.index)
    _assert_same_weights(aam.SampleRegressor(**TINY).fit(table, shuffled), regressor)


def test_plain_values_go_with_the_rows_of_a_frame(regressor, table, metadata):
    values = metadata["acidity"].loc[table.index].tolist()
    _assert_same_weights(aam.SampleRegressor(**TINY).fit(table, values), regressor)


def test_numbered_targets_are_not_joined_by_position(table, metadata):
    with pytest.raises(aam.InputError, match="index of y must hold sample ids"):
        aam.SampleRegressor(**FAST).fit(table, metadata["acidity"].reset_index(drop=True))


def test_samples_without_a_target_are_left_out_and_counted(table, metadata):
    y = metadata["acidity"].copy()
    y.iloc[3] = np.nan
    y = y.drop(y.index[5])
    y["elsewhere"] = 7.0
    model = aam.SampleRegressor(**FAST).fit(table, y)
    reasons = model.left_out_.set_index("sample_id")["reason"]
    assert set(reasons.index) == {metadata.index[3], metadata.index[5]}
    assert reasons[metadata.index[3]] == "no value of acidity"


def test_a_wrong_target_is_refused_before_pretraining(table, tree, metadata, tmp_path):
    model = aam.SampleRegressor(**FAST, output_dir=tmp_path / "run")
    with pytest.raises(aam.InputError, match="'health' is not numeric"):
        model.fit(table, metadata["health"], tree=tree)
    assert not (tmp_path / "run").exists()


def test_groups_of_the_metadata_stay_on_one_side(table, metadata, tmp_path):
    options = {"group_column": "subject"}
    model = aam.SampleRegressor(**FAST, output_dir=tmp_path / "run", options=options)
    model.fit(table, metadata["acidity"], metadata=metadata)
    side = pd.read_csv(tmp_path / "run" / "split.tsv", sep="\t", index_col=0)["split"]
    assert set(side) == {"train", "val"}
    assert side.groupby(metadata["subject"]).nunique().max() == 1


# where results go


def test_nothing_is_left_behind_without_an_output_folder(table, tree, metadata, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    aam.SampleRegressor(**FAST, pretrain_epochs=1).fit(table, metadata["acidity"], tree=tree)
    with pytest.raises(aam.InputError, match="nothing to learn"):
        aam.SampleRegressor(**FAST).fit(table, pd.Series(1.0, index=table.index))
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_is_not_shared_by_two_runs(table, tree, tmp_path):
    model = aam.SampleEncoder(**FAST, output_dir=tmp_path / "run").fit(table, tree=tree)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(aam.InputError, match="not empty"):
        model.fit(table, tree=tree)
    model.set_params(options={"overwrite": True}).fit(table, tree=tree)


def test_history_has_every_validation(encoder):
    validations = encoder.history_.dropna(subset="val/loss")
    assert len(validations) == TINY["epochs"]
    assert validations["val/unifrac_loss"].notna().all()


# predictions


def test_rows_come_in_the_order_of_the_table(regressor, table):
    predicted = pd.Series(regressor.predict(table), index=table.index)
    assert predicted.notna().all()
    assert predicted.std() > 0
    backwards = table.iloc[::-1]
    np.testing.assert_allclose(regressor.predict(backwards), predicted[backwards.index], rtol=1e-5)


def test_samples_that_cannot_be_used_get_the_null_prediction(regressor, encoder, metadata, with_an_empty_sample):
    missing = [False, False, True, False, False, False]
    said = f"1 of 6 samples cannot be predicted and get the null prediction .*{with_an_empty_sample.index[2]}: no reads"
    with pytest.warns(UserWarning, match=said):
        values = regressor.predict(with_an_empty_sample)
    assert regressor.null_ == [metadata["acidity"].median()]
    assert (values == regressor.null_).tolist() == missing
    with pytest.warns(UserWarning, match=said):
        score = regressor.score(with_an_empty_sample, metadata["acidity"])
    assert score == r2_score(metadata["acidity"].loc[with_an_empty_sample.index], values)
    assert np.isnan(encoder.transform(with_an_empty_sample)).all(axis=1).tolist() == missing
    by_id = regressor.predictions(with_an_empty_sample)
    assert list(by_id.index) == list(with_an_empty_sample.index)
    assert by_id["note"].tolist() == ["", "", "no reads", "", "", ""]


def test_samples_that_cannot_be_used_get_the_frequencies_of_the_classes(classifier, metadata, with_an_empty_sample):
    name, said = with_an_empty_sample.index[2], "1 of 6 samples cannot be predicted and get the null prediction"
    frequencies = metadata["health"].value_counts(normalize=True)[classifier.classes_]
    with pytest.warns(UserWarning, match=said):
        probabilities = classifier.predict_proba(with_an_empty_sample)
    np.testing.assert_allclose(probabilities[2], frequencies)
    with pytest.warns(UserWarning, match=said):
        classes = classifier.predict(with_an_empty_sample)
    assert classes[2] == frequencies.idxmax()
    with pytest.warns(UserWarning, match=said):
        score = classifier.score(with_an_empty_sample, metadata["health"])
    assert score == (classes == metadata["health"].loc[with_an_empty_sample.index]).mean()
    by_id = classifier.predictions(with_an_empty_sample)
    assert by_id["prediction"].isna().tolist() == [False, False, True, False, False, False]
    assert len(classifier.predict(with_an_empty_sample.drop(index=name))) == 5


def test_a_table_without_a_usable_sample(regressor, classifier, table):
    with pytest.warns(UserWarning, match="2 of 2 samples cannot .* no sample is left: no reads"):
        assert regressor.predict(table.iloc[:2] * 0).tolist() == regressor.null_ * 2
    with pytest.warns(UserWarning, match="2 of 2 samples cannot"):
        assert classifier.predict_proba(table.iloc[:2] * 0).tolist() == [classifier.null_] * 2
    with pytest.raises(aam.InputError, match="no sample is left: no reads"):
        regressor.predictions(table.iloc[:2] * 0)


def test_score_is_over_samples_with_a_target(regressor, table, metadata, caplog):
    predicted = pd.Series(regressor.predict(table), index=table.index)
    y = metadata["acidity"].loc[table.index].iloc[:30]
    residual = ((y - predicted[y.index]) ** 2).sum()
    expected = 1 - residual / ((y - y.mean()) ** 2).sum()
    assert regressor.score(table, y.sample(frac=1, random_state=2)) == pytest.approx(expected)
    assert "scored 30 of 40 samples" in caplog.text
    with pytest.raises(aam.InputError, match="no value for any"):
        regressor.score(table, y.rename(index=lambda name: name + "x"))


def test_accuracy(classifier, table, metadata):
    right = classifier.predict(table) == metadata["health"].loc[table.index]
    assert classifier.score(table, metadata["health"]) == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("classes", "kind"),
    [([2, 10], int), ([False, True], bool), ([0.5, 1.0], float), (["no", "yes"], str)],
)
def test_classes_come_back_as_they_were(table, metadata, tmp_path, classes, kind):
    sick = metadata["health"].loc[table.index] == "sick"
    y = sick.map({False: classes[0], True: classes[1]})
    model = aam.SampleClassifier(**FAST).fit(table, y)
    assert model.classes_.tolist() == classes
    probabilities = model.predict_proba(table)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = model.predict(table)
    assert all(isinstance(label, kind) for label in predicted.tolist())
    assert predicted.tolist() == [classes[i] for i in probabilities.argmax(axis=1)]
    by_id = model.predictions(table)
    assert by_id["prediction"].tolist() == [str(int(p) if p == 1.0 and kind is float else p) for p in predicted]
    model.save(tmp_path / "model")
    again = aam.SampleClassifier.load(tmp_path / "model")
    assert again.classes_.tolist() == classes
    assert again.predict(table).tolist() == predicted.tolist()
    assert again.score(table, y) == model.score(table, y)


def test_classes_of_the_command_line_are_text(study_folder, table, tmp_path):
    inputs = {"table": [study_folder / "table.biom"], "metadata": study_folder / "metadata.tsv"}
    target = {"metadata_column": "habitat", "classifier": True, "output_dir": tmp_path / "run"}
    train(TrainConfig.from_flat(FAST | inputs | target))
    model = aam.SampleClassifier.load(tmp_path / "run")
    assert model.classes_.tolist() == ["gut", "oral", "skin"]
    assert set(model.predict(table)) <= {"gut", "oral", "skin"}


# saving


def test_saved_encoder(encoder, table, tmp_path):
    encoder.save(tmp_path / "model")
    again = aam.SampleEncoder.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.embed(table), encoder.embed(table))
    pd.testing.assert_frame_equal(again.embed_asvs(table), encoder.embed_asvs(table))
    assert {name: again.get_params()[name] for name in TINY} == TINY
    with pytest.raises(aam.InputError, match="exists already"):
        encoder.save(tmp_path / "model")


def test_saved_regressor_keeps_options(table, metadata, tmp_path):
    options = {"weight_decay": 0.5, "max_bp": 20, "regressor_hidden_dims": (8,)}
    model = aam.SampleRegressor(**FAST, target_transform="minmax", options=options).fit(table, metadata["acidity"])
    model.save(tmp_path / "model")
    again = aam.SampleRegressor.load(tmp_path / "model")
    read = FAST["embedding_dim"] + ASV_FEATURES
    settled = {"lr": pytest.approx(3e-3 * (64 / read) ** 0.5), "freeze_base": True}
    settled["options"] = options | {"asv_features": ASV_FEATURES}
    assert again.get_params() == model.get_params() | settled
    assert again.predict(table).tolist() == model.predict(table).tolist()
    _assert_same_weights(clone(again).fit(table, metadata["acidity"]), model)


def test_models_of_another_kind_are_refused(encoder, regressor, classifier, tmp_path):
    for model in (encoder, regressor, classifier):
        path = tmp_path / model.kind
        model.save(path)
        for other in ESTIMATORS:
            if not isinstance(model, other):
                with pytest.raises(aam.InputError, match=f"use aam.{model.kind}.load"):
                    other.load(path)
    with pytest.raises(aam.InputError, match="no such folder"):
        aam.SampleEncoder.load(tmp_path / "nowhere")


def test_a_saved_model_holds_no_pickle(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()} == {".json", ".safetensors"}
    assert json.loads((tmp_path / "model" / "labels.json").read_text()) == ["healthy", "sick"]


def test_other_processes_can_use_a_fitted_model(regressor, table):
    """joblib, for instance, pickles what it hands to them."""
    again = pickle.loads(pickle.dumps(regressor))
    assert again.predict(table).tolist() == regressor.predict(table).tolist()


# starting from an encoder


def test_a_fitted_encoder_is_where_training_starts(encoder, table, metadata, tmp_path):
    encoder.save(tmp_path / "encoder")
    fitted = aam.SampleRegressor(**FAST, encoder=encoder, freeze_base=True).fit(table, metadata["acidity"])
    by_path = aam.SampleRegressor(**FAST, encoder=tmp_path / "encoder", freeze_base=True)
    _assert_same_weights(by_path.fit(table, metadata["acidity"]), fitted)
    frozen = fitted.trained_.encoder.state_dict()
    for name, value in _weights(encoder).items():
        torch.testing.assert_close(frozen[name], value, rtol=0, atol=0)
    # the frozen encoder embeds samples as before
    pd.testing.assert_frame_equal(fitted.embed(table), encoder.embed(table))


def test_the_encoder_fixes_the_shape(encoder, table, metadata):
    model = aam.SampleRegressor(encoder=encoder, epochs=1, rarefy_depth=150).fit(table, metadata["acidity"])
    assert model.trained_.config.model.embedding_dim == TINY["embedding_dim"]
    with pytest.raises(aam.InputError, match="embedding_dim 32"):
        aam.SampleRegressor(encoder=encoder, epochs=1, embedding_dim=32).fit(table, metadata["acidity"])


def test_a_loaded_encoder_still_knows_its_training_samples(encoder, table, metadata, tmp_path, caplog):
    encoder.save(tmp_path / "encoder")
    again = aam.SampleEncoder.load(tmp_path / "encoder")
    for seed, seen in ((encoder.seed, False), (encoder.seed + 1, True)):
        caplog.clear()
        aam.SampleRegressor(**FAST, encoder=again, seed=seed).fit(table, metadata["acidity"])
        assert ("without labels" in caplog.text) == seen


def test_a_matrix_and_a_tree_are_not_given_together(table, tree, tmp_path):
    model = aam.SampleEncoder(**FAST, options={"unifrac_matrix": tmp_path / "d.tsv"})
    with pytest.raises(aam.InputError, match="unifrac_matrix or from tree: give one"):
        model.fit(table, tree=tree)


def test_an_encoder_must_be_fitted(table, metadata):
    with pytest.raises(NotFittedError):
        aam.SampleRegressor(encoder=aam.SampleEncoder(**FAST), epochs=1).fit(table, metadata["acidity"])


@pytest.mark.parametrize("kind", PREDICTORS)
def test_cloning_keeps_the_encoder_fitted(kind, encoder):
    model = clone(kind(encoder=encoder, epochs=3))
    assert model.encoder is encoder
    assert model.epochs == 3
    with pytest.raises(NotFittedError):
        clone(encoder).save("anywhere")


def test_fit_with_a_tree_pretrains_first(encoder, table, tree, metadata, tmp_path):
    y = metadata["acidity"].drop(metadata.index[:3])
    two_steps = aam.SampleRegressor(**FAST, encoder=encoder).fit(table, y)
    one_step = aam.SampleRegressor(**FAST, pretrain_epochs=TINY["epochs"], output_dir=tmp_path / "run")
    one_step.fit(table, y, tree=tree)
    _assert_same_weights(one_step, two_steps)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["pretrain", "train"]
    _assert_same_weights(aam.SampleEncoder.load(tmp_path / "run" / "pretrain"), encoder)


def test_options_for_targets_do_not_stop_pretraining(table, tree, metadata):
    options = {"best_metric": "val/accuracy", "weight_decay": 0.5}
    model = aam.SampleClassifier(**FAST, pretrain_epochs=1, stratify=True, options=options)
    assert model.fit(table, metadata["health"], tree=tree).trained_.config.optim.best_metric == "val/accuracy"


def test_augmentation_comes_with_the_options(table, metadata, classifier, tmp_path):
    options = {"asv_dropout": 0.2, "depth_jitter": 0.3, "sequence_noise": 0.05, "mix_samples": 0.5}
    model = aam.SampleClassifier(**TINY, stratify=True, options=options).fit(table, metadata["health"])
    assert model.trained_.config.augmentation.model_dump() == options
    assert not np.allclose(model.predict_proba(table), classifier.predict_proba(table))
    model.save(tmp_path / "model")
    again = aam.SampleClassifier.load(tmp_path / "model")
    assert again.options == options | {"max_bp": 30, "asv_features": 0}
    np.testing.assert_array_equal(again.predict_proba(table), model.predict_proba(table))


# scikit-learn's tools


def test_cross_validation(encoder, table, metadata):
    y = metadata.loc[table.index]
    regressor = aam.SampleRegressor(**FAST, encoder=encoder)
    scores = cross_val_score(regressor, table, y["acidity"], cv=2, error_score="raise")
    assert np.isfinite(scores).all()
    by_array = cross_val_score(regressor, table, y["acidity"].to_numpy(), cv=2, error_score="raise")
    np.testing.assert_allclose(by_array, scores)
    classifier = aam.SampleClassifier(**FAST)
    auc = cross_val_score(classifier, table, y["health"], cv=2, scoring="roc_auc", error_score="raise")
    assert ((auc >= 0) & (auc <= 1)).all()
    probabilities = cross_val_predict(classifier, table, y["habitat"], cv=2, method="predict_proba")
    assert probabilities.shape == (len(table), 3)


def test_cross_validation_hands_on_the_metadata_of_groups(table, metadata):
    y, options = metadata.loc[table.index], {"group_column": "subject"}
    for model, target in ((aam.SampleRegressor, "acidity"), (aam.SampleClassifier, "health")):
        scores = cross_val_score(
            model(**FAST, options=options),
            table,
            y[target],
            groups=y["subject"],
            cv=GroupKFold(2),
            params={"metadata": y},
            error_score="raise",
        )
        assert np.isfinite(scores).all()


def test_a_parameter_of_before_is_refused_with_its_new_name():
    for model in (aam.SampleEncoder, aam.SampleRegressor, aam.SampleClassifier):
        with pytest.raises(aam.InputError, match="test_size is now called val_fraction"):
            model(test_size=0.3)


def test_embeddings_as_a_frame(encoder, table):
    as_frame = copy(encoder).set_output(transform="pandas")
    pd.testing.assert_frame_equal(as_frame.transform(table), encoder.embed(table), check_names=False)


@pytest.fixture(scope="module")
def gaps(metadata):
    """Two numbers, each of which some samples lack."""
    y = metadata[["acidity", "day"]].copy()
    y.loc[y.index[::4], "acidity"] = np.nan
    y.loc[y.index[1::4], "day"] = np.nan
    return y


@pytest.fixture(scope="module")
def of_several(table, gaps):
    options = {"quantiles": (0.1, 0.5, 0.9)}
    losses = "acidity=quantile,day=mse"
    return aam.SampleRegressor(**FAST, target_loss=losses, output_activation="softplus", options=options).fit(
        table, gaps
    )


def test_a_frame_of_numbers_is_learned_as_the_command_line_does(of_several, gaps, table, study_folder, tmp_path):
    metadata = read_metadata(study_folder / "metadata.tsv").drop(columns=list(gaps)).join(gaps)
    metadata.to_csv(tmp_path / "metadata.tsv", sep="\t")
    options = {
        "table": (study_folder / "table.biom",),
        "metadata": tmp_path / "metadata.tsv",
        "metadata_column": "acidity,day",
        "target_loss": "acidity=quantile,day=mse",
        "output_activation": "softplus",
        "output_dir": tmp_path / "run",
    }
    train(TrainConfig.from_flat(FAST | options))
    predict(
        PredictConfig.from_flat(
            {"checkpoint": tmp_path / "run", "table": options["table"], "output": tmp_path / "p.tsv", "device": "cpu"}
        )
    )
    written = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col=0).drop(columns=["unlike", "why", "note"])
    own = of_several.predictions(table).drop(columns=["unlike", "why", "note"])
    assert list(own) == list(written)
    assert next(iter(own)) == "prediction_acidity"
    assert list(own)[-1] == "prediction_day"
    assert own.loc[written.index].to_numpy(float) == pytest.approx(written.to_numpy(float), rel=1e-4)
    assert (own.to_numpy(float) >= 0).all()


def test_several_numbers_are_predicted_side_by_side(of_several, table, gaps):
    predicted = of_several.predict(table)
    assert predicted.shape == (len(table), 2)
    both = gaps.notna().all(axis=1).reindex(table.index)
    expected = r2_score(gaps.reindex(table.index)[both], predicted[both.to_numpy()])
    assert of_several.score(table, gaps) == pytest.approx(expected)


def test_a_model_of_several_numbers_is_saved_whole(of_several, table, tmp_path):
    of_several.save(tmp_path / "model")
    again = aam.SampleRegressor.load(tmp_path / "model")
    assert np.array_equal(again.predict(table), of_several.predict(table))
    assert again.trained_.targets == of_several.trained_.targets
    assert tuple(again.target_loss) == ("acidity=quantile", "day=mse")


def test_only_samples_without_any_of_the_numbers_are_left_out(table, gaps):
    y = gaps.copy()
    y.iloc[:3] = np.nan
    fitted = aam.SampleRegressor(**FAST).fit(table, y)
    assert set(fitted.left_out_["sample_id"]) == set(y.index[:3])


def test_predictions_read_the_metadata_that_scales_them(table, metadata):
    model = aam.SampleRegressor(**FAST, options={"normalize_by": "region"}).fit(
        table, metadata["acidity"], metadata=metadata
    )
    with pytest.raises(aam.InputError, match=r"the model reads columns of the metadata \(region\): give metadata"):
        model.predict(table)
    one, other = (model.predict(table, metadata=frame) for frame in (metadata, metadata.assign(region="coast")))
    on_the_coast = (metadata["region"].reindex(table.index) == "coast").to_numpy()
    assert np.array_equal(one[on_the_coast], other[on_the_coast])
    assert (one[~on_the_coast] != other[~on_the_coast]).all()
    assert model.score(table, metadata["acidity"], metadata=metadata) == pytest.approx(
        r2_score(metadata["acidity"].reindex(table.index), one)
    )


def test_classes_of_several_columns_are_refused(table, metadata):
    with pytest.raises(aam.InputError, match="classifier predicts one column"):
        aam.SampleClassifier(**FAST).fit(table, metadata[["habitat", "health"]])


@pytest.mark.parametrize(
    "options", [{"categorical_columns": "sitee"}, {"categorical_columns": "site", "categorical_hierarchy": "site=x"}]
)
def test_wrong_columns_are_found_before_pretraining(table, tree, metadata, options, tmp_path):
    model = aam.SampleRegressor(**TINY, output_dir=tmp_path / "run", options=options)
    with pytest.raises(aam.InputError, match="no column"):
        model.fit(table, metadata["acidity"], tree=tree, metadata=metadata)
    assert not (tmp_path / "run").exists()

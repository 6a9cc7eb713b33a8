"""Learners besides the network in the objects for notebooks."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score

import aam
from aam.config import PredictConfig, TrainConfig
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.errors import InputError
from aam.workflows.predict import predict
from aam.workflows.train import train

LEARNERS = ["forest", "clades", "kernel", "linear", "ensemble"]
SMALL = {"forest": {"trees": 5}, "clades": {"trees": 5}, "ensemble": {"trees": 5, "ensemble_members": "clades,linear"}}
TINY = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "epochs": 1, "batch_size": 16}


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
def clades(table, tree, metadata):
    model = aam.SampleRegressor(learner="clades", rarefy_depth=150, options={"trees": 5, "group_column": "subject"})
    return model.fit(table, metadata["acidity"], tree=tree, metadata=metadata)


def options_of(learner):
    return {"group_column": "subject", **SMALL.get(learner, {})}


@pytest.mark.parametrize("learner", LEARNERS)
def test_numbers(learner, table, tree, metadata, tmp_path):
    y = metadata["acidity"]
    model = aam.SampleRegressor(learner=learner, options=options_of(learner))
    model.fit(table, y, tree=tree, metadata=metadata)
    values = model.predict(table)
    assert values.shape == (40,)
    by_id = model.predictions(table)
    assert list(by_id.index) == list(table.index)
    assert {"prediction", "reads_lost", "note"} <= set(by_id)
    assert model.score(table, y) == pytest.approx(r2_score(y.loc[table.index], values))
    model.save(tmp_path / "saved")
    again = aam.SampleRegressor.load(tmp_path / "saved")
    assert again.learner == learner
    np.testing.assert_array_equal(again.predict(table.iloc[::-1]), values[::-1])
    ends = model.predict_interval(table, level=0.8)
    assert ends.shape == (40, 2)
    assert (ends[:, 0] < values).all()
    assert (values < ends[:, 1]).all()
    assert np.isfinite(ends).all()
    np.testing.assert_array_equal(again.predict_interval(table.iloc[::-1], level=0.8), ends[::-1])
    assert np.isinf(model.predict_interval(table, level=0.9)).all()  # of at most eight subjects


@pytest.mark.parametrize("learner", LEARNERS)
def test_classes(learner, table, tree, metadata, tmp_path):
    y = metadata["habitat"].astype("category").cat.codes + 3
    model = aam.SampleClassifier(learner=learner, class_weights="balanced", options=options_of(learner))
    model.fit(table, y, tree=tree, metadata=metadata)
    probabilities = model.predict_proba(table)
    assert probabilities.shape == (40, len(model.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert list(model.classes_) == sorted(set(y))
    np.testing.assert_array_equal(model.predict(table), model.classes_[probabilities.argmax(axis=1)])
    assert 0 <= model.score(table, y) <= 1
    sets = model.predict_set(table, level=0.8)
    assert sets.shape == probabilities.shape
    assert sets[np.arange(40), probabilities.argmax(axis=1)].all()
    assert model.predict_set(table, level=0.9).all()  # of at most eight subjects
    model.save(tmp_path / "saved")
    again = aam.SampleClassifier.load(tmp_path / "saved")
    assert again.class_weights == "balanced"
    np.testing.assert_array_equal(again.classes_, model.classes_)
    np.testing.assert_array_equal(again.predict_proba(table), probabilities)
    np.testing.assert_array_equal(again.predict_set(table, level=0.8), sets)


@pytest.mark.parametrize("level", [0, 1, 90, -0.5, float("nan")])
def test_a_level_is_a_probability(clades, table, level):
    with pytest.raises(InputError, match="between 0 and 1, such as 0"):
        clades.predict_interval(table, level=level)


def test_the_network_has_no_intervals(table, metadata):
    model = aam.SampleRegressor(**TINY).fit(table, metadata["acidity"])
    with pytest.raises(InputError, match="the network keeps none: train another learner"):
        model.predict_interval(table)


def test_what_the_command_line_does(clades, study_folder, tmp_path):
    inputs = {"table": [study_folder / "table.biom"], "metadata": study_folder / "metadata.tsv"}
    asked = {"metadata_column": "acidity", "learner": "clades", "trees": 5, "rarefy_depth": 150}
    asked |= {"tree": study_folder / "tree.nwk", "group_column": "subject", "output_dir": tmp_path / "run"}
    train(TrainConfig.from_flat(inputs | asked))
    again = aam.SampleRegressor.load(tmp_path / "run")
    assert (again.learner, again.rarefy_depth) == ("clades", 150)
    assert again.options == {"trees": 5, "group_column": "subject"}
    clades.save(tmp_path / "saved")
    output = tmp_path / "p.tsv"
    predict(PredictConfig.from_flat({"checkpoint": tmp_path / "saved", "table": inputs["table"], "output": output}))
    given = clades.predictions(study_folder / "table.biom")
    written = pd.read_csv(output, sep="\t", index_col=0).loc[given.index]
    for values in (written["prediction"], again.predictions(study_folder / "table.biom")["prediction"]):
        np.testing.assert_allclose(given["prediction"], values, rtol=1e-6)


def test_the_automatic_depth(table, tree, metadata):
    model = aam.SampleRegressor(learner="clades", rarefy_depth="auto", options={"trees": 5})
    model.fit(table, metadata["acidity"], tree=tree)
    reads = table.sum(axis=1).sort_values()
    assert model.trained_.spec.rarefaction.depth == reads.iloc[2]
    with pytest.raises(aam.InputError, match="rarefy_depth auto is of other learners"):
        aam.SampleRegressor(rarefy_depth="auto").fit(table, metadata["acidity"])


def test_samples_that_cannot_be_used_have_a_reason(clades, table):
    some = table.iloc[[30, 2, 7]].copy()
    some.iloc[1] = 0
    with pytest.warns(UserWarning, match="1 of 3 samples cannot be predicted and get the null prediction"):
        values = clades.predict(some)
    assert (values == clades.null_).tolist() == [False, True, False]
    assert clades.predictions(some)["note"].iloc[1] == "no reads"


def test_conventions_of_scikit_learn(clades, table, metadata):
    fresh = clone(clades)
    assert fresh.get_params() == clades.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(table)
    assert aam.SampleRegressor().learner == aam.SampleClassifier().learner == "neural"
    model = aam.SampleRegressor(learner="forest", options={"trees": 5})
    assert len(cross_val_score(model, table, metadata["acidity"].loc[table.index], cv=2)) == 2


def test_only_the_network_embeds(clades, table):
    with pytest.raises(aam.InputError, match="a learner of the kind clades, which has no embeddings"):
        clades.embed(table)


def test_a_learner_is_loaded_by_the_estimator_of_its_task(clades, tmp_path):
    clades.save(tmp_path / "saved")
    for kind in (aam.SampleClassifier, aam.SampleEncoder):
        with pytest.raises(aam.InputError, match=r"use aam\.SampleRegressor\.load"):
            kind.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"epochs": 3}, "epochs 3 only has an effect with another learner than forest"),
        ({"embedding_dim": 8}, "embedding_dim 8 only has an effect"),
        ({"encoder": "pretrained"}, "encoder pretrained only has an effect"),
        ({"pretrain_epochs": 3}, 'pretrain_epochs 3 only has an effect with learner="neural"'),
        ({"options": {"kernel_steps": 3}}, "kernel_steps 3 only has an effect"),
        ({"learner": "clades"}, "give tree"),
        ({"learner": "wood"}, "learner wood"),
    ],
)
def test_parameters_of_another_learner_are_refused(table, metadata, parameters, said, tmp_path):
    model = aam.SampleRegressor(**{"learner": "forest", "output_dir": tmp_path / "out", **parameters})
    with pytest.raises(aam.InputError, match=said):
        model.fit(table, metadata["acidity"])
    assert not (tmp_path / "out").exists()


def test_an_ensemble_with_the_network_starts_from_an_encoder(table, tree, metadata, tmp_path):
    encoder = aam.SampleEncoder(**TINY, device="cpu").fit(table, tree=tree)
    options = {"ensemble_members": "linear,neural", "min_steps": 0}
    model = aam.SampleRegressor(
        learner="ensemble", encoder=encoder, epochs=1, batch_size=16, device="cpu", options=options
    )
    model.fit(table, metadata["acidity"], tree=tree)
    model.save(tmp_path / "saved")
    again = aam.SampleRegressor.load(tmp_path / "saved")
    assert again.epochs == 1
    np.testing.assert_array_equal(again.predict(table), model.predict(table))


def test_several_targets(table, metadata):
    y = metadata[["acidity", "day"]].astype(float)
    model = aam.SampleRegressor(learner="linear").fit(table, y)
    assert model.predict(table).shape == (40, 2)
    assert np.isfinite(model.score(table, y))

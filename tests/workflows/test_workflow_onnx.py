"""Exported models predict as their checkpoints do; skipped where the libraries of aam[onnx] are not installed."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

from aam.config import (
    ExportConfig,
    InputConfig,
    LearnersConfig,
    PredictConfig,
    PretrainConfig,
    SamplingConfig,
    TargetConfig,
    TreesConfig,
    UnifracConfig,
)
from aam.data.files.tables import FeatureTable
from aam.data.study import Study, load_study
from aam.learners.base import Labels
from aam.learners.kernel_sources import wanted_columns
from aam.learners.rarefied import Rarefaction
from aam.learners.reference import Reference
from aam.learners.registry import make_learner
from aam.learners.storage import LearnerSpec, TrainedLearner, load_learner, save_learner
from aam.learners.unseen import fit_calibrated
from aam.training.distributed import World
from aam.training.machine.compute import Compute
from aam.workflows.embed import embed_study
from aam.workflows.export import export
from aam.workflows.onnx.model_file import read_model
from aam.workflows.onnx.names import EMBEDDING, SCALED
from aam.workflows.onnx.predict import apply_network, learner_of_model, predict_by_onnx
from aam.workflows.predict import predict
from aam.workflows.predict_network import predict_study
from aam.workflows.pretrain import pretrain
from aam.workflows.restore import restore

ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"needs {', '.join(ABSENT)}: pip install 'aam[onnx]'")
NAMES = ("null", "depth", "linear", "forest", "clades", "kernel", "ensemble")
CONFIG = LearnersConfig(trees=TreesConfig(trees=20))


@pytest.fixture(scope="module")
def study(study_folder) -> Study:
    inputs = InputConfig(
        table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk", metadata=study_folder / "metadata.tsv"
    )
    return load_study(inputs, SamplingConfig(), UnifracConfig())


def fitted(name: str, study: Study, rows=slice(0, 30), column="acidity", **rarefaction) -> TrainedLearner:
    config = TargetConfig(metadata_column=(column,), classifier=column != "acidity")
    labels = Labels(study.metadata[[column]], config, study.metadata["subject"].to_numpy(str))
    places = np.arange(study.table.n_samples)[rows]
    spec = LearnerSpec(learner=name, training=[], rarefaction=Rarefaction(**rarefaction))
    return TrainedLearner(
        spec, fit_calibrated(make_learner(name, CONFIG), study, places, labels, 0), Reference.of(study)
    )


def exported(run, path):
    export(ExportConfig.from_flat({"run": run, "output": path}))
    return path


def by_onnx(path, folder, **more) -> pd.DataFrame:
    files = {"table": (folder / "table.biom",), "metadata": folder / "metadata.tsv", "output": "unused.tsv"}
    return predict_by_onnx(PredictConfig.from_flat({"onnx": path, **files, **more}))[0]


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, atol=1e-7) -> None:
    """To rounding: a kernel takes the root of the squared distance of equal samples, 0 but for the last bits."""
    assert len(found)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=0, atol=atol)


@pytest.mark.parametrize("column", ["acidity", "habitat"])
@pytest.mark.parametrize("name", NAMES)
def test_learners_predict_as_their_checkpoints(name, column, study, study_folder, tmp_path):
    trained = fitted(name, study, column=column)
    save_learner(trained, tmp_path / "run")
    level = None if trained.fitted.solutions[0].conformity is None else 0.7
    expected, _ = trained.predict(study, None, level)
    assert name == "null" or expected.filter(regex="prediction|probability").nunique().max() > 1
    more = {} if level is None else {"interval": level}
    path = exported(tmp_path / "run", tmp_path / "m.onnx")
    assert_same(by_onnx(path, study_folder, batch_size=7, **more), expected)


@pytest.mark.parametrize("name", ["clades", "kernel", "linear"])
def test_other_asvs_and_another_order_of_them_change_no_prediction(name, study, study_folder, tmp_path):
    """The model knows half of the samples' ASVs; two samples hold none of those."""
    half = replace(study, table=study.table.select_samples(np.arange(20)), metadata=study.metadata.iloc[:20])
    held = np.flatnonzero(half.table.asv_reads)
    reference = Reference(*(tuple(np.array(each)[held]) for each in (study.table.asv_ids, study.table.sequences)), None)
    known = reference.align(replace(half, tree=None)) if name != "clades" else half
    trained = fitted(name, known, rows=slice(0, 16))
    save_learner(trained, tmp_path / "run")
    order = np.random.default_rng(3).permutation(study.table.n_asvs)
    table = study.table.select_asvs(order)
    other = replace(study, table=FeatureTable(*_as_parts(table)), tree=None)
    expected, _ = trained.predict(other)
    model = read_model(exported(tmp_path / "run", tmp_path / "m.onnx"))
    assert_same(learner_of_model(model, 5).predict(other)[0], expected)


def _as_parts(table: FeatureTable) -> tuple:
    return table.counts, table.sample_ids, table.asv_ids, table.sequences


def test_means_over_draws_of_reads_are_those_of_the_checkpoint(study, study_folder, tmp_path):
    trained = fitted("kernel", study, depth=160, draws=3)
    save_learner(trained, tmp_path / "run")
    path = exported(tmp_path / "run", tmp_path / "m.onnx")
    expected, used = trained.predict(study)
    assert len(used.left_out)
    assert_same(by_onnx(path, study_folder), expected)


def test_kernels_that_read_more_than_asvs_are_refused(study, tmp_path):
    options = LearnersConfig.from_flat({"numeric_columns": "day"})
    learner = make_learner("kernel", CONFIG.model_copy(update={"kernel": options.kernel}))
    learner = type(learner)(options.kernel, wanted_columns(options))
    labels = Labels(study.metadata[["acidity"]], TargetConfig(metadata_column=("acidity",)))
    solutions = learner.fit(study, np.arange(30), labels, 0)
    spec = LearnerSpec(learner="kernel", training=[])
    save_learner(TrainedLearner(spec, solutions, Reference.of(study)), tmp_path / "run")
    with pytest.raises(ValueError, match="reads more than ASVs"):
        exported(tmp_path / "run", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_trees_of_one_leaf_are_exported(study, study_folder, tmp_path):
    """Constant trees, as of a column that no feature divides."""
    trained = fitted("depth", study, rows=slice(0, 6))
    forest = trained.fitted.solutions[0].forest
    assert (forest.left[forest.root] == -1).any()
    save_learner(trained, tmp_path / "run")
    assert_same(by_onnx(exported(tmp_path / "run", tmp_path / "m.onnx"), study_folder), trained.predict(study)[0])


@pytest.mark.slow
def test_the_network_predicts_as_its_checkpoint(attentive, study_folder, tmp_path):
    """Quantiles, categories that ASVs attend to, scales of their own, and reads that are drawn."""
    path = exported(attentive, tmp_path / "m.onnx")
    trained = restore(attentive)
    inputs = InputConfig(table=(study_folder / "table.biom",), metadata=study_folder / "metadata.tsv")
    study = load_study(inputs, trained.config.sampling)
    expected = predict_study(trained, study, 8, Compute(World(torch.device("cpu"))))
    for size in (1, 7, 32):
        found = by_onnx(path, study_folder, batch_size=size)
        assert_same(found[expected.columns], expected, atol=1e-5)
    outputs = [tmp_path / "checkpoint.tsv", tmp_path / "onnx.tsv"]
    files = {"table": inputs.table, "metadata": inputs.metadata}
    predict(PredictConfig.from_flat({"checkpoint": attentive, **files, "output": outputs[0], "device": "cpu"}))
    predict(PredictConfig.from_flat({"onnx": path, **files, "output": outputs[1]}))
    written = [pd.read_csv(output, sep="\t", index_col="sample_id") for output in outputs]
    pd.testing.assert_frame_equal(*written, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["attention", "clades"])
def test_an_encoder_embeds_as_its_checkpoint(level, pretrain_options, study_folder, tmp_path):
    options = {"epochs": 1} | ({"sample_level": "clades", "learned_clades": 16} if level == "clades" else {})
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "run", **options)))
    model = read_model(exported(tmp_path / "run", tmp_path / "m.onnx"))
    trained = restore(tmp_path / "run")
    study = load_study(InputConfig(table=(study_folder / "table.biom",)), trained.config.sampling)
    embedding, scaled = apply_network(model, [EMBEDDING, SCALED], trained, study, 9)
    expected = embed_study(trained, study, 16, Compute(World(torch.device("cpu")))).to_numpy()
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        z = trained.encoder.scale(torch.tensor(expected)).numpy()
    np.testing.assert_allclose(scaled, z, rtol=1e-4, atol=1e-5)


def test_the_file_says_what_its_checkpoint_says(study, tmp_path):
    trained = fitted("clades", study, column="habitat")
    save_learner(trained, tmp_path / "run")
    path = exported(tmp_path / "run", tmp_path / "m.onnx")
    model = read_model(path)
    checkpoint = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (model.kind, model.config) == ("learner", checkpoint)
    assert model.documents["asvs"]["sequences"] == list(study.table.sequences)
    assert json.loads(model.documents["targets"][0]["classes"])["classes"] == sorted(set(study.metadata["habitat"]))
    again = exported(tmp_path / "run", tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()
    assert load_learner(tmp_path / "run").name == "clades"

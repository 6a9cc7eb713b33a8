"""Contributions of ASVs: they add up, are what they should be where that is known, and depend on nothing else."""

from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor

from aam.config import InputConfig, LearnersConfig, SamplingConfig, TargetConfig, UnifracConfig
from aam.data.labels.target_table import target_values
from aam.data.study import load_study
from aam.errors import InputError
from aam.interpret import tree_shap
from aam.interpret.contributions import Contributions, contributions, through_calibration
from aam.interpret.kernel_paths import Bundle, Line, Model, Path, _of_metadata
from aam.learners.base import Labels, Solution
from aam.learners.calibration import Calibration
from aam.learners.kernel_sources import Numeric
from aam.learners.registry import make_learner
from aam.learners.simple import DepthLearner
from aam.learners.trees import as_arrays

pytest.importorskip("captum", reason="captum: pip install 'aam[explain]'")
pytest.importorskip("shap", reason="shap: pip install 'aam[explain]'")

LEARNERS = ("linear", "forest", "clades", "kernel", "ensemble")
BACKGROUND = np.array([0, 5, 11])
OPTIONS = {"trees": 20, "categorical_columns": "site", "numeric_columns": "day"}


@pytest.fixture(scope="module")
def study(study_folder):
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    inputs = InputConfig(**files, tree=study_folder / "tree.nwk")
    return load_study(inputs, SamplingConfig(), UnifracConfig())


@pytest.fixture(scope="module")
def solve(study):
    """Fit a learner to a column, on the first 30 samples."""
    done: dict[tuple[str, str], Solution] = {}

    def fit(name: str, column: str) -> Solution:
        if (name, column) not in done:
            target = TargetConfig(metadata_column=(column,), classifier=column != "acidity")
            labels = Labels(target_values(study.metadata, target), target)
            learner = make_learner(name, LearnersConfig.from_flat(OPTIONS))
            done[name, column] = learner.fit(study, np.arange(30), labels, seed=1).solutions[0]
        return done[name, column]

    return fit


@pytest.mark.parametrize("column", ["acidity", "health", "habitat"])
@pytest.mark.parametrize("name", LEARNERS)
def test_they_add_up_to_the_prediction_minus_the_baseline(name, column, solve, study):
    solution = solve(name, column)
    for row in (3, 33, 38):  # a training sample and two others
        found = contributions(solution, study, row, BACKGROUND).mean()
        assert found.explained == pytest.approx(np.ravel(solution.predict(study, np.array([row])).value), abs=1e-12)
        # the learned scale has standard deviation 1, and a probability one of at most 1/2
        assert np.abs(found.gap).max() < 5e-5
        assert np.abs(found.value).sum() > 1e-2


@pytest.mark.parametrize("name", ["linear", "forest", "clades"])
def test_the_baseline_is_the_mean_prediction_for_the_others(name, solve, study):
    solution = solve(name, "acidity")
    found = contributions(solution, study, 33, BACKGROUND).mean()
    assert found.baseline[0, 0] == pytest.approx(solution.predict(study, BACKGROUND).value.mean(), abs=1e-12)


def test_samples_that_the_kernel_compares_with_have_the_metadata_of_the_explained_one(solve, study):
    solution = solve("kernel", "acidity")
    found = contributions(solution, study, 33, BACKGROUND)
    metadata = study.metadata.copy()
    metadata.iloc[BACKGROUND] = metadata.iloc[[33]]
    moved = replace(study, metadata=metadata)
    assert found.baseline[:, 0] == pytest.approx(solution.predict(moved, BACKGROUND).value, abs=1e-9)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_sample_that_is_its_own_baseline_owes_nothing_to_any_asv(name, solve, study):
    found = contributions(solve(name, "acidity"), study, 12, np.array([12]))
    assert np.abs(found.value).max() < 1e-9


@pytest.mark.parametrize("name", LEARNERS)
def test_only_asvs_that_one_of_the_samples_holds_contribute_where_features_are_their_own(name, solve, study):
    held = np.unique(study.table.counts[np.r_[33, BACKGROUND]].indices)
    value = contributions(solve(name, "acidity"), study, 33, BACKGROUND).value
    others = np.setdiff1d(np.arange(study.table.n_asvs), held)
    size = np.abs(value[:, others]).sum()
    if name in ("forest", "ensemble"):  # log-ratios are against the mean of all ASVs
        assert size < 0.5 * np.abs(value).sum()
    else:
        assert size == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_restored_solution_is_explained_the_same(name, solve, study):
    solution = solve(name, "health")
    again = type(solution).restore(solution.settings(), solution.arrays())
    first, second = (contributions(one, study, 35, BACKGROUND).value for one in (solution, again))
    assert np.array_equal(first, second)


def test_the_linear_learner_gives_an_asv_what_its_logarithm_does(solve, study):
    """Finite differences: one ASV has the proportion that it has in the baseline, all else stays."""
    solution = solve("linear", "acidity")
    found = contributions(solution, study, 33, BACKGROUND[:1])
    logs = np.log(study.asv_proportions[[33, 0]][:, solution.columns].toarray() + 1e-4)
    for place in (0, 3, 7):
        changed = logs[0].copy()
        changed[place] = logs[1, place]
        scores = [(part - part.mean()) @ solution.coefficients[:, 0] for part in (logs[0], changed)]
        assert found.value[0, solution.columns[place], 0] == pytest.approx(scores[0] - scores[1], abs=1e-12)


def test_shapley_values_are_those_of_their_definition(solve, study):
    """All subsets of the features in which two samples differ and that a few trees read."""
    solution = solve("forest", "acidity")
    small = type(solution)(solution.columns[:6], _tree_of(6))
    rows = np.array([33, 0])
    features = small.features(study, rows, small.columns).astype(np.float32)
    found = contributions(small, study, 33, rows[1:]).value[0, small.columns, 0]

    def value(chosen: tuple[int, ...]) -> float:
        mixed = features[1].copy()
        mixed[list(chosen)] = features[0, list(chosen)]
        return float(small.forest.predict(mixed[None])[0])

    for one in range(6):
        others = [other for other in range(6) if other != one]
        total = sum(
            (value((*chosen, one)) - value(chosen)) / (6 * comb(5, size))
            for size in range(6)
            for chosen in combinations(others, size)
        )
        assert found[one] == pytest.approx(total, abs=1e-7)
    assert np.abs(found).max() > 0.01


def _tree_of(features: int):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, features)).astype(np.float32) * 3
    return as_arrays(RandomForestRegressor(5, random_state=0).fit(x, x[:, 0] - x[:, 1] * x[:, 2] + x[:, 5]), 0)


def test_what_a_clade_contributes_is_divided_among_the_asvs_that_change_it_so():
    difference = np.array([0.3, -0.1, 0.1, 0.0])
    below = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 1, 0]], dtype=float)
    divided = tree_shap.divided(difference, below)
    assert pytest.approx(np.array([[0.75, 0, 0.25, 0], [0.75, 0, 0.25, 0], [0, 1, 0, 0]])) == divided.T


@pytest.fixture(scope="module")
def path(solve, study):
    solution = solve("kernel", "acidity")
    basis = solution.basis_in(study.tree)
    model = Model(basis, solution.weights.kernels, torch.from_numpy(solution.regression.alpha))
    line = Line.of(study, 5, 33)
    return Path(model, line, _of_metadata(basis, solution.weights.kernels, study, 33)), solution


def test_the_path_ends_at_the_predictions(path, study):
    path, solution = path
    line = path.line
    for fraction, row in ((1e-9, 5), (1 - 1e-9, 33)):
        proportion = line.start + fraction * (line.stop - line.start)
        presence = (line.start > 0) + fraction * ((line.stop > 0).astype(float) - (line.start > 0))
        with torch.no_grad():
            mean = path(torch.from_numpy(proportion)[None], torch.from_numpy(presence)[None]).numpy()
        predicted = (mean + solution.regression.offset) * solution.unit
        if row == 33:  # at the other end the metadata is that of 33
            assert predicted[0, 0] == pytest.approx(solution.predict(study, np.array([row])).value[0], abs=1e-3)
        assert np.isfinite(predicted).all()


def test_gradients_along_the_path_are_those_of_finite_differences(path):
    path, _ = path
    line = path.line
    proportion = torch.from_numpy(0.4 * line.start + 0.6 * line.stop)[None].requires_grad_()
    presence = torch.from_numpy(0.4 * (line.start > 0) + 0.6 * (line.stop > 0))[None].requires_grad_()
    path(proportion, presence).sum().backward()
    moving = np.flatnonzero(~path.stays.numpy())[:4].tolist()
    for point, places in ((proportion, [0, 2, 5]), (presence, moving)):
        for place in places:
            step = 1e-6 * max(float(point[0, place].detach()), 1e-3)
            ends = []
            for sign in (1, -1):
                moved = point.detach().clone()
                moved[0, place] += sign * step
                pair = (moved, presence) if point is proportion else (proportion, moved)
                ends.append(float(path(*pair).sum().detach()))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(point.grad[0, place]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_branches_above_the_same_asvs_are_bundled(study):
    asvs = np.unique(study.table.counts[[3, 33]].indices)
    bundle = Bundle.of(study.tree, asvs)
    below = bundle.below.numpy()
    assert len(np.unique(below, axis=1).T) == below.shape[1]
    proportions = study.asv_proportions[[33]].toarray()[0, asvs] @ below
    branches = bundle.member.toarray()
    expected = study.branch_proportions[[33]].toarray()[0]
    assert branches @ proportions == pytest.approx(expected, abs=1e-12)
    assert float(bundle.length.sum()) == pytest.approx(study.tree.length[branches.sum(axis=1) > 0].sum())


@pytest.mark.parametrize("temperature", [0.05, 1.0, 4.0])
def test_calibration_keeps_the_sum(temperature):
    random = np.random.default_rng(0)
    raw = random.dirichlet(np.ones(4) * 0.3, size=6)
    raw[:, 3] = 0
    raw[2] = [1, 0, 0, 0]
    raw /= raw.sum(axis=1, keepdims=True)
    parts = random.dirichlet(np.ones(7), size=(5, 4)).transpose(0, 2, 1)
    value = parts * (raw[0] - raw[1:])[:, None, :]
    calibration = Calibration(temperature, (True, True, True, False))
    found = through_calibration(Contributions(value, raw[0], raw[1:]), calibration)
    calibrated = calibration.apply(raw)
    assert found.explained == pytest.approx(calibrated[0], abs=1e-12)
    assert found.baseline == pytest.approx(calibrated[1:], abs=1e-12)
    assert found.value.sum(axis=1) == pytest.approx(calibrated[0] - calibrated[1:], abs=1e-6)


def test_a_learner_that_looks_at_no_asvs_is_refused(study):
    target = TargetConfig(metadata_column=("acidity",))
    labels = Labels(target_values(study.metadata, target), target)
    solution = DepthLearner().fit(study, np.arange(30), labels, seed=1).solutions[0]
    with pytest.raises(InputError, match="a depth learner predicts without looking at ASVs"):
        contributions(solution, study, 0, BACKGROUND)


def test_a_kernel_of_embeddings_is_refused(study, embedding_learner):
    with pytest.raises(InputError, match="embedding of an encoder"):
        contributions(embedding_learner, study, 0, BACKGROUND)


@pytest.fixture
def embedding_learner(study, solve):
    """A kernel that also reads something that is no metadata."""

    class Embedded(Numeric):
        kind = "embedding"

    solution = solve("kernel", "acidity")
    described = (*solution.basis.described, Embedded("day", 0.0, 1.0))
    return replace(solution, basis=replace(solution.basis, described=described))


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(tree_shap, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the package shap: pip install 'aam\[explain\]'"):
        tree_shap.require("shap")

"""The kernel learner: what it leaves out, stores, ignores and does with odd problems."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from aam.config import TargetConfig
from aam.config.kernel import KernelConfig
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree
from aam.data.files.tables import FeatureTable
from aam.data.simulation.tree import simulate_tree
from aam.data.study import Study
from aam.learners.base import Labels, Problem
from aam.learners.kernel import KernelLearner, balanced_draw
from aam.learners.kernel_solution import KernelSolution

EXACT = KernelConfig()
FEW = KernelConfig(kernel_exact_samples=20, kernel_landmarks=24, kernel_weight_samples=22)
SUBSET = KernelConfig(kernel_weight_samples=25)
WAYS = pytest.mark.parametrize("config", [EXACT, FEW, SUBSET], ids=["exact", "landmarks", "subset"])
KINDS = pytest.mark.parametrize("classes", [0, 3])
TRAINING = np.arange(0, 60, 2)


def study_of(samples: int, asvs: int = 40) -> Study:
    random = np.random.default_rng(0)
    simulated = simulate_tree(asvs, 30, 0)
    phylogeny = parse_newick(simulated.newick())
    tips = np.array([phylogeny.tip_names.index(name) for name in simulated.sequences])
    rates = np.exp(random.normal(size=(samples, 1)) * random.normal(size=asvs) + random.normal(size=asvs))
    counts = random.poisson(rates) * random.binomial(1, 0.4, rates.shape)
    counts[:, 0] += 1
    ids = tuple(f"s{i:03}" for i in range(samples))
    table = FeatureTable(sp.csr_array(counts), ids, simulated.sequences, simulated.sequences)
    return Study(table, tree=StudyTree.cut(phylogeny, tips))


def problem_of(study: Study, rows: np.ndarray, classes: int = 0) -> Problem:
    random = np.random.default_rng(2)
    y = random.integers(0, classes, len(rows)).astype(float) if classes else random.normal(size=len(rows))
    return Problem(study, rows, y, classes, random.integers(0, 8, len(rows)), np.ones(len(rows)), 0)


def forget_others(study: Study, rows: np.ndarray) -> Study:
    """Other reads, also of other ASVs, in all samples but some."""
    counts = study.table.counts.toarray()
    others = np.setdiff1d(np.arange(len(counts)), rows)
    counts[others] = np.random.default_rng(3).integers(0, 5, (len(others), counts.shape[1])) + 1
    return replace(study, table=replace(study.table, counts=sp.csr_array(counts)))


def same(a: KernelSolution, b: KernelSolution) -> bool:
    arrays, others = a.arrays(), b.arrays()
    equal = [np.array_equal(arrays[name], others[name]) for name in arrays]
    return arrays.keys() == others.keys() and all(equal) and a.settings() == b.settings()


@WAYS
@KINDS
def test_it_is_restored_to_the_last_bit(config, classes):
    problem = problem_of(study_of(60), TRAINING, classes)
    solution = KernelLearner(config).solve(problem)
    again = KernelSolution.restore(solution.settings(), solution.arrays())
    rows = np.arange(60)
    first, second = solution.predict(problem.study, rows), again.predict(problem.study, rows)
    assert np.array_equal(first.value, second.value)
    assert classes or np.array_equal(first.spread, second.spread)
    assert same(solution, again)


@WAYS
@KINDS
def test_other_samples_do_not_matter(config, classes):
    study = study_of(60)
    solution = KernelLearner(config).solve(problem_of(study, TRAINING, classes))
    changed = forget_others(study, TRAINING)
    again = KernelLearner(config).solve(problem_of(changed, TRAINING, classes))
    assert same(solution, again)
    a, b = solution.predict(study, TRAINING), again.predict(changed, TRAINING)
    assert np.array_equal(a.value, b.value)
    assert np.array_equal(solution.left_out.value, again.left_out.value)


def test_order_and_values_of_other_rows_do_not_matter():
    study = study_of(60)
    values = pd.DataFrame({"x": np.random.default_rng(1).normal(size=60)}, index=list(study.table.sample_ids))
    groups = np.array([f"g{i % 7}" for i in range(60)])
    config = TargetConfig(metadata_column="x")
    fitted = KernelLearner().fit(study, TRAINING, Labels(values, config, groups), 0)
    values = values.copy()
    values.iloc[1::2] = 9.0
    groups[1::2] = "other"
    again = KernelLearner().fit(study, TRAINING[::-1], Labels(values, config, groups), 0)
    (a,), (b,) = fitted.solutions, again.solutions
    assert isinstance(a, KernelSolution)
    assert isinstance(b, KernelSolution)
    assert same(a, b)


@WAYS
def test_predictions_do_not_depend_on_depth(config):
    problem = problem_of(study_of(60), TRAINING)
    deeper = replace(problem.study, table=replace(problem.study.table, counts=problem.study.table.counts * 7))
    solution = KernelLearner(config).solve(problem)
    again = KernelLearner(config).solve(replace(problem, study=deeper))
    rows = np.arange(60)
    expected = solution.predict(problem.study, rows)
    assert np.array_equal(expected.value, solution.predict(deeper, rows).value)
    assert np.array_equal(expected.value, again.predict(deeper, rows).value)


@WAYS
def test_without_a_tree_the_kernels_of_asvs_are_left(config):
    problem = problem_of(replace(study_of(60), tree=None), TRAINING)
    solution = KernelLearner(config).solve(problem)
    assert set(solution.basis.names) == {"log_ratio", "log_ratio_linear", "hellinger", "jaccard"}
    again = KernelSolution.restore(solution.settings(), solution.arrays())
    rows = np.arange(60)
    assert np.array_equal(solution.predict(problem.study, rows).value, again.predict(problem.study, rows).value)


@WAYS
def test_a_class_without_training_samples(config):
    problem = problem_of(study_of(60), TRAINING, classes=3)
    problem = replace(problem, y=np.where(problem.y == 1, 0.0, problem.y))
    solution = KernelLearner(config).solve(problem)
    for output in (solution.predict(problem.study, np.arange(60)), solution.left_out):
        assert output.value.shape[1] == 3
        assert not output.value[:, 1].any()
        assert np.allclose(output.value.sum(axis=1), 1)
        assert output.spread is None


@WAYS
def test_a_signal_is_found(config):
    study = study_of(90)
    share = study.asv_proportions.toarray()[:, :8].sum(axis=1)
    problem = replace(problem_of(study, np.arange(60)), y=np.log(share[:60] + 0.01))
    solution = KernelLearner(config).solve(problem)
    predicted = solution.predict(study, np.arange(60, 90))
    truth = np.log(share[60:] + 0.01)
    assert np.corrcoef(predicted.value, truth)[0, 1] > 0.6
    assert 0.3 < np.sqrt(np.mean(((truth - predicted.value) / predicted.spread) ** 2)) < 3
    assert np.corrcoef(solution.left_out.value, problem.y)[0, 1] > 0.5


def test_units_of_the_target_do_not_matter():
    problem = problem_of(study_of(60), TRAINING)
    scaled = replace(problem, y=problem.y * 100 + 5)
    a, b = (KernelLearner().solve(each).predict(problem.study, TRAINING) for each in (problem, scaled))
    np.testing.assert_allclose(b.value, a.value * 100 + 5, rtol=1e-6)
    np.testing.assert_allclose(b.spread, a.spread * 100, rtol=1e-6)


@pytest.mark.parametrize("groups", [np.zeros(30, np.int64), np.arange(30), np.repeat([0, 1], [29, 1])])
@WAYS
def test_one_group_many_groups_and_uneven_ones(config, groups):
    problem = replace(problem_of(study_of(60), TRAINING), groups=groups)
    solution = KernelLearner(config).solve(problem)
    assert np.isfinite(solution.left_out.value).all()
    assert (solution.left_out.spread > 0).all()
    if len(np.unique(groups)) == 1:
        alone = KernelLearner(config).solve(replace(problem, groups=np.arange(30)))
        assert np.array_equal(alone.left_out.value, solution.left_out.value) or config != EXACT


@pytest.mark.parametrize("size", [1, 2, 3])
@KINDS
def test_hardly_any_samples(size, classes):
    problem = problem_of(study_of(60), TRAINING[:size], classes)
    solution = KernelLearner().solve(problem)
    output = solution.predict(problem.study, np.arange(60))
    assert np.isfinite(output.value).all()
    assert (solution.left_out is None) == (size == 1)
    assert solution.predict(problem.study, np.arange(0)).value.shape[0] == 0


def test_a_target_that_is_constant():
    problem = replace(problem_of(study_of(60), TRAINING), y=np.full(30, 3.0))
    np.testing.assert_allclose(KernelLearner().solve(problem).predict(problem.study, np.arange(60)).value, 3.0)


def test_weights_of_samples_count():
    problem = problem_of(study_of(60), TRAINING)
    weight = np.ones(30)
    weight[0] = 0.0
    light = replace(problem, weight=weight / weight.mean())
    other = replace(light, y=np.where(np.arange(30) == 0, 50.0, light.y))
    a, b = (KernelLearner().solve(each) for each in (light, replace(other, weight=light.weight)))
    assert np.isfinite(a.left_out.spread).all()
    predicted = [each.predict(problem.study, TRAINING[1:]).value for each in (a, b)]
    assert np.abs(predicted[0] - predicted[1]).max() < 0.5


def test_a_draw_is_even_over_groups():
    groups = np.repeat([0, 1, 2], [50, 5, 3])
    drawn = balanced_draw(groups, 13, 0, "test")
    assert np.bincount(groups[drawn]).tolist() == [5, 5, 3]
    assert (np.diff(drawn) > 0).all()
    assert len(balanced_draw(groups, 100, 0, "test")) == 58
    assert not np.array_equal(drawn, balanced_draw(groups, 13, 1, "test"))

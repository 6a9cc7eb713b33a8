"""What is known of samples besides reads, as kernels: categories with their parents, numbers, embeddings."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from aam.config import LearnersConfig
from aam.config.kernel import KernelConfig
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.fold_fits import of_rows
from aam.learners.base import Problem
from aam.learners.kernel import KernelLearner
from aam.learners.kernel_features import Samples
from aam.learners.kernel_solution import KernelSolution
from aam.learners.kernel_sources import WantedCategory, WantedNumber, describe, wanted_columns
from aam.learners.kernels import Basis
from aam.learners.rarefied import Rarefaction
from aam.workflows import encoder_source

WAYS = pytest.mark.parametrize(
    "config",
    [KernelConfig(), KernelConfig(kernel_exact_samples=10, kernel_landmarks=14, kernel_weight_samples=12)],
    ids=["exact", "landmarks"],
)
CITY = ("city", "region")


def with_columns(study: Study, **columns: list) -> Study:
    """A study with columns for its first samples; the others have no value."""
    size = study.table.n_samples
    padded = {name: [*values, *[None] * (size - len(values))] for name, values in columns.items()}
    return replace(study, metadata=pd.DataFrame(padded, index=list(study.table.sample_ids)))


def kernel(study: Study, wanted, train, rows) -> tuple[np.ndarray, np.ndarray]:
    """The kernel of one source between rows and the training samples, and of the rows with themselves."""
    described = [wanted.learn(study, np.array(train))]
    basis, _ = Basis.build(
        (), Samples.of(study, np.array(train), describe(described, study, np.array(train))), described
    )
    return basis.weighted(basis.view(study, np.array(rows)), np.ones(1))


def test_categories_are_alike_by_the_share_of_levels_that_agree(study):
    told = with_columns(study, city=["a", "b", "c", "a", "d"], region=["x", "x", "y", "x", "x"])
    cross, own = kernel(told, WantedCategory(CITY), [0, 1, 2], [0, 1, 2, 3, 4])
    expected = [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1], [1, 0.5, 0], [0.5, 0.5, 0]]  # d is new, and known by its region
    np.testing.assert_array_equal(cross, expected)
    np.testing.assert_array_equal(own, np.ones(5))
    alone, _ = kernel(told, WantedCategory(CITY[:1]), [0, 1, 2], [3, 4])
    np.testing.assert_array_equal(alone, [[1, 0, 0], [0, 0, 0]])


def test_missing_and_unseen_categories_agree_with_nothing(study):
    told = with_columns(study, city=["a", None, None, "new", "new"], region=["x", None, "y", None, None])
    cross, own = kernel(told, WantedCategory(CITY), [0, 1], [1, 2, 3, 4])
    np.testing.assert_array_equal(cross, np.zeros((4, 2)))
    np.testing.assert_array_equal(own, np.ones(4))


def test_a_parent_is_filled_in_where_training_tells_it(study):
    told = with_columns(study, city=["a", "b", "a"], region=["x", "x", None])
    np.testing.assert_array_equal(kernel(told, WantedCategory(CITY), [0, 1], [2])[0], [[1, 0.5]])
    without = replace(told, metadata=told.metadata.drop(columns="region"))
    learned = WantedCategory(CITY).learn(told, np.array([0, 1]))
    assert learned.metadata_columns == ("city",)
    np.testing.assert_array_equal(learned.features(without, np.array([2])), learned.features(told, np.array([0])))


def test_numbers_are_alike_by_their_distance_and_the_mean_stands_for_missing_ones(study):
    values = [1.0, 2.0, 4.0, 9.0, None, 4.0]
    cross, own = kernel(with_columns(study, age=values), WantedNumber("age"), [0, 1, 2, 3], [0, 3, 4, 5])
    known = np.array(values[:4], dtype=float)
    standard = (known - known.mean()) / known.std()
    width = np.median(np.square(standard[:, None] - standard)[np.triu_indices(4, 1)])
    rows = np.array([standard[0], standard[3], 0.0, standard[2]])
    np.testing.assert_allclose(cross, np.exp(-np.square(rows[:, None] - standard) / width), atol=1e-12)
    np.testing.assert_array_equal(own, np.ones(4))


@pytest.mark.parametrize("values", [[0.1] * 9, [None] * 9, [5.0, *[None] * 8]])
def test_numbers_that_tell_nothing_make_all_alike(study, values):
    cross, _ = kernel(with_columns(study, age=values), WantedNumber("age"), range(9), range(9))
    np.testing.assert_array_equal(cross, np.ones((9, 9)))


@pytest.mark.parametrize("seed", range(8))
def test_they_are_positive_semidefinite(study, seed):
    random = np.random.default_rng(seed)
    size = study.table.n_samples
    city = random.choice([*"abcdefg", None], size)
    region = [None if value is None or random.random() < 0.2 else "xyz"[ord(value) % 3] for value in city]
    age = np.where(random.random(size) < 0.2, np.nan, random.exponential(size=size))
    told = with_columns(study, city=list(city), region=region, age=list(age))
    described = [wanted.learn(told, np.arange(0, size, 2)) for wanted in (WantedCategory(CITY), WantedNumber("age"))]
    every = np.arange(size)
    basis, stack = Basis.build((), Samples.of(told, every, describe(described, told, every)), described)
    for name, values in zip(basis.names, stack, strict=True):
        assert np.array_equal(values, values.T)
        np.testing.assert_array_equal(np.diagonal(values), 1)
        assert np.linalg.eigvalsh(values).min() > -1e-9, name


def test_options_name_the_columns():
    options = {"categorical_columns": "site,habitat", "categorical_hierarchy": "site=region", "numeric_columns": "day"}
    wanted = wanted_columns(LearnersConfig.from_flat(options))
    assert wanted == (WantedCategory(("site", "region")), WantedCategory(("habitat",)), WantedNumber("day"))
    assert KernelLearner(wanted=wanted).metadata_columns == ("site", "region", "habitat", "day")


def problem_of(study: Study, classes: int) -> Problem:
    rows = np.arange(0, 40, 2)
    random = np.random.default_rng(2)
    y = random.integers(0, classes, len(rows)).astype(float) if classes else random.normal(size=len(rows))
    return Problem(study, rows, y, classes, random.integers(0, 6, len(rows)), np.ones(len(rows)), 0)


@WAYS
@pytest.mark.parametrize("classes", [0, 3])
def test_a_solution_is_restored_to_the_last_bit(study, described, config, classes):
    problem, every = problem_of(study, classes), np.arange(40)
    solution = KernelLearner(config, described).solve(problem)
    assert {"categorical site", "categorical habitat", "numeric day", "encoder"} <= set(solution.basis.names)
    again = KernelSolution.restore(solution.settings(), solution.arrays())
    first, second = solution.predict(study, every), again.predict(study, every)
    np.testing.assert_array_equal(first.value, second.value)
    assert classes or np.array_equal(first.spread, second.spread)
    assert again.metadata_columns == ("site", "habitat", "day")


@WAYS
def test_other_samples_do_not_matter(study, described, config):
    problem = problem_of(study, 0)
    others = np.setdiff1d(np.arange(40), problem.rows)
    metadata = study.metadata.copy()
    metadata.iloc[others, metadata.columns.get_loc("day")] = 1e6
    for column in ("site", "region", "habitat"):
        metadata.iloc[others, metadata.columns.get_loc(column)] = f"another {column}"
    counts = study.table.counts.toarray()
    counts[others] = counts[others][:, ::-1] + 1
    changed = replace(study, table=replace(study.table, counts=csr_array(counts)), metadata=metadata)
    one = KernelLearner(config, described).solve(problem)
    other = KernelLearner(config, described).solve(replace(problem, study=changed))
    assert one.settings() == other.settings()
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name)


@WAYS
def test_what_decides_is_found(study, described, config):
    """A target that a category decides, and one that a number does."""
    for column, wanted in (("habitat", WantedCategory(("habitat",))), ("day", WantedNumber("day"))):
        values = study.metadata[column]
        y = (values if column == "day" else values.astype("category").cat.codes).to_numpy(float)
        problem = replace(problem_of(study, 0), y=y[:40:2])
        told = KernelLearner(config, (wanted,)).solve(problem).predict(study, np.arange(1, 40, 2)).value
        assert np.corrcoef(told, y[1:40:2])[0, 1] > 0.9


@WAYS
def test_a_category_that_is_unknown_makes_a_prediction_less_certain(study, config):
    wanted = (WantedCategory(("habitat",)),)
    y = study.metadata["habitat"].astype("category").cat.codes.to_numpy(float)[:40:2]
    solution = KernelLearner(config, wanted).solve(replace(problem_of(study, 0), y=y))
    known = solution.predict(study, np.arange(40)).spread
    for value in (None, "elsewhere"):
        unknown = replace(study, metadata=study.metadata.assign(habitat=value))
        assert (solution.predict(unknown, np.arange(40)).spread > 1.5 * known).all()


def test_embeddings_do_not_depend_on_other_samples_and_are_kept(study, embedding, monkeypatch):
    embedded = []
    embed = encoder_source.Embedding._embed
    monkeypatch.setattr(encoder_source, "_KEPT", {})
    monkeypatch.setattr(
        encoder_source.Embedding,
        "_embed",
        lambda self, study, *more: embedded.append(study.table.n_samples) or embed(self, study, *more),
    )
    every = np.arange(40)
    whole = embedding.features(study, every)
    assert whole.shape == (40, 8)
    np.testing.assert_array_equal(embedding.features(study, every[::-1]), whole[::-1])
    part = of_rows(study, every[5:9])
    np.testing.assert_array_equal(embedding.features(part, every[:4]), whole[5:9])
    assert embedded == [40]
    encoder_source._KEPT.clear()
    np.testing.assert_array_equal(embedding.features(part, every[:4]), whole[5:9])
    assert embedded == [40, 4]
    drawn = Rarefaction(depth=150, draws=1).drawn(study)[0]
    assert (embedding.features(drawn, every) != whole).any()
    assert embedding.features(study, every[:0]).shape == (0, 8)


def test_metadata_that_is_missing_is_asked_for(study, described):
    solution = KernelLearner(wanted=described).solve(problem_of(study, 0))
    without = replace(study, metadata=None)
    with pytest.raises(InputError, match=r"reads columns of the metadata \(site\): give --metadata"):
        solution.predict(without, np.arange(3))
    fewer = replace(study, metadata=study.metadata.drop(columns="day"))
    with pytest.raises(InputError, match="no column 'day'"):
        solution.meet(fewer)
    text = replace(study, metadata=study.metadata.assign(day="monday"))
    with pytest.raises(InputError, match=r"column 'day' is not numeric.*or name it in --categorical-columns"):
        solution.meet(text)


def test_unseen_categories_are_told_once(study, described, caplog):
    solution = KernelLearner(wanted=described).solve(problem_of(study, 0))
    new = replace(study, metadata=study.metadata.assign(site="moon"))
    solution.predict(new, np.arange(3))
    assert "moon" not in caplog.text
    solution.meet(new)
    assert caplog.text.count("site: no training sample has 'moon'") == 1

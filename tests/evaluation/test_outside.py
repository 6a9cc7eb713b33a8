"""Learners of other packages in a comparison; skipped, saying so, where a package is not installed."""

import re
import shlex
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from aam.config import EvaluateConfig
from aam.config.evaluate import OUTSIDE
from aam.config.learners import TreesConfig
from aam.errors import InputError
from aam.evaluation.outside import PACKAGES, OutsideLearner
from aam.learners.base import pose
from aam.learners.features import log_ratios_of_counts, prevalent_asvs
from aam.workflows.evaluate import evaluate, evaluate_study


def installed(*names: str):
    return [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
        for name in names
    ]


BOOSTED = installed("lightgbm", "xgboost")
TREES = TreesConfig()


def problem_of(study_of, labels_of, column="number", **more):
    study, metadata = study_of(**more)
    labels = labels_of(metadata, column)
    return study, pose(study, np.arange(study.table.n_samples), labels, 3)[1][0]


def test_every_package_that_an_option_names_is_known():
    assert tuple(PACKAGES) == OUTSIDE


@pytest.mark.parametrize("column", ["number", "kind"])
@pytest.mark.parametrize("name", BOOSTED)
def test_fits_are_those_of_the_package_with_the_seed_and_weights(name, column, study_of, labels_of):
    study, problem = problem_of(study_of, labels_of, column, groups=20)
    rows = np.arange(study.table.n_samples)
    problem = replace(problem, weight=np.where(rows % 2, 0.2, 1.8))
    learner = OutsideLearner(name, TREES)
    assert learner.name == name
    value = learner.solve(problem).predict(study, rows).value
    np.testing.assert_array_equal(value, learner.solve(problem).predict(study, rows).value)
    plain = learner.solve(replace(problem, weight=np.ones(len(rows)))).predict(study, rows).value
    assert (value != plain).any()
    package = PACKAGES[name]
    kind = getattr(pytest.importorskip(name), package.classifier if problem.classes else package.regressor)
    features = log_ratios_of_counts(study, rows, prevalent_asvs(study, rows, TREES.min_prevalence))
    target = problem.codes if problem.classes else problem.y
    model = kind(random_state=3, **package.options).fit(features, target, sample_weight=problem.weight)
    direct = model.booster_.predict(features) if name == "lightgbm" else None
    if name == "xgboost":
        direct = model.predict_proba(features)[:, 1] if problem.classes else model.predict(features)
    np.testing.assert_allclose(value[:, 1] if problem.classes else value, direct, rtol=1e-6)


@pytest.mark.parametrize("name", BOOSTED)
def test_classes_without_samples_have_probability_zero(name, study_of, labels_of):
    study, problem = problem_of(study_of, labels_of, "plate")
    assert problem.classes == 3
    for kept in ([0, 2], [1]):
        part = problem.take(np.flatnonzero(np.isin(problem.codes, kept)))
        value = OutsideLearner(name, TREES).solve(part).predict(study, np.arange(6)).value
        assert (value[:, [place for place in range(3) if place not in kept]] == 0).all()
        np.testing.assert_allclose(value.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOOSTED)
def test_a_comparison_shows_it_and_jobs_change_nothing(name, study_folder, tmp_path):
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    asked = {"metadata_column": "acidity", "group_column": "subject", "learners": "linear", "trees": 5, "folds": 2}
    asked |= {"repeats": 1, "with_": name}
    for jobs in (1, 2):
        evaluate(EvaluateConfig.from_flat({**files, **asked, "jobs": jobs, "output_dir": tmp_path / f"{jobs}"}))
    scores = pd.read_csv(tmp_path / "1" / "scores.tsv", sep="\t", keep_default_na=False)
    assert list(dict.fromkeys(scores["learner"])) == ["null", "depth", "forest", "linear", name]
    for file in ("scores.tsv", "predictions.tsv", "evaluation.json"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file


@pytest.mark.parametrize("name", BOOSTED)
def test_where_it_is_best_the_verdict_says_that_aam_does_not_train_it(name, study_of, labels_of, config, tmp_path):
    """The target jumps where an ASV passes a threshold: nothing for a line, and easy for boosted trees."""
    study, metadata = study_of(groups=40, each=5)
    shares = study.table.counts.toarray() / study.table.depth[:, None]
    metadata["number"] = 10.0 * (shares[:, 2] > np.median(shares[:, 2])) + np.arange(len(metadata)) % 3
    study = replace(study, metadata=metadata)
    labels = labels_of(metadata)
    options = config(with_=name, learners="linear", trees=2, folds=2)
    found = evaluate_study(study, labels, options)
    assert found.verdict.best == name
    assert found.command is None
    told = re.search(
        rf"no command trains it, as {name} was compared and is no learner of aam; of those that it trains, (\w+) is "
        r"best: (aam train .*)",
        found.sentence,
    )
    own = max(("forest", "linear"), key=lambda one: found.main.out.scores[one]["r2"])
    assert told[1] == own
    assert f"--learner {own}" in told[2]
    assert shlex.split(told[2])[:2] == ["aam", "train"]


@pytest.mark.parametrize("name", installed("tabicl"))
def test_weights_of_samples_are_refused_where_there_is_no_place_for_them(name, study_of, labels_of):
    _, problem = problem_of(study_of, labels_of)
    weighed = replace(problem, weight=np.linspace(0.5, 1.5, len(problem.rows)))
    with pytest.raises(InputError, match=f"--with {name}: it takes no weights of samples"):
        OutsideLearner(name, TREES).solve(weighed)

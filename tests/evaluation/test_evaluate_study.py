"""Evaluations of a study in memory, as a notebook makes them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam.errors import InputError
from aam.evaluation.comparison import OutOfFold
from aam.evaluation.variants import plan_main, plan_random
from aam.learners.base import Output
from aam.workflows.comparison import check_folds
from aam.workflows.evaluate import evaluate_study


def with_reads(study, times):
    """The study with so many times the reads of each sample."""
    counts = sparse.csr_array((study.table.counts.toarray() * times[:, None]).astype(np.int64))
    return replace(study, table=replace(study.table, counts=counts))


def deep_learner(like):
    """Reads the counts themselves, as an analysis without rarefaction or shares does."""

    class Deep(type(like)):
        def solve(self, problem):
            def features(study, rows):
                return np.log(study.table.depth[rows].astype(float))

            x = features(problem.study, problem.rows)
            slope = np.cov(x, problem.y)[0, 1] / max(x.var(ddof=1), 1e-9)
            at, middle = problem.y.mean(), x.mean()
            solution = super().solve(problem)
            solution._predict = lambda study, rows: Output(at + slope * (features(study, rows) - middle))
            return solution

    return Deep()


def test_scores_differences_and_words_agree(study_of, labels_of, learners, config):
    study, metadata = study_of()
    found = evaluate_study(study, labels_of(metadata), config(repeats=2), learners)
    scores = found.main.scores.set_index(["learner", "metric"])
    assert found.verdict.best == "linear"
    assert scores.loc[("linear", "r2"), "value"] > 0.8
    low, high = scores.loc[("linear", "r2"), ["low", "high"]]
    assert low < scores.loc[("linear", "r2"), "value"] < high
    assert len(found.main.predictions) == 48 * 4 * 2
    assert len(found.main.folds) == 48 * 2
    command = "aam train --learner linear --metadata-column number --val-fraction 0.0 --group-column subject"
    assert command in found.sentence
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("column", ["number", "kind"])
def test_the_order_of_the_rows_changes_nothing(study_of, labels_of, learners, config, column):
    study, metadata = study_of()
    options = config(metadata_column=column, classifier=column == "kind")
    one = evaluate_study(study, labels_of(metadata, column), options, learners)
    order = np.random.default_rng(3).permutation(len(metadata))
    moved = replace(study, table=study.table.select_samples(order), metadata=metadata.iloc[order])
    two = evaluate_study(moved, labels_of(metadata.iloc[order], column), options, learners)
    for table in ("scores", "differences", "errors_by_group", "predictions", "folds"):
        pd.testing.assert_frame_equal(getattr(one.main, table), getattr(two.main, table))
    assert one.to_json() == two.to_json()


def test_classes_have_probabilities_and_recalls(study_of, labels_of, learners, config):
    study, metadata = study_of()
    found = evaluate_study(
        study, labels_of(metadata, "kind"), config(metadata_column="kind", classifier=True), learners
    )
    shares = found.main.predictions[["probability_less", "probability_more"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    metrics = set(found.main.scores["metric"])
    assert metrics == {"balanced_accuracy", "auroc", "log_loss", "recall_less", "recall_more"}
    assert found.verdict.best == "linear"


def test_a_target_that_depends_on_depth_is_scored_on_rarefied_counts_too(study_of, labels_of, learners, config, caplog):
    study, metadata = study_of(groups=20)
    times = np.random.default_rng(1).integers(1, 30, len(metadata))
    study = with_reads(study, times)
    metadata["number"] = np.log(times)
    learners["deep"] = deep_learner(learners["linear"])
    found = evaluate_study(replace(study, metadata=metadata), labels_of(metadata), config(), learners)
    assert list(found.outcomes) == ["main", "rarefied"]
    rarefied = found.outcomes["rarefied"]
    assert found.main.out.scores["deep"]["r2"] > 0.8
    assert rarefied.out.scores["deep"]["r2"] < 0.1
    assert rarefied.out.scores["depth"]["r2"] > 0.8
    assert "number is confounded with sequencing depth" in found.notes[0]
    assert f"with {rarefied.variant.depth} reads of every sample the R2 of deep falls from" in found.notes[1]
    assert "no learner predicts number better than sequencing depth alone" in found.sentence
    assert f"at {rarefied.variant.depth} reads of each sample" in found.sentence


def test_depth_that_says_nothing_is_not_looked_into(study_of, labels_of, learners, config):
    study, metadata = study_of()
    found = evaluate_study(study, labels_of(metadata), config(), learners)
    assert list(found.outcomes) == ["main"]
    assert found.notes == ()


def test_all_learners_see_a_sampling_depth_that_is_asked_for(study_of, labels_of, learners, config):
    study, metadata = study_of()
    found = evaluate_study(study, labels_of(metadata), config(rarefy_depth="auto"), learners)
    variant = found.main.variant
    assert variant.depth == np.sort(study.table.depth)[2]
    assert len(found.main.out.sample_ids) == (study.table.depth >= variant.depth).sum()
    assert f"--rarefy-depth {variant.depth}" in found.command


def test_a_random_split_of_groups_looks_better_and_that_is_said(study_of, labels_of, learners, config):
    study, metadata = study_of(groups=15, each=8)
    rng = np.random.default_rng(0)
    counts = np.repeat(rng.dirichlet(np.full(6, 1.0), 15) * 300, 8, axis=0) + rng.poisson(3, (120, 6)) + 1
    study = replace(study, table=replace(study.table, counts=sparse.csr_array(counts.astype(np.int64))))
    metadata["number"] = np.repeat(rng.normal(0, 1, 15), 8)

    class Nearest(type(learners["linear"])):
        def solve(self, problem):
            solution = super().solve(problem)
            known = problem.study.asv_proportions[problem.rows].toarray()

            def predict(study, rows):
                new = study.asv_proportions[rows].toarray()
                return Output(problem.y[((new[:, None] - known) ** 2).sum(axis=2).argmin(axis=1)])

            solution._predict = predict
            return solution

    learners["linear"] = Nearest()
    found = evaluate_study(replace(study, metadata=metadata), labels_of(metadata), config(gap=True), learners)
    random = found.outcomes["random"].out.scores["linear"]["r2"]
    assert random > 0.5 > found.main.out.scores["linear"]["r2"]
    assert any("a random split shows R2" in note and "comes from knowing the groups" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda frame: frame.assign(number=3.0), {}, "the target is 3.0 in all"),
        (
            lambda frame: frame.assign(number=np.where(frame["subject"] == "g03", 1.0, 2.0)),
            {"cv": "leave-one-group-out"},
            r"fold 1\.4 cannot be learned .* the target is 2.0 in all 44",
        ),
        (
            lambda frame: frame,
            {"cv": "kfold"},
            "--cv kfold would divide groups of several samples .g00, .*--allow-rand",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused_before_any_work(
    study_of, labels_of, learners, config, change, options, message
):
    study, metadata = study_of()
    metadata = change(metadata)
    with pytest.raises(InputError, match=message):
        evaluate_study(replace(study, metadata=metadata), labels_of(metadata), config(**options), learners)


def test_a_random_split_that_is_allowed_is_made(study_of, labels_of, learners, config):
    study, metadata = study_of()
    found = evaluate_study(study, labels_of(metadata), config(cv="kfold", allow_random_split=True), learners)
    assert "subject looks like a column of subjects" in found.leakage[0]
    assert found.to_json()["leakage"] == list(found.leakage)
    fold = found.main.variant.folds[0]
    groups = metadata["subject"].to_numpy()
    assert set(groups[fold.train]) & set(groups[fold.held_out])


def test_without_groups_every_sample_is_its_own(study_of, labels_of, learners, config):
    study, metadata = study_of()
    options = config(group_column=None)
    with pytest.raises(InputError, match=r"subject looks like a column of subjects .* or give --allow-random-split"):
        evaluate_study(study, labels_of(metadata, grouped=False), options, learners)
    study = replace(study, metadata=metadata.drop(columns="subject"))
    found = evaluate_study(study, labels_of(metadata, grouped=False), options, learners)
    assert found.main.out.boot.groups == 48
    assert "over 48 samples" in found.sentence


def test_a_class_that_rarefaction_takes_from_training_is_not_predicted(study_of, labels_of, learners, config, caplog):
    """Depth tells the kind, and of the two subjects of a rare kind one is too shallow to be rarefied."""
    study, metadata = study_of(groups=40)
    metadata["kind"] = np.where(np.arange(160) % 2, "deep", "usual")
    metadata.loc[metadata["subject"].isin(["g00", "g01"]), "kind"] = "rare"
    times = np.where(metadata["kind"] == "deep", 30, 10)
    times[:4] = 1
    study = replace(with_reads(study, times), metadata=metadata)
    options = config(metadata_column="kind", classifier=True, folds=2)
    found = evaluate_study(study, labels_of(metadata, "kind"), options, learners)
    rarefied = found.outcomes["rarefied"].out
    assert not {f"s{number:03d}" for number in range(8)} & set(rarefied.sample_ids)
    assert np.isnan(rarefied.scores["linear"]["recall_rare"])
    assert "4 samples are not predicted in folds whose training samples have none of their class: s004" in caplog.text
    assert found.main.out.scores["linear"]["recall_rare"] >= 0


def test_a_truth_that_nobody_knows_is_refused():
    row = {"sample_id": "a", "learner": "x", "repeat": 1, "fold": 1, "true": "new", "prediction": "old"}
    with pytest.raises(InputError, match="no training sample of any fold is of class new"):
        OutOfFold.of(pd.DataFrame([{**row, "probability_old": 1.0}]), pd.Series("g", index=["a"]), 0)


def test_a_random_split_of_a_rare_class_predicts_what_it_can(study_of, labels_of, config):
    study, metadata = study_of()
    metadata["kind"] = np.where(metadata["number"] > metadata["number"].median(), "more", "less")
    metadata.loc[["s000", "s004"], "kind"] = "rare"
    main = plan_main(study, labels_of(metadata), config(folds=3))
    for seed in range(12):
        drawn = plan_random(replace(main, labels=labels_of(metadata, "kind"), seed=seed), config(folds=3))
        kinds = metadata["kind"].to_numpy()
        assert all(set(kinds[fold.held_out]) <= set(kinds[fold.train]) for fold in drawn.folds)
        check_folds(drawn)


def test_folds_of_a_column_are_groups_where_no_others_are_named(study_of, labels_of, learners, config):
    study, metadata = study_of()
    metadata["study"] = [f"t{number // 12}" for number in range(48)]
    options = config(group_column=None, fold_column="study")
    seen = []

    class Watching(type(learners["linear"])):
        def solve(self, problem):
            seen.append(len(np.unique(problem.groups)))
            return super().solve(problem)

    learners["linear"] = Watching()
    study = replace(study, metadata=metadata)
    found = evaluate_study(study, labels_of(metadata, grouped=False), options, learners)
    assert seen == [3] * 4
    assert found.main.scores[["low", "high"]].isna().all().all()
    assert "no intervals: there are 4 groups" in found.notes[0]
    assert "over 4 groups (study)" in found.sentence
    assert "--group-column study" in found.command


def test_a_test_without_groups_says_what_its_intervals_assume(study_of, labels_of, learners, config):
    study, metadata = study_of()
    metadata["side"] = ["train"] * 24 + ["test"] * 24
    study = replace(study, metadata=metadata)
    for column, said in ((None, True), ("subject", False)):
        options = config(group_column=column, test_column="side")
        found = evaluate_study(study, labels_of(metadata, grouped=column is not None), options, learners)
        assert any("take the samples as independent" in note for note in found.notes) == said

"""The work of one fold: nothing of held-out samples reaches a fit, and what the options do to counts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam.config import EnsembleConfig
from aam.errors import InputError
from aam.evaluation.batch import BatchLearner
from aam.evaluation.fold_fits import fit_fold, held_out_studies
from aam.evaluation.variants import plan_main, plan_random, rarefied
from aam.learners.ensemble import EnsembleLearner


def with_counts(study, change):
    counts = study.table.counts.toarray()
    change(counts)
    return replace(study, table=replace(study.table, counts=sparse.csr_array(counts)))


@pytest.mark.parametrize("column", ["number", "kind"])
def test_nothing_of_held_out_samples_reaches_a_fit(study_of, labels_of, learners, config, column):
    study, metadata = study_of()
    options = config(metadata_column=column, classifier=column == "kind")
    variant = plan_main(study, labels_of(metadata, column), options)
    fold = variant.folds[0]
    one = fit_fold(variant, fold, learners)
    other = metadata.copy()
    other.loc[other.index[fold.held_out], column] = 1e6 if column == "number" else "more"
    lied = fit_fold(replace(variant, labels=labels_of(other, column)), fold, learners)
    assert one == lied

    def spoil(counts):
        counts[fold.held_out[1:]] = 7

    spoiled = with_counts(study, spoil)
    changed = fit_fold(replace(variant, study=spoiled, draws=(spoiled,)), fold, learners)
    for name, columns in one.learners.items():
        assert all(values[0] == changed.learners[name][key][0] for key, values in columns.items()), name


def test_predictions_come_in_the_columns_own_units_with_a_spread(study_of, labels_of, learners, config):
    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config())
    result = fit_fold(variant, variant.folds[0], learners)
    shares = result.learners["linear"]
    true = metadata.loc[result.sample_id, "number"]
    assert np.corrcoef(shares["prediction"], true)[0, 1] > 0.9
    sd = metadata.iloc[variant.folds[0].train]["number"].std(ddof=0)
    np.testing.assert_allclose(shares["spread"], sd / 2)


def test_unseen_asvs_are_dropped_and_what_has_no_others_gets_the_guess(study_of, labels_of, learners, config):
    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config(unseen_asvs="drop"))
    fold = variant.folds[0]

    def change(counts):
        counts[:, 5] = 0
        counts[fold.held_out[0]] = [0, 0, 0, 0, 0, 9]
        counts[fold.held_out[1], 5] = 1000

    study = with_counts(study, change)
    variant = replace(variant, study=study, draws=(study,))
    kept, (_, part) = with_counts(study, lambda counts: None), held_out_studies(variant, fold)[0]
    assert part.table.counts.shape == (len(fold.held_out), 6)
    assert part.table.depth[0] == 0
    row = kept.table.counts.toarray()[fold.held_out[1], :5]
    np.testing.assert_allclose(part.asv_proportions[[1]].toarray()[0, :5], row / row.sum())
    result = fit_fold(variant, fold, learners)
    assert result.empty == [study.table.sample_ids[fold.held_out[0]]]
    assert result.learners["linear"]["prediction"][0] == result.learners["null"]["prediction"][0]
    seen = fit_fold(replace(variant, drop_unseen=False), fold, learners)
    assert seen.learners["linear"]["prediction"][1] != result.learners["linear"]["prediction"][1]


def test_learners_are_fitted_to_the_first_draw_and_averaged_over_all(study_of, labels_of, learners, config):
    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config(rarefy_depth=100, rarefy_draws=3))
    assert [set(draw.table.depth) for draw in variant.draws] == [{100}] * 3
    assert (variant.draws[0].table.counts != variant.draws[1].table.counts).nnz > 0
    fold = variant.folds[0]
    apart = [
        fit_fold(replace(variant, draws=(variant.draws[0],)), fold, learners),
        fit_fold(replace(variant, draws=variant.draws), fold, learners),
    ]
    first, mean = (np.array(each.learners["linear"]["prediction"]) for each in apart)
    assert not np.allclose(first, mean)
    assert np.mean(apart[1].learners["linear"]["spread"]) > np.mean(apart[0].learners["linear"]["spread"])
    # depth is that of all reads, or it would have nothing to tell
    assert len(set(apart[1].learners["depth"]["prediction"])) > 1


def test_draws_are_by_sample_and_not_by_row(study_of, labels_of, config):
    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config(rarefy_depth=100))
    order = np.random.default_rng(1).permutation(study.table.n_samples)
    moved = replace(study, table=study.table.select_samples(order), metadata=metadata.iloc[order])
    other = plan_main(moved, labels_of(metadata.iloc[order]), config(rarefy_depth=100))
    for one, two in zip(variant.draws, other.draws, strict=True):
        np.testing.assert_array_equal(one.table.counts[order].toarray(), two.table.counts.toarray())


def test_rarefied_folds_are_those_of_the_samples_that_are_deep_enough(study_of, labels_of, config):
    study, metadata = study_of()
    main = plan_main(study, labels_of(metadata), config())
    part = rarefied(main, config())
    deep = {study.table.sample_ids[row] for row in np.flatnonzero(study.table.depth >= part.depth)}
    assert 0.95 <= len(deep) / 48 < 1
    for one, two in zip(main.folds, part.folds, strict=True):
        for side in ("train", "held_out"):
            before, after = (
                [variant.study.table.sample_ids[row] for row in getattr(fold, side)]
                for variant, fold in ((main, one), (part, two))
            )
            assert after == [name for name in before if name in deep]
    assert {tuple(set(draw.table.depth)) for draw in part.draws} == {(part.depth,)}


def test_the_random_split_has_as_many_folds_and_divides_groups(study_of, labels_of, config):
    study, metadata = study_of()
    main = plan_main(study, labels_of(metadata), config(gap=True, repeats=2))
    random = plan_random(main, config(gap=True, repeats=2))
    assert [fold.name for fold in random.folds] == [fold.name for fold in main.folds]
    fold, groups = random.folds[0], metadata["subject"].to_numpy()
    assert set(groups[fold.train]) & set(groups[fold.held_out])


def test_too_deep_is_refused(study_of, labels_of, config):
    study, metadata = study_of()
    with pytest.raises(InputError, match="--rarefy-depth 10000: 0 of 48 samples have so many reads"):
        plan_main(study, labels_of(metadata), config(rarefy_depth=10000))


def test_members_of_an_ensemble_are_fitted_once(study_of, labels_of, learners, config):
    fitted = []

    class Counting(type(learners["linear"])):
        def solve(self, problem):
            if len(problem.rows) > 35:
                fitted.append(len(problem.rows))
            return super().solve(problem)

    learners["linear"] = Counting()
    both = (learners["linear"], learners["forest"])
    learners["ensemble"] = EnsembleLearner(
        both, EnsembleConfig(ensemble_members=("clades", "linear"), ensemble_weights="mean")
    )
    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config())
    result = fit_fold(variant, variant.folds[0], learners)
    assert len(fitted) == 1
    mean = np.mean([result.learners[name]["prediction"] for name in ("linear", "forest")], axis=0)
    np.testing.assert_allclose(result.learners["ensemble"]["prediction"], mean)


def test_depth_as_a_member_sees_the_reads_that_the_others_see(study_of, labels_of, learners, config):
    """All samples have as many, so that it tells nothing; fitted to all reads it would be asked for what it has not."""
    study, metadata = study_of()
    weights = EnsembleConfig(ensemble_members=("depth",), ensemble_weights="mean")
    learners["ensemble"] = EnsembleLearner((learners["depth"],), weights)
    times = np.random.default_rng(1).integers(1, 30, (48, 1))
    study = with_counts(study, lambda counts: np.multiply(counts, times, out=counts))
    metadata["number"] = np.log(times[:, 0])
    variant = plan_main(replace(study, metadata=metadata), labels_of(metadata), config(rarefy_depth=100))
    result = fit_fold(variant, variant.folds[0], learners)
    train = metadata["number"].iloc[variant.folds[0].train]
    np.testing.assert_allclose(result.learners["ensemble"]["prediction"], train.mean(), atol=0.3)


@pytest.mark.parametrize("column", ["number", "kind"])
def test_a_batch_that_decides_the_target_predicts_it(study_of, labels_of, learners, config, column):
    study, metadata = study_of()
    halves = metadata["number"] > metadata["number"].median()
    metadata["plate"] = np.where(halves, "p1", "p2") if column == "number" else "p" + metadata["kind"]
    study = replace(study, metadata=metadata)
    learners["batch"] = BatchLearner(("plate",))
    variant = plan_main(study, labels_of(metadata, column), config(metadata_column=column, classifier=column == "kind"))
    result = fit_fold(variant, variant.folds[0], learners)
    truth = metadata.loc[result.sample_id, column]
    if column == "kind":
        assert result.learners["batch"]["prediction"] == truth.tolist()
    else:
        high = np.array(result.learners["batch"]["prediction"]) > metadata["number"].median()
        assert (high == halves.loc[result.sample_id]).all()


def test_a_batch_that_training_has_not_seen_is_no_error(study_of, labels_of, learners, config):
    study, metadata = study_of()
    metadata["plate"] = metadata["subject"]
    learners["batch"] = BatchLearner(("plate",))
    variant = plan_main(replace(study, metadata=metadata), labels_of(metadata), config())
    result = fit_fold(variant, variant.folds[0], learners)
    assert len(set(result.learners["batch"]["prediction"])) == 1


def test_what_a_learner_cannot_learn_is_said_with_its_fold(study_of, labels_of, learners, config):
    class Refusing(type(learners["linear"])):
        def solve(self, problem):
            raise InputError("no clades")

    study, metadata = study_of()
    variant = plan_main(study, labels_of(metadata), config())
    with pytest.raises(InputError, match=r"^linear in fold 1\.2: no clades$"):
        fit_fold(variant, variant.folds[1], {**learners, "linear": Refusing()})


def test_the_table_of_labels_is_not_changed(study_of, labels_of, learners, config):
    study, metadata = study_of()
    labels = labels_of(metadata)
    before = labels.values.copy()
    variant = plan_main(study, labels, config())
    fit_fold(variant, variant.folds[0], learners)
    pd.testing.assert_frame_equal(labels.values, before)

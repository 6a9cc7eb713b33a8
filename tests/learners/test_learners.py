"""What every learner promises."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from aam.config import (
    EnsembleConfig,
    LearnersConfig,
    LinearConfig,
    RuntimeConfig,
    TargetConfig,
    TargetModelConfig,
    TargetOptimConfig,
    TrainingConfig,
    TreesConfig,
)
from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.errors import InputError
from aam.learners.base import Labels, Output, pose
from aam.learners.calibration import Calibration
from aam.learners.kernel import KernelLearner
from aam.learners.kernel_sources import Wanted
from aam.learners.rarefied import Rarefaction, auto_depth, mean_output
from aam.learners.reference import Reference
from aam.learners.registry import make_learner
from aam.learners.storage import LearnerSpec, TrainedLearner, load_learner, save_learner
from aam.workflows.neural_learner import NeuralLearner, sides_of

NAMES = ("null", "depth", "linear", "forest", "clades", "kernel", "ensemble")
NAMES_AND_METADATA = ("kernel with all", "ensemble with all")
"""The kernel with an encoder and columns of the metadata, by itself and as a member."""
NAMES_AND_NETWORK = (*NAMES, *NAMES_AND_METADATA, "neural", "ensemble with neural")
CONFIG = LearnersConfig(trees=TreesConfig(trees=20))
WANTED: list[Wanted] = []
"""What these learn from besides reads."""
NETWORK = NeuralLearner(
    TrainingConfig(
        target=TargetConfig(metadata_column=("target",)),
        model=TargetModelConfig(embedding_dim=8, attention_heads=2),
        optim=TargetOptimConfig(epochs=2, batch_size=8, min_steps=0),
        runtime=RuntimeConfig(device="cpu"),
    )
)


def learner(name, **options):
    if name == "ensemble with neural":
        name, options = "ensemble", {"ensemble": EnsembleConfig(ensemble_members=("linear", "neural"))}
    more = {"neural": lambda _: NETWORK}
    if name in NAMES_AND_METADATA:
        name = name.split()[0]
        options = {"ensemble": EnsembleConfig(ensemble_members=("linear", "kernel"))}
        more |= {"kernel": lambda config: KernelLearner(config.kernel, tuple(WANTED))}
    return make_learner(name, CONFIG.model_copy(update=options), more=more)


@pytest.fixture(scope="module", autouse=True)
def _told(described):
    WANTED[:] = described


def numbers(study, *columns, groups=True, **config) -> Labels:
    values = study.metadata[list(columns or ("acidity",))].astype(float)
    target = TargetConfig(metadata_column=columns or ("acidity",), **config)
    return Labels(values, target, study.metadata["subject"].to_numpy().astype(str) if groups else None)


def classes(study, column="habitat", groups=True) -> Labels:
    target = TargetConfig(metadata_column=(column,), classifier=True)
    names = study.metadata["subject"].to_numpy().astype(str) if groups else None
    return Labels(study.metadata[[column]].astype(object), target, names)


def disturbed(study: Study, labels: Labels, rows) -> tuple[Study, Labels]:
    """The study and its labels with everything changed about the samples that are not among some rows."""
    others = np.setdiff1d(np.arange(study.table.n_samples), rows)
    random = np.random.default_rng(0)
    counts = study.table.counts.toarray()
    counts[others] = random.permuted(counts[others], axis=1) * random.integers(1, 9, (len(others), 1))
    table = FeatureTable(csr_array(counts), study.table.sample_ids, study.table.asv_ids, study.table.sequences)
    values = labels.values.copy()
    for name in values:
        drawn = random.permutation(values[name].iloc[others].to_numpy())
        values.iloc[others, values.columns.get_loc(name)] = drawn if labels.config.classifier else drawn * 3 + 100
    groups = None if labels.groups is None else labels.groups.astype(object)
    if groups is not None:
        groups[others] = "elsewhere"
        groups = groups.astype(str)
    weight = None if labels.weight is None else np.where(np.isin(np.arange(len(values)), others), 50.0, labels.weight)
    metadata = study.metadata.copy()
    for name in metadata:
        told = pd.api.types.is_numeric_dtype(metadata[name])
        metadata.iloc[others, metadata.columns.get_loc(name)] = 1e6 if told else f"another {name}"
    return replace(study, table=table, metadata=metadata), replace(labels, values=values, groups=groups, weight=weight)


def equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


KINDS = {"numbers": numbers, "classes": classes}


def fitted(name, study, labels, rows, seed=3):
    return learner(name).fit(study, rows, labels, seed)


def predicted(solution, study, rows) -> pd.DataFrame:
    return solution.predict(study, rows).table(study.metadata.iloc[rows])


@pytest.fixture(scope="module")
def sides(study):
    subjects = study.metadata["subject"].to_numpy().astype(str)
    held_out = np.isin(subjects, np.unique(subjects)[:2])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES_AND_NETWORK)
def test_nothing_is_learned_from_other_rows(name, kind, study, sides):
    rows, others = sides
    labels = KINDS[kind](study)
    labels = replace(labels, weight=np.linspace(1, 2, len(labels.values)))
    one = fitted(name, study, labels, rows)
    other = fitted(name, *disturbed(study, labels, rows), rows)
    arrays, same = one.solutions[0].arrays(), other.solutions[0].arrays()
    assert arrays.keys() == same.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, same[key], err_msg=key)
    assert one.targets == other.targets
    equal(predicted(one, study, others), predicted(other, study, others))


@pytest.mark.parametrize("name", NAMES_AND_NETWORK)
def test_the_order_of_the_training_rows_does_not_matter(name, study, sides):
    rows, others = sides
    labels = classes(study)
    equal(
        predicted(fitted(name, study, labels, rows), study, others),
        predicted(fitted(name, study, labels, rows[::-1].copy()), study, others),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES_AND_NETWORK)
def test_a_checkpoint_predicts_the_same_to_the_last_bit(name, kind, study, sides, tmp_path):
    rows, _others = sides
    solution = fitted(name, study, KINDS[kind](study), rows)
    spec = LearnerSpec(learner=name.split()[0], training=[study.table.sample_ids[row] for row in rows])
    save_learner(TrainedLearner(spec, solution, Reference.of(study)), tmp_path / "model")
    again = load_learner(tmp_path / "model")
    assert again.spec == spec
    equal(
        again.predict(study)[0].drop(columns="reads_lost"), predicted(solution, study, np.arange(study.table.n_samples))
    )
    for before, after in zip(solution.solutions, again.fitted.solutions, strict=True):
        assert (before.left_out is None) == (after.left_out is None)


@pytest.mark.parametrize("name", NAMES_AND_NETWORK)
def test_several_targets_with_values_missing(name, study, sides):
    rows, others = sides
    labels = numbers(study, "acidity", "day")
    values = labels.values.copy()
    values.iloc[rows[::3], 0] = np.nan
    values.iloc[rows[1::3], 1] = np.nan
    labels = replace(labels, values=values)
    table = predicted(fitted(name, study, labels, rows), study, others)
    assert {"prediction_acidity", "prediction_day"} <= set(table.columns)
    assert np.isfinite(table.to_numpy()).all()
    alone = replace(
        labels, values=values[["day"]], config=labels.config.model_copy(update={"metadata_column": ("day",)})
    )
    of_one = predicted(fitted(name, study, alone, rows), study, others)
    np.testing.assert_array_equal(table["prediction_day"], of_one["prediction"])


@pytest.mark.parametrize("name", NAMES)
def test_a_logarithm_of_the_target(name, study, sides):
    rows, others = sides
    labels = numbers(study, "day", target_transform="log-zscore")
    table = predicted(fitted(name, study, labels, rows), study, others)
    assert (table["prediction"] > -1).all()
    if "spread" in table:
        assert (table["spread"] > 0).all()


@pytest.mark.parametrize("name", NAMES_AND_NETWORK)
def test_a_class_that_an_inner_fold_lacks(name, study, sides):
    rows, others = sides
    labels = classes(study)
    values = labels.values.copy()
    values.iloc[rows[0], 0] = "rare"
    table = predicted(fitted(name, study, replace(labels, values=values), rows), study, others)
    probabilities = table.filter(like="probability_")
    assert "probability_rare" in probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "depth"])
def test_weights_count(name, study, sides):
    """A sample of weight zero, or nearly, leaves what the others say."""
    rows, others = sides
    labels = numbers(study)
    values = labels.values.copy()
    values.iloc[rows[:4], 0] = 1000.0
    weight = np.ones(len(values))
    weight[rows[:4]] = 1e-9
    table = predicted(fitted(name, study, replace(labels, values=values, weight=weight), rows), study, others)
    assert table["prediction"].abs().max() < 100


@pytest.mark.parametrize("name", ["linear", "clades", "kernel"])
def test_the_depth_of_a_sample_is_no_feature(name, study, sides):
    rows, others = sides
    solution = fitted(name, study, numbers(study), rows)
    table = study.table
    deeper = replace(
        study, table=FeatureTable(csr_array(table.counts * 7), table.sample_ids, table.asv_ids, table.sequences)
    )
    np.testing.assert_allclose(
        predicted(solution, study, others)["prediction"], predicted(solution, deeper, others)["prediction"], rtol=1e-9
    )


@pytest.mark.parametrize("penalty", ["l2", "l1", "elasticnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_penalties(penalty, kind, study, sides):
    rows, _others = sides
    made = learner("linear", linear=LinearConfig(linear_penalty=penalty))
    solution = made.fit(study, rows, KINDS[kind](study), 0).solutions[0]
    zeros = np.count_nonzero(solution.coefficients == 0)
    assert (zeros > 0) == (penalty != "l2")


def test_stacked_weights_are_non_negative_and_sum_to_one(study, sides):
    rows, _ = sides
    made = learner(
        "ensemble", ensemble=EnsembleConfig(ensemble_members=("null", "linear", "forest"), ensemble_weights="stack")
    )
    for labels in (numbers(study), classes(study)):
        weights = made.fit(study, rows, labels, 0).solutions[0].weights
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
        assert weights[0] < 1 / 3  # the null model is the worst of the three


def test_an_ensemble_without_a_tree_goes_without_clades(study, sides, caplog):
    rows, _ = sides
    made = make_learner("ensemble", CONFIG, has_tree=False)
    assert "clades" not in [one.name for one in made.members]
    assert "clades" in caplog.text
    with pytest.raises(InputError, match="the learner clades reads clades of the phylogeny: give --tree"):
        make_learner("clades", CONFIG, has_tree=False)
    made.fit(replace(study, tree=None), rows, numbers(study), 0)


def test_unknown_asvs_are_dropped_and_told(study, sides, tmp_path, caplog):
    rows, _others = sides
    labels = numbers(study)
    solution = fitted("clades", study, labels, rows)
    spec = LearnerSpec(learner="clades", training=[])
    trained = TrainedLearner(spec, solution, Reference.of(study))
    table = study.table
    counts = table.counts.toarray()
    renamed = ("ACGT" * 10, *table.sequences[1:])
    foreign = replace(study, table=FeatureTable(table.counts, table.sample_ids, renamed, renamed))
    lost = trained.predict(foreign)[0]["reads_lost"]
    expected = pd.Series(counts[:, 0] / counts.sum(axis=1), index=list(table.sample_ids))
    np.testing.assert_allclose(lost, expected.loc[list(lost.index)])
    assert "dropped 1 of" in caplog.text


def test_rarefied_draws_are_of_ids(study):
    depth = auto_depth(study.table.depth)
    drawn = Rarefaction(depth=depth, draws=2, seed=1).drawn(study)
    assert len(drawn) == 2
    assert (drawn[0].table.depth == depth).all()
    assert drawn[0].table.n_samples >= 0.95 * study.table.n_samples
    assert (drawn[0].table.counts != drawn[1].table.counts).nnz > 0
    with pytest.raises(InputError, match="--rarefy-depth 999999: no sample has as many reads"):
        Rarefaction(depth=999999).drawn(study)


def test_a_constant_target_is_refused(study, sides):
    rows, _ = sides
    labels = numbers(study)
    with pytest.raises(InputError, match=r"acidity: the target is 1\.0 in all"):
        pose(study, rows, replace(labels, values=labels.values * 0 + 1), 0)


def test_the_network_is_judged_by_whole_groups_and_known_classes(study, sides):
    rows, _ = sides
    _, (problem,) = pose(study, rows, classes(study), 3)
    side = sides_of(problem, 0.2)
    assert set(side) == {"train", "val"}
    assert not set(problem.groups[side == "val"]) & set(problem.groups[side == "train"])
    assert set(problem.codes[side == "val"]) <= set(problem.codes[side == "train"])
    by_class = replace(problem, y=(problem.groups == 0).astype(float), classes=2)
    side = sides_of(by_class, 0.2)
    assert (side == "val").any()
    assert set(by_class.codes[side == "train"]) == {0, 1}
    alone = sides_of(replace(problem, groups=np.zeros_like(problem.groups)), 0.2)
    assert set(alone) == {"train", "val"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_where_little_is_to_be_learned(kind, study, sides):
    rows, others = sides
    _, (problem,) = pose(study, rows, KINDS[kind](study), 3)
    alike = replace(problem, y=np.zeros_like(problem.y))
    assert np.ptp(NETWORK.solve(alike).predict(study, others).value, axis=0).max() == 0
    one = np.zeros_like(problem.y)
    one[0] = 1
    assert np.isfinite(NETWORK.solve(replace(problem, y=one)).predict(study, others).value).all()
    few = problem.take(np.arange(3))
    assert np.isfinite(NETWORK.solve(replace(few, y=one[:3])).predict(study, others).value).all()


def test_the_network_learns_by_weight(study, sides):
    rows, others = sides
    labels = numbers(study)
    weight = np.linspace(0.1, 3, len(labels.values))
    one = predicted(fitted("neural", study, labels, rows), study, others)
    other = predicted(fitted("neural", study, replace(labels, weight=weight), rows), study, others)
    assert (one["prediction"] != other["prediction"]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_are_all_alike_leave_the_mean(kind, study, sides):
    """One prevalent ASV has the log-ratio 0 in every sample."""
    rows, others = sides
    table = study.table
    one = replace(
        study,
        table=FeatureTable(
            csr_array(np.full((table.n_samples, 1), 5)), table.sample_ids, table.asv_ids[:1], table.sequences[:1]
        ),
        tree=None,
    )
    for penalty in ("l2", "l1"):
        made = learner("linear", linear=LinearConfig(linear_penalty=penalty))
        table_ = predicted(made.fit(one, rows, KINDS[kind](study), 0), study=one, rows=others)
        assert table_.select_dtypes(float).notna().all(axis=None)
        assert table_["prediction"].nunique() == 1


@pytest.mark.parametrize("name", ["linear", "kernel", "ensemble"])
def test_one_training_sample_of_each_class(name, study, sides):
    _, others = sides
    labels = classes(study)
    rows = np.array(
        [int(np.flatnonzero(labels.values.iloc[:, 0] == kind)[0]) for kind in labels.values.iloc[:, 0].unique()]
    )
    table = predicted(fitted(name, study, labels, rows), study, others)
    np.testing.assert_allclose(table.filter(like="probability_").sum(axis=1), 1)


def test_a_calibrated_sample_does_not_depend_on_its_companions():
    calibration = Calibration(3.0, (True, True, True))
    rows = np.array([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]])
    np.testing.assert_array_equal(calibration.apply(rows)[:1], calibration.apply(rows[:1]))
    assert calibration.apply(rows)[0, 2] > 0
    assert Calibration(3.0, (True, True, False)).apply(rows[:1])[0, 2] == 0


def test_reads_are_drawn_before_unknown_asvs_are_dropped(study, sides):
    """So that a sample that is deep enough stays, as it did when the learner was judged."""
    rows, _ = sides
    solution = fitted("clades", study, numbers(study), rows)
    depth = auto_depth(study.table.depth)
    spec = LearnerSpec(learner="clades", training=[], rarefaction=Rarefaction(depth=depth, draws=2))
    table = study.table
    foreign = tuple(f"{'ACGT' * 8}{'ACGT'[i % 4] * (1 + i)}" for i in range(table.n_asvs // 2))
    renamed = (*foreign, *table.sequences[len(foreign) :])
    other = replace(study, table=FeatureTable(table.counts, table.sample_ids, renamed, renamed))
    predictions, used = TrainedLearner(spec, solution, Reference.of(study)).predict(other)
    deep = {sample for sample, reads in zip(table.sample_ids, table.depth, strict=True) if reads >= depth}
    assert set(predictions.index) == deep
    assert used.table.depth.min() < depth


def test_the_spread_of_several_draws_holds_what_is_between_them():
    parts = [Output(np.array([0.0]), np.array([1.0])), Output(np.array([2.0]), np.array([1.0]))]
    mean = mean_output(parts)
    assert mean.value == [1.0]
    assert mean.spread == pytest.approx([np.sqrt(2)])

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats
from scipy.sparse import csr_array
from torch.utils.data import DataLoader

from aam.config import AugmentationConfig, InputConfig, SamplingConfig, UnifracConfig
from aam.data.distances.unifrac import distances, faith_pd
from aam.data.files.sequences import sequence_keys
from aam.data.files.tables import FeatureTable
from aam.data.sampling.augmentation import Augmentation, Mixing
from aam.data.sampling.dataset import FixedBatches, StepDataset, StepPlan
from aam.data.sampling.rarefaction import FIXED, SampleDraws, row_of
from aam.data.sampling.seeded import generator
from aam.data.study import load_study

COUNTS = np.array([[500, 300, 150, 40, 10, 0], [0, 3, 0, 2, 1, 0], [7, 0, 0, 0, 900, 0], [0, 0, 0, 0, 0, 800]])
LABELS = ["gut", "gut", "gut", "skin"]
ALL = {"asv_dropout": 0.3, "depth_jitter": 0.5, "mix": 0.7}


def table_of(counts: np.ndarray, names: list[str] | None = None, order: list[int] | None = None) -> FeatureTable:
    names = names or [f"s{number}" for number in range(len(counts))]
    columns = list(range(counts.shape[1])) if order is None else order
    asvs = tuple(f"asv{column}" for column in columns)
    return FeatureTable(csr_array(counts[:, columns].astype(np.int64)), tuple(names), asvs, asvs)


def augmented(
    table: FeatureTable,
    seed: int = 1,
    mix: float = 0.0,
    labels: list[str] | None = None,
    variations: dict[str, float] | None = None,
    **sampling,
) -> SampleDraws:
    everyone = np.arange(table.n_samples)
    mixing = Mixing.of(mix, everyone, labels or ["same"] * table.n_samples, table.sample_ids)
    keys = torch.from_numpy(sequence_keys(table.sequences))
    config = AugmentationConfig(**variations or {})
    augmentation = Augmentation(config, seed, table.sample_ids, keys, mixing)
    return SampleDraws(table, SamplingConfig(**sampling), seed, augmentation)


def draws_of(counts: np.ndarray = COUNTS, names=None, order=None, **options) -> SampleDraws:
    """Draws of a table; options of the augmentation, of the sampling, and the labels."""
    kinds = AugmentationConfig.model_fields
    variations = {name: value for name, value in options.items() if name in kinds}
    others = {name: value for name, value in options.items() if name not in kinds}
    return augmented(table_of(counts, names, order), variations=variations, **others)


def drawn(draws: SampleDraws, sample: int, epoch: int | str) -> dict[str, int]:
    asv, count = draws.counts(sample, epoch)
    assert asv.dtype == count.dtype == np.int64
    assert (np.diff(asv) > 0).all()
    assert (count > 0).all()
    return {draws.table.asv_ids[i]: int(n) for i, n in zip(asv, count, strict=True)}


def old_counts(table: FeatureTable, depth: int | None, address: tuple) -> tuple[np.ndarray, np.ndarray]:
    """What was drawn before there was augmentation, written once more."""
    count = table.counts.toarray()[[list(table.sample_ids).index(address[-1])]][0]
    asv = np.flatnonzero(count)
    count = count[asv]
    if depth is not None and count.sum() > depth:
        count = generator(*address).multivariate_hypergeometric(count, depth, method="marginals")
    return asv[count > 0], count[count > 0]


@pytest.mark.parametrize("depth", [None, 4, 500])
@pytest.mark.parametrize("rarefaction", ["epoch", "fixed"])
@pytest.mark.parametrize("options", [None, {}, ALL])
def test_unless_asked_and_in_validation_the_draws_are_those_without_augmentation(depth, rarefaction, options):
    sampling = {"rarefy_depth": depth, "keep_shallow": depth is not None, "rarefaction": rarefaction}
    table = table_of(COUNTS)
    draws = SampleDraws(table, SamplingConfig(**sampling), 1) if options is None else draws_of(**options, **sampling)
    for epoch in (FIXED,) if options else (0, 3, FIXED):
        for sample, name in enumerate(table.sample_ids):
            address = (1, "rarefy", FIXED if rarefaction == "fixed" else epoch, name)
            expected = old_counts(table, depth, address)
            assert all(np.array_equal(*pair) for pair in zip(draws.counts(sample, epoch), expected, strict=True))


@given(
    counts=npst.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 10)), elements=st.integers(0, 60)),
    depth=st.none() | st.integers(1, 200),
    jitter=st.sampled_from([0.0, 0.3, 0.95]),
    dropout=st.sampled_from([0.0, 0.4, 0.99]),
    mix=st.sampled_from([0.0, 0.5, 1.0]),
    epoch=st.integers(0, 3),
)
def test_an_augmented_sample_has_reads_of_its_own_and_of_its_peers_alone(counts, depth, jitter, dropout, mix, epoch):
    sampling = {"rarefy_depth": depth, "keep_shallow": depth is not None}
    labels = [f"class{row % 2}" for row in range(len(counts))]
    draws = draws_of(counts, depth_jitter=jitter, asv_dropout=dropout, mix=mix, labels=labels, **sampling)
    for sample, available in enumerate(counts):
        found = drawn(draws, sample, epoch)
        row = np.array([found.get(f"asv{column}", 0) for column in range(counts.shape[1])])
        base = min(depth or available.sum(), available.sum())
        peers = counts[[other for other in range(sample % 2, len(counts), 2) if other != sample]]
        most = available + (peers.max(axis=0) if mix and len(peers) else 0)
        assert (row <= most).all()
        assert row.sum() <= base
        assert bool(found) == bool(available.sum())
        if dropout == 0:
            assert row.sum() >= (1 - jitter) * base - 1e-9
        if dropout == jitter == 0:
            assert row.sum() == base


def test_an_augmented_draw_is_a_function_of_seed_epoch_sample_id_and_sequence():
    draws = draws_of(**ALL, rarefy_depth=100, keep_shallow=True, labels=LABELS)
    before = drawn(draws, 2, 3)
    drawn(draws, 0, 3)
    assert drawn(draws, 2, 3) == before
    names, rows = ["s3", "s2", "s1", "s0"], [3, 2, 1, 0]
    turned = {"counts": COUNTS[rows], "names": names, "labels": [LABELS[row] for row in rows]}
    more = {**ALL, "rarefy_depth": 100, "keep_shallow": True}
    assert drawn(draws_of(**turned, **more), 1, 3) == before
    changes = [
        drawn(draws, 2, 4),
        drawn(draws, 2, FIXED),
        drawn(draws_of(**more, labels=LABELS, seed=2), 2, 3),
        drawn(draws_of(names=["s0", "s1", "renamed", "s3"], **more, labels=LABELS), 2, 3),
        before,
    ]
    assert len({tuple(sorted(change.items())) for change in changes}) == len(changes)


def test_which_asvs_are_left_out_depends_on_their_sequences_and_not_on_their_columns():
    draws = draws_of(asv_dropout=0.5)
    turned = draws_of(asv_dropout=0.5, order=[4, 2, 0, 5, 3, 1])
    found = [drawn(draws, 0, epoch) for epoch in range(20)]
    assert found == [drawn(turned, 0, epoch) for epoch in range(20)]
    assert len({tuple(sorted(each)) for each in found}) > 5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_asv_is_left_out_as_often_as_asked_and_by_itself(rate):
    epochs, width = 3000, 8
    draws = draws_of(np.full((1, width), 9), asv_dropout=rate)
    kept = np.array(
        [[f"asv{i}" in found for i in range(width)] for found in (drawn(draws, 0, e) for e in range(epochs))]
    )
    bound = 4.5 * np.sqrt(rate * (1 - rate) / epochs)
    assert np.abs(kept.mean(axis=0) - (1 - rate)).max() < bound
    both = (~kept[:, 0] & ~kept[:, 1]).mean()
    assert abs(both - rate**2) < bound


def test_at_least_one_asv_stays_and_each_may_be_the_one():
    draws = draws_of(np.full((1, 4), 9), asv_dropout=0.999)
    found = [drawn(draws, 0, epoch) for epoch in range(400)]
    assert {len(each) for each in found} <= {1, 2}
    times = np.bincount([int(next(iter(each))[-1]) for each in found if len(each) == 1], minlength=4)
    assert np.abs(times - 100).max() < 4.5 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize(("depth", "base"), [(None, 1000), (200, 200)])
def test_the_depth_is_uniform_between_its_bounds(depth, base):
    draws = draws_of(depth_jitter=0.3, rarefy_depth=depth, keep_shallow=depth is not None)
    depths = np.array([sum(drawn(draws, 0, epoch).values()) for epoch in range(3000)])
    assert (depths.min(), depths.max()) == (pytest.approx(0.7 * base, abs=2), pytest.approx(base, abs=2))
    assert stats.kstest((depths - 0.7 * base + 0.5) / (0.3 * base + 1), "uniform").pvalue > 1e-3


def test_reads_at_the_jittered_depth_are_drawn_without_replacement():
    """Over epochs, the fraction of an ASV is that of the sample."""
    draws = draws_of(depth_jitter=0.9, rarefy_depth=400, keep_shallow=True)
    share = [found.get("asv0", 0) / sum(found.values()) for found in (drawn(draws, 0, e) for e in range(1500))]
    assert np.mean(share) == pytest.approx(0.5, abs=4.5 * np.std(share) / np.sqrt(1500))


@pytest.mark.parametrize("options", [{"asv_dropout": 0.5}, {"depth_jitter": 0.5}, {"mix": 1.0}])
def test_with_fixed_rarefaction_training_samples_are_still_varied_in_each_epoch(options):
    draws = draws_of(rarefy_depth=100, keep_shallow=True, rarefaction="fixed", **options)
    found = [drawn(draws, 0, epoch) for epoch in range(6)]
    assert len({tuple(sorted(each.items())) for each in found}) > 3
    once = drawn(draws, 0, FIXED)
    if "mix" not in options:  # the reads that were drawn once for the run, less some
        assert all(each[asv] <= once[asv] for each in found for asv in each)


def test_a_sample_is_mixed_as_often_as_asked_and_in_every_proportion():
    counts = np.array([[1000, 0, 0], [0, 1000, 0], [0, 0, 1000]])
    draws = draws_of(counts, mix=0.4, rarefy_depth=500)
    found = [drawn(draws, 0, epoch) for epoch in range(3000)]
    assert all(sum(each.values()) == 500 for each in found)
    assert max(len(each) for each in found) == 2  # with one other, not with all
    mixed = [each for each in found if set(each) != {"asv0"}]
    assert len(mixed) / 3000 == pytest.approx(0.4, abs=4.5 * np.sqrt(0.24 / 3000))
    assert np.mean(["asv1" in each for each in mixed]) == pytest.approx(0.5, abs=4.5 * 0.5 / np.sqrt(len(mixed)))
    own = np.array([each.get("asv0", 0) for each in mixed]) / 500
    assert stats.kstest(own, "uniform").pvalue > 1e-3


def test_a_sample_is_mixed_within_its_class_and_not_alone():
    draws = draws_of(mix=1.0, labels=LABELS)
    assert all("asv5" not in drawn(draws, row, epoch) for row in (0, 1, 2) for epoch in range(100))
    assert all(drawn(draws, 3, epoch) == {"asv5": 800} for epoch in range(20))  # the one of its class
    assert any("asv1" in drawn(draws, 2, epoch) for epoch in range(20))


def test_validation_samples_are_not_mixed_in():
    table = table_of(COUNTS)
    mixing = Mixing.of(1.0, np.array([2, 0]), ["a"] * 4, table.sample_ids)
    assert {row: rows.tolist() for row, rows in mixing.peers.items()} == {0: [0, 2], 2: [0, 2]}
    rng = np.random.default_rng(0)
    assert mixing.partner(1, rng) is None
    assert {mixing.partner(0, rng) for _ in range(20)} == {2}


@pytest.fixture(scope="module")
def study(study_folder):
    inputs = InputConfig(table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk")
    return load_study(inputs, SamplingConfig(), UnifracConfig())


def study_draws(study) -> SampleDraws:
    variations = {"asv_dropout": 0.3, "depth_jitter": 0.5}
    return augmented(study.table, seed=9, mix=0.7, variations=variations, rarefy_depth=100)


def test_distances_and_diversities_are_those_of_the_augmented_counts_on_any_rank(study):
    draws = study_draws(study)
    plan = StepPlan(4, 2, False, (np.array([7, 0, 31]), np.array([5, 8])))
    steps = [
        StepDataset(draws, study.distance_source(UnifracConfig()), study.tree, rank, ranks)[plan]
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    ]
    for step in steps:
        counts = draws.rows(step.samples, 2)
        assert (counts.sum(axis=1) < 100).all()
        own = slice(step.start, step.start + len(step.faith_pd))
        if step.distance is None:  # computed from the counts of all ranks, later
            assert np.array_equal(step.drawn.toarray(), counts[own].toarray())
        else:
            assert torch.equal(step.distance, distances(study.tree, counts, UnifracConfig()))
        assert torch.equal(step.faith_pd, faith_pd(study.tree, counts[own]))
        read = torch.cat([batch.depth for batch in step.micro])
        assert read.tolist() == counts.sum(axis=1)[own].tolist()


def test_held_out_samples_are_drawn_as_without_augmentation(study):
    plain = SampleDraws(study.table, SamplingConfig(rarefy_depth=100), 9)
    one, other = (FixedBatches(draws, np.arange(12), 5) for draws in (study_draws(study), plain))
    assert (one.drawn != other.drawn).nnz == 0
    for here, there in zip(one, other, strict=True):
        assert torch.equal(here.counts, there.counts)
        assert torch.equal(here.asv[here.asv_index], there.asv[there.asv_index])


def test_workers_vary_samples_alike(study):
    plans = [StepPlan(step, step, True, (np.arange(3 * step, 3 * step + 6),)) for step in range(5)]
    dataset = StepDataset(study_draws(study), study.distance_source(UnifracConfig()))
    here, there = (list(DataLoader(dataset, sampler=plans, batch_size=None, num_workers=n)) for n in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.distance, other.distance)
        assert torch.equal(one.micro[0].counts, other.micro[0].counts)
        assert torch.equal(one.micro[0].asv, other.micro[0].asv)


def test_rows_are_the_augmented_samples_one_by_one(study):
    draws = study_draws(study)
    stacked = draws.rows(np.array([3, 9]), 1)
    for row, sample in enumerate((3, 9)):
        found = row_of(stacked, row)
        assert all(np.array_equal(*pair) for pair in zip(found, draws.counts(sample, 1), strict=True))


@given(
    counts=npst.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.integers(0, 9)),
    depth=st.none() | st.integers(1, 40),
    limit=st.integers(0, 8),
    mix=st.sampled_from([0.0, 0.9]),
    epoch=st.integers(0, 9),
)
def test_no_sample_has_more_asvs_than_is_foretold(counts, depth, limit, mix, epoch):
    counts[:, 0] += 1
    labels = [str(row % 2) for row in range(len(counts))]
    draws = draws_of(counts, mix=mix, labels=labels, rarefy_depth=depth, keep_shallow=depth is not None, max_asvs=limit)
    rows = np.arange(len(counts))
    for most, when in ((draws.most_asvs(rows), epoch), (draws.most_asvs(rows, mixed=False), FIXED)):
        seen = [len(draws.choose(row, when, draws.counts(row, when))[0]) for row in rows.tolist()]
        assert (np.array(seen) <= most).all()


def test_depth_and_mixing_bound_the_asvs_of_a_sample():
    rows = np.arange(4)
    assert draws_of(mix=0.5, labels=LABELS).most_asvs(rows).tolist() == [10, 6, 7, 1]
    assert draws_of(mix=0.5, labels=LABELS).most_asvs(rows, mixed=False).tolist() == [5, 3, 2, 1]
    assert draws_of(mix=0.0, labels=LABELS).most_asvs(rows).tolist() == [5, 3, 2, 1]
    shallow = {"rarefy_depth": 4, "keep_shallow": True}
    assert draws_of(mix=0.5, labels=LABELS, **shallow).most_asvs(rows).tolist() == [4, 4, 4, 1]
    assert draws_of(mix=0.5, labels=LABELS, max_asvs=6).most_asvs(rows).tolist() == [6, 6, 6, 1]

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from aam.config import InputConfig, SamplingConfig, UnifracConfig
from aam.data.distances.matrix import DistanceMatrix
from aam.data.sampling import dataset as module
from aam.data.sampling.dataset import (
    FixedBatches,
    StepBatch,
    StepDataset,
    StepPlan,
    StepSampler,
    collate,
)
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.sampling.samples import SampleBatch
from aam.data.study import Study, load_study

SAMPLES = np.arange(3, 40)


def sampler(batch_size: int = 4, accumulation: int = 1, epochs: int = 3, start: int = 0, **options) -> StepSampler:
    given = {"samples": SAMPLES, "seed": 5, **options}
    return StepSampler(batch_size=batch_size, accumulation_steps=accumulation, epochs=epochs, start=start, **given)


def listed(plans) -> list[tuple]:
    return [(p.step, p.epoch, p.closes_epoch, [rows.tolist() for rows in p.micro]) for p in plans]


@given(count=st.integers(1, 50), batch_size=st.integers(1, 9), accumulation=st.integers(1, 4))
def test_every_epoch_sees_every_training_sample_once(count, batch_size, accumulation):
    plans = list(sampler(batch_size, accumulation, samples=np.arange(100, 100 + count)))
    assert [plan.step for plan in plans] == list(range(len(plans)))
    for epoch in range(3):
        steps = [plan for plan in plans if plan.epoch == epoch]
        assert [plan.closes_epoch for plan in steps] == [False] * (len(steps) - 1) + [True]
        seen = np.concatenate([plan.samples for plan in steps])
        assert sorted(seen) == list(range(100, 100 + count))
        sizes = [len(rows) for rows in chain.from_iterable(plan.micro for plan in steps)]
        assert max(sizes) <= batch_size
        of_steps = [len(plan.samples) for plan in steps]
        assert max(of_steps) - min(of_steps) <= 1, "a short step would count as much as any other"
        assert len(steps) == -(-count // (batch_size * accumulation))
        for plan in steps:
            parts = [len(rows) for rows in plan.micro]
            assert max(parts) - min(parts) <= 1
            assert len(parts) == -(-sum(parts) // batch_size)


def test_the_order_changes_with_epoch_and_seed():
    first, second, third = (np.concatenate([p.samples for p in sampler().plan_epoch(epoch)]) for epoch in range(3))
    other_seed = np.concatenate([p.samples for p in sampler(seed=6).plan_epoch(0)])
    orders = [tuple(order) for order in (first, second, third, other_seed, SAMPLES)]
    assert len(set(orders)) == 5


@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 29, 30])
def test_a_resumed_sampler_gives_the_tail(start):
    whole = listed(sampler())
    resumed = sampler(start=start)
    assert len(resumed) == len(whole) - start
    assert listed(resumed) == whole[start:]


def test_the_samples_of_a_step_do_not_depend_on_how_it_is_cut_into_batches():
    whole = [plan.samples.tolist() for plan in sampler(12, 1)]
    for batch_size, accumulation in [(6, 2), (4, 3), (1, 12)]:
        assert [plan.samples.tolist() for plan in sampler(batch_size, accumulation)] == whole


@pytest.fixture(scope="module")
def study(study_folder) -> Study:
    inputs = InputConfig(table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk")
    return load_study(inputs, SamplingConfig(), UnifracConfig())


def draws_of(study: Study, **options) -> SampleDraws:
    return SampleDraws(study.table, SamplingConfig(**options), 9)


def dataset_of(study: Study) -> StepDataset:
    return StepDataset(draws_of(study, rarefy_depth=100), study.distance_source(UnifracConfig()), study.tree)


def rebuilt(batch: SampleBatch, asvs: int) -> np.ndarray:
    """Counts of the samples of a batch, from its tensors: [B, ASVs of the table]."""
    counts = np.zeros((len(batch.sample), asvs), dtype=np.int64)
    for row in range(len(batch.sample)):
        for index, count in zip(batch.asv_index[row].tolist(), batch.counts[row].tolist(), strict=True):
            counts[row, batch.asv[index]] += count
    return counts


@pytest.mark.parametrize(
    "options", [{}, {"rarefy_depth": 120}, {"max_asvs": 5}, {"max_asvs": 5, "asv_choice": "random"}]
)
def test_collate_keeps_every_count_and_each_asv_once(study, options):
    draws = draws_of(study, **options)
    samples = np.array([7, 0, 31, 7])
    batch = collate(draws, samples, draws.rows(samples, 2), 2)
    expected = np.zeros((4, study.table.n_asvs), dtype=np.int64)
    for row, sample in enumerate(samples):
        asv, count = draws.choose(sample, 2, draws.counts(sample, 2))
        expected[row, asv] = count
    assert np.array_equal(rebuilt(batch, study.table.n_asvs), expected)
    assert batch.sample.tolist() == samples.tolist()
    assert batch.asv.tolist() == np.flatnonzero(expected.sum(axis=0)).tolist()
    assert batch.occurrence.tolist() == np.count_nonzero(expected, axis=0)[batch.asv].tolist()
    assert batch.asv_index.shape == batch.counts.shape == (4, np.count_nonzero(expected, axis=1).max())
    assert torch.equal(batch.padding, batch.counts == 0)
    assert not batch.asv_index[batch.padding].any()
    assert batch.depth.tolist() == draws.rows(samples, 2).sum(axis=1).tolist()


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, StepBatch | SampleBatch):
        value = tuple(vars(value).values())
    return list(chain.from_iterable(tensors(item) for item in value)) if isinstance(value, tuple) else []


def equal(one: StepBatch, other: StepBatch) -> bool:
    return listed([one.plan]) == listed([other.plan]) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)
    )


def test_workers_make_the_same_steps_as_the_main_process(study):
    plans = sampler(6, 2, epochs=2)
    here, there = (
        list(DataLoader(dataset_of(study), sampler=plans, batch_size=None, num_workers=workers)) for workers in (0, 2)
    )
    assert len(here) == len(plans) == 8
    assert len(tensors(here[0])) == 2 * 7 + 2
    assert all(equal(one, other) for one, other in zip(here, there, strict=True))
    assert not equal(here[0], here[1])


def test_a_step_knows_the_distances_of_all_its_samples(study):
    dataset = dataset_of(study)
    plan = StepPlan(step=4, epoch=1, closes_epoch=False, micro=(np.array([3, 1]), np.array([8])))
    step = dataset[plan]
    together = dataset[StepPlan(step=4, epoch=1, closes_epoch=False, micro=(np.array([3, 1, 8]),))]
    assert step.distance.shape == (3, 3)
    assert torch.equal(step.distance, together.distance)
    assert torch.equal(step.faith_pd, together.faith_pd)
    counts = [rebuilt(batch, study.table.n_asvs) for batch in (*step.micro, *together.micro)]
    assert np.array_equal(np.concatenate(counts[:2]), counts[2])
    assert (counts[2].sum(axis=1) == 100).all()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ranks=st.integers(1, 5),
)
def test_every_sample_of_a_step_is_on_exactly_one_rank(sizes, ranks):
    rows = np.random.default_rng(len(sizes)).permutation(sum(sizes))
    plan = StepPlan(0, 0, False, tuple(np.split(rows, np.cumsum(sizes)[:-1])))
    shares = plan.parts_of(ranks)
    assert len(shares) == ranks
    for batch, micro in enumerate(plan.micro):
        assert np.concatenate([share[batch] for share in shares]).tolist() == micro.tolist()
        counts = [len(share[batch]) for share in shares]
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)


STEP_SIZES = {"equal": (12, 12), "uneven": (7,), "fewer samples than ranks": (2,), "one sample": (1,), "last": (6, 1)}


def steps_of_ranks(study: Study, ranks: int, plan: StepPlan) -> list[StepBatch]:
    return [replace(dataset_of(study), rank=rank, ranks=ranks)[plan] for rank in range(ranks)]


def plan_of(*sizes: int) -> StepPlan:
    """A step of some samples in batches of these sizes."""
    return StepPlan(4, 1, False, tuple(np.split(next(iter(sampler(sum(sizes)))).samples, np.cumsum(sizes)[:-1])))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", STEP_SIZES.values(), ids=STEP_SIZES)
def test_the_steps_of_ranks_are_the_whole_step(study, ranks, sizes):
    plan = plan_of(*sizes)
    (whole,) = steps_of_ranks(study, 1, plan)
    place = {sample: at for at, sample in enumerate(whole.samples.tolist())}
    counts = study.table.counts[:0].toarray()
    steps = steps_of_ranks(study, ranks, plan)
    seen: list[int] = []
    for rank, step in enumerate(steps):
        assert len(step.micro) == len(plan.micro), "ranks make different calls"
        assert step.start == len(seen)
        own = [sample for batch in step.micro for sample in batch.sample[batch.real].tolist()]
        assert len(own) == step.sizes[rank]
        mine = [place[sample] for sample in own]
        if ranks == 1:
            assert step.distance.shape == (len(own), len(own))
            assert step.drawn is None
        else:  # computed once the counts of all ranks are there
            assert step.distance is None
            drawn_here = draws_of(study, rarefy_depth=100).rows(np.array(own, dtype=np.int64), plan.epoch)
            assert np.array_equal(step.drawn.toarray(), drawn_here.toarray())
        assert torch.allclose(step.faith_pd, whole.faith_pd[mine], rtol=0, atol=1e-12)
        drawn = [rebuilt(batch, study.table.n_asvs) for batch in step.micro if not batch.is_padding]
        counts = np.concatenate([counts, *drawn])
        seen += own
    assert seen == steps[0].samples.tolist()
    assert sorted(seen) == sorted(place)
    of_one = np.concatenate([rebuilt(batch, study.table.n_asvs) for batch in whole.micro])
    assert np.array_equal(counts, of_one[[place[sample] for sample in seen]])


def test_a_padding_batch_counts_for_nothing(study):
    """It stands in where a rank has no sample of a batch, and is one of the step, so that its address is known."""
    plan = plan_of(5, 2)
    steps = steps_of_ranks(study, 4, plan)
    padding = [[batch.is_padding for batch in step.micro] for step in steps]
    assert padding == [[False, False], [False, False], [False, True], [False, True]]
    for step in steps:
        for batch in step.micro:
            assert len(batch.sample[batch.real]) == (0 if batch.is_padding else len(batch.sample))
            assert bool(batch.occurrence.any()) != batch.is_padding
            assert len(batch.sample) > 0
            assert set(batch.sample.tolist()) <= set(plan.samples.tolist())
    assert [step.sizes for step in steps] == [(3, 2, 1, 1)] * 4
    moved = steps[3].to(torch.device("cpu"))
    assert [batch.is_padding for batch in moved.micro] == [False, True]


@pytest.mark.parametrize("rank", [1, 2])
def test_a_rank_without_any_sample_has_a_step_too(study, rank):
    step = steps_of_ranks(study, 3, plan_of(1))[rank]
    assert step.sizes == (1, 0, 0)
    assert step.start == 1
    assert step.drawn.shape == (0, study.table.n_asvs)
    assert step.faith_pd.shape == (0,)
    assert [batch.is_padding for batch in step.micro] == [True]


@pytest.mark.parametrize("limit", [6, 7])
def test_of_a_large_step_the_counts_take_the_place_of_the_distances(study, monkeypatch, limit):
    monkeypatch.setattr(module, "DENSE_SAMPLES", limit)
    (step,) = steps_of_ranks(study, 1, plan_of(5, 2))
    if limit == 7:
        assert step.distance is not None
        assert step.drawn is None
        return
    assert step.distance is None
    assert np.array_equal(step.drawn.toarray(), draws_of(study, rarefy_depth=100).rows(step.samples, 1).toarray())


def test_a_rank_draws_its_own_samples_alone(study, monkeypatch):
    """Those of other ranks cost nothing, unless a budget must know how many ASVs they have."""
    asked: list[int] = []
    plain = SampleDraws.counts

    def counted(draws: SampleDraws, sample: int, epoch: int | str):
        asked.append(sample)
        return plain(draws, sample, epoch)

    monkeypatch.setattr(SampleDraws, "counts", counted)
    for rank in range(3):
        asked.clear()
        step = replace(dataset_of(study), rank=rank, ranks=3)[plan_of(6, 6)]
        assert sorted(asked) == sorted(step.samples[step.start : step.start + step.sizes[rank]].tolist())


def test_a_run_on_a_matrix_reads_its_rows(study):
    rows = np.arange(40)
    values = study.distance_source(UnifracConfig()).distances(rows, study.table.counts).numpy()
    order = np.random.default_rng(0).permutation(40)
    matrix = DistanceMatrix(tuple(study.table.sample_ids[i] for i in order), values[np.ix_(order, order)])
    source = replace(study, matrix=matrix).distance_source(UnifracConfig())
    step = replace(dataset_of(study), source=source)[plan_of(5, 2)]
    assert np.array_equal(step.distance.numpy(), values[np.ix_(step.samples, step.samples)])


def test_moving_a_step_keeps_its_values(study):
    step = dataset_of(study)[next(iter(sampler(4, 2)))]
    moved = step.to(torch.device("meta"))
    assert all(tensor.is_meta for tensor in tensors(moved))
    assert [t.shape for t in tensors(moved)] == [t.shape for t in tensors(step)]
    assert equal(step.to(torch.device("cpu")), step)
    assert moved.plan is step.plan


@pytest.mark.parametrize("workers", [0, 2])
def test_fixed_batches_are_the_samples_in_order_as_validation_draws_them(study, workers):
    draws = draws_of(study, rarefy_depth=100)
    batches = FixedBatches(draws, SAMPLES, 5)
    assert len(batches) == 8
    seen = list(DataLoader(batches, batch_size=None, num_workers=workers))
    assert torch.cat([batch.sample for batch in seen]).tolist() == SAMPLES.tolist()
    counts = np.concatenate([rebuilt(batch, study.table.n_asvs) for batch in seen])
    assert np.array_equal(counts, draws.rows(SAMPLES, FIXED).toarray())

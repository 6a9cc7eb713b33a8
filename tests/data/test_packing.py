from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam.data.sampling.packing import BatchCost, MemoryBudget

COST = BatchCost(unique=10.0, sampled=1.0)


def draws(seed: int, samples: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.sort(random.choice(40, random.integers(1, 20), replace=False)).astype(np.int64) for _ in range(samples)]


@given(
    seed=st.integers(0, 99),
    samples=st.integers(1, 15),
    ranks=st.integers(1, 4),
    limit=st.floats(50, 900),
    cost=st.sampled_from([COST, replace(COST, padded=True), replace(COST, paired=0.3, padded=True)]),
)
def test_every_sample_is_in_one_batch_that_fits(seed: int, samples: int, ranks: int, limit: float, cost: BatchCost):
    asvs, rows = draws(seed, samples), np.arange(samples) + 100
    parts = MemoryBudget(limit, cost).pack(rows, asvs, ranks)
    assert len(parts) == ranks
    assert len({len(batches) for batches in parts}) == 1
    assert sorted(np.concatenate([rows for batches in parts for rows in batches])) == rows.tolist()
    for batch in (batch for batches in parts for batch in batches if len(batch) > 1):
        own = [asvs[row - 100] for row in batch]
        assert cost.of_batch(len(np.unique(np.concatenate(own))), [len(asv) for asv in own]) <= limit
    sizes = [len(asvs[row - 100]) for batch in parts[0] for row in batch]
    assert sizes == sorted(sizes, reverse=True)


def test_no_batch_could_take_the_next_sample():
    asvs = [np.arange(i, i + 5) for i in range(6)]  # each adds one unique ASV to the one before
    (batches,) = MemoryBudget(85.0, COST).pack(np.arange(6), asvs, 1)
    # two: 6 unique ASVs and 10 in samples, 70 bytes; three: 7 and 15, 85; four: 8 and 20, 100
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5]]
    assert MemoryBudget(85.0, COST).largest_batch(asvs) == 3
    assert MemoryBudget(84.9, COST).largest_batch(asvs) == 2
    assert MemoryBudget(1.0, COST).largest_batch(asvs) == 0


def test_padding_and_pairs_take_memory():
    asvs = [np.arange(4), np.arange(4, 6), np.arange(6, 8)]
    plain, padded = BatchCost(1.0, 1.0, 1.0), BatchCost(1.0, 1.0, 1.0, padded=True)
    assert plain.of_batch(8, [4, 2, 2]) == 8 + 8 + 16 + 4 + 4
    assert padded.of_batch(8, [4, 2, 2]) == 8 + 12 + 3 * 16
    batches = {cost: MemoryBudget(40.0, cost).pack(np.arange(3), asvs, 1)[0] for cost in (plain, padded)}
    assert [batch.tolist() for batch in batches[plain]] == [[0, 1, 2]]
    assert [batch.tolist() for batch in batches[padded]] == [[0], [1, 2]]


def test_a_fit_goes_through_both_measurements():
    cost = COST.fit((120.0, 1300.0), (1000.0, 1000.0 + 2.5 * (1300 - 120)))
    assert cost.scale == pytest.approx(2.5)
    assert cost.of(10, 20) == pytest.approx(1000)
    assert cost.of(100, 300) == pytest.approx(1000 + 2.5 * 1180)


def test_a_fit_to_noise_stays_above_what_was_measured():
    cost = COST.fit((120.0, 130.0), (1000.0, 990.0))
    assert cost.scale == 0.5
    assert cost.of(10, 20) >= 1000


def test_a_budget_goes_through_a_checkpoint():
    budget = MemoryBudget(5.0, BatchCost(1.0, 2.0, 3.0, True, 4.0, 5.0), 6.0)
    assert MemoryBudget.from_json(asdict(budget)) == budget

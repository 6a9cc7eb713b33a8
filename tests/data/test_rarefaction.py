import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats
from scipy.sparse import csr_array

from aam.config import SamplingConfig
from aam.data.files.tables import FeatureTable
from aam.data.sampling import reads
from aam.data.sampling.rarefaction import FIXED, SampleDraws, row_of

COUNTS = np.array([[500, 300, 150, 40, 10], [0, 3, 0, 2, 1], [7, 0, 0, 0, 900]])


def make_table(counts: np.ndarray, names: list[str] | None = None) -> FeatureTable:
    asvs = tuple(f"asv{number}" for number in range(counts.shape[1]))
    samples = tuple(names or [f"s{number}" for number in range(len(counts))])
    return FeatureTable(csr_array(counts.astype(np.int64)), samples, asvs, asvs)


def make_draws(counts: np.ndarray = COUNTS, names: list[str] | None = None, seed: int = 1, **options) -> SampleDraws:
    return SampleDraws(make_table(counts, names), SamplingConfig(**options), seed)


def as_row(drawn: tuple[np.ndarray, np.ndarray], width: int) -> np.ndarray:
    row = np.zeros(width, dtype=np.int64)
    row[drawn[0]] = drawn[1]
    return row


@given(
    counts=npst.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.integers(0, 60)),
    depth=st.integers(1, 200),
    epoch=st.integers(0, 3),
)
def test_the_depth_is_exact_and_no_read_is_drawn_twice(counts, depth, epoch):
    draws = make_draws(counts, rarefy_depth=depth, keep_shallow=True)
    for sample, available in enumerate(counts):
        asv, count = draws.counts(sample, epoch)
        assert asv.dtype == count.dtype == np.int64
        assert (np.diff(asv) > 0).all()
        assert (count > 0).all()
        assert count.sum() == min(depth, available.sum())
        assert (count <= available[asv]).all()


def test_without_a_depth_all_reads_are_used():
    asv, count = make_draws().counts(1, 5)
    assert asv.tolist() == [1, 3, 4]
    assert count.tolist() == [3, 2, 1]


def test_draws_over_the_epochs_are_hypergeometric():
    depth, epochs = 100, 3000
    draws = make_draws(rarefy_depth=depth)
    drawn = np.array([as_row(draws.counts(0, epoch), 5) for epoch in range(epochs)])
    total = COUNTS[0].sum()
    for asv, available in enumerate(COUNTS[0]):
        law = stats.hypergeom(total, available, depth)
        values = np.arange(depth + 1)
        seen = np.searchsorted(np.sort(drawn[:, asv]), values, side="right") / epochs
        assert np.abs(seen - law.cdf(values)).max() < 1.95 / np.sqrt(epochs)
        assert abs(drawn[:, asv].mean() - law.mean()) < 4.5 * law.std() / np.sqrt(epochs)
        assert drawn[:, asv].var() == pytest.approx(law.var(), rel=0.15)


def test_a_draw_is_a_function_of_seed_epoch_and_sample_id():
    draws = make_draws(rarefy_depth=100)
    before = as_row(draws.counts(2, 3), 5)
    draws.counts(0, 3)
    assert np.array_equal(as_row(draws.counts(2, 3), 5), before)
    among_others = make_draws(COUNTS[[2, 0]], ["s2", "another"], rarefy_depth=100)
    assert np.array_equal(as_row(among_others.counts(0, 3), 5), before)
    changes = [
        make_draws(rarefy_depth=100, seed=2).counts(0, 3),
        draws.counts(0, 4),
        draws.counts(0, FIXED),
        make_draws(names=["renamed", "s1", "s2"], rarefy_depth=100).counts(0, 3),
        draws.counts(0, 3),
    ]
    assert len({tuple(as_row(drawn, 5)) for drawn in changes}) == len(changes)


def test_fixed_rarefaction_is_the_same_in_every_epoch():
    fixed, epoch = (make_draws(rarefy_depth=100, rarefaction=kind) for kind in ("fixed", "epoch"))
    rows = [as_row(fixed.counts(0, number), 5) for number in (0, 1, 9, FIXED)]
    assert all(np.array_equal(row, rows[0]) for row in rows)
    assert np.array_equal(as_row(epoch.counts(0, FIXED), 5), rows[0])
    assert not np.array_equal(as_row(epoch.counts(0, 0), 5), as_row(epoch.counts(0, 1), 5))


def test_rows_are_the_samples_one_by_one():
    draws = make_draws(rarefy_depth=5)
    stacked = draws.rows(np.array([2, 0, 2]), 1)
    assert stacked.shape == (3, 5)
    assert stacked.dtype == np.int64
    for row, sample in enumerate([2, 0, 2]):
        assert np.array_equal(as_row(row_of(stacked, row), 5), as_row(draws.counts(sample, 1), 5))


def chosen(counts: list[int], epoch: int | str = 0, sample: str = "s0", **options) -> list[int]:
    draws = make_draws(np.array([counts]), [sample], **options)
    asv, count = draws.choose(0, epoch, draws.counts(0, epoch))
    assert (np.diff(asv) > 0).all()
    assert count.tolist() == [counts[i] for i in asv]
    return asv.tolist()


def test_max_asvs_keeps_the_most_abundant_or_the_first():
    counts = [1, 9, 4, 9, 0, 4, 7]
    assert chosen(counts, max_asvs=3) == [1, 3, 6]
    assert chosen(counts, max_asvs=4) == [1, 2, 3, 6]  # of two equal ones the first
    assert chosen(counts, max_asvs=3, asv_choice="first") == [0, 1, 2]
    assert chosen(counts, max_asvs=6) == chosen(counts, max_asvs=0) == [0, 1, 2, 3, 5, 6]


def test_max_asvs_at_random_is_addressed_and_fair():
    options = {"max_asvs": 3, "asv_choice": "random"}
    picked = [chosen([5] * 12, epoch=epoch, **options) for epoch in range(2000)]
    assert picked[:50] == [chosen([5] * 12, epoch=epoch, **options) for epoch in range(50)]
    assert picked[:50] != [chosen([5] * 12, epoch=epoch, sample="other", **options) for epoch in range(50)]
    times = np.bincount(np.concatenate(picked), minlength=12)
    assert np.abs(times - 500).max() < 4.5 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_sample_of_a_thousand_million_reads_is_rarefied():
    counts = np.array([[3 * 10**9, 10**9, 5, 0, 10**12]])
    for depth in (1000, 10**9, 10**12):
        drawn = as_row(make_draws(counts, rarefy_depth=depth).counts(0, 0), 5)
        assert drawn.sum() == depth
        assert (drawn <= counts[0]).all()
        assert abs(drawn[0] - depth * 3e9 / counts.sum()) < 6 * np.sqrt(depth * 3e-3)


def test_a_depth_beyond_what_counts_can_hold_is_refused():
    assert make_draws(rarefy_depth=2**63 - 1, keep_shallow=True).counts(1, 0)[1].tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match="less than 9223372036854775808"):
        make_draws(rarefy_depth=2**63)


@pytest.mark.parametrize(("own", "total", "depth"), [(30, 100, 40), (70, 100, 60), (1, 200, 10), (99, 100, 99)])
def test_huge_draws_follow_the_hypergeometric_law(own, total, depth, monkeypatch):
    monkeypatch.setattr(reads, "NUMPY_READS", 0)
    rng = np.random.default_rng(3)
    counts = np.array([total - own, own])
    drawn = np.array([reads.draw_reads(rng, counts, depth)[1] for _ in range(1000)])
    law = stats.hypergeom(total, own, depth)
    uniform = law.cdf(drawn - 1) + rng.random(len(drawn)) * law.pmf(drawn)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_huge_draws_have_the_mean_and_spread_of_the_law():
    rng, total = np.random.default_rng(3), 4 * 10**15
    counts, depth = np.array([total // 4, 3 * total // 4]), total // 2
    drawn = np.array([reads.draw_reads(rng, counts, depth)[0] for _ in range(300)], dtype=np.float64)
    spread = np.sqrt(depth * 0.25 * 0.75 * 0.5)
    assert abs(drawn.mean() - depth / 4) < 4 * spread / np.sqrt(300)
    assert 0.8 < drawn.std() / spread < 1.2

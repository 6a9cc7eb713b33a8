import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aam.data.sampling.seeded import derived_seed, generator, uniforms

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def one_uniform(address: int, key: int, position: int) -> float:
    state = mix((address ^ key) & WORD)
    return (mix((state + (position + 1) * GOLDEN) & WORD) >> 11) / 2**53


def test_the_reference_is_splitmix64():
    """The published first numbers of SplitMix64 with the seed 1234567."""
    numbers = [mix((1234567 + step * GOLDEN) & WORD) for step in (1, 2, 3, 4)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]


@given(seed=st.integers(0, WORD), keys=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), length=st.integers(1, 9))
def test_uniforms_are_those_of_plain_integers(seed, keys, length):
    drawn = uniforms(seed, torch.tensor(keys, dtype=torch.int64), length)
    expected = [[one_uniform(seed, key, position) for position in range(length)] for key in keys]
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == expected


@pytest.mark.parametrize("keys", [torch.arange(2000), -torch.arange(2000), torch.arange(2000) << 40])
def test_uniforms_are_uniform_and_uncorrelated(keys):
    drawn = uniforms(derived_seed(3, "test"), keys, 100).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    size = drawn.size
    assert stats.kstest(drawn.ravel(), "uniform").statistic < 1.95 / np.sqrt(size)  # exceeded once in 1000
    for one, other in [(drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:]), (drawn[:, :-7], drawn[:, 7:])]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(size)
    next_step = uniforms(derived_seed(4, "test"), keys, 100).numpy()
    assert abs(np.corrcoef(drawn.ravel(), next_step.ravel())[0, 1]) < 4 / np.sqrt(size)


def test_a_row_depends_on_its_key_and_the_seed_alone():
    keys = torch.from_numpy(np.random.default_rng(1).integers(-(2**63), 2**63, size=50))
    drawn = uniforms(7, keys, 40)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    state = torch.get_rng_state()
    assert torch.equal(uniforms(7, keys, 40), drawn)
    assert torch.equal(uniforms(7, keys[order], 40), drawn[order])
    assert torch.equal(uniforms(7, keys[:3], 40), drawn[:3])
    assert torch.equal(uniforms(7, keys, 15), drawn[:, :15])
    assert not (uniforms(8, keys, 40) == drawn).any()
    assert torch.equal(torch.get_rng_state(), state)


def test_every_part_of_an_address_counts():
    addresses = [
        (1, "rarefy", 0, "s1"),
        (2, "rarefy", 0, "s1"),
        (1, "choose", 0, "s1"),
        (1, "rarefy", 1, "s1"),
        (1, "rarefy", "0", "s1"),
        (1, "rarefy", 0, "s2"),
        (1, "rarefy", 0),
        (1, "rarefy", 0, "s1", 0),
        (1, "rare", "fy", 0, "s1"),
    ]
    first = {generator(*address).integers(2**62) for address in addresses}
    assert len(first) == len(addresses)
    assert len({derived_seed(*address) for address in addresses}) == len(addresses)


def test_equal_addresses_draw_equally_whatever_was_drawn_before():
    one = generator(1, "shuffle", 4).permutation(100)
    generator(1, "shuffle", 3).permutation(100)
    assert np.array_equal(generator(1, "shuffle", 4).permutation(100), one)


def test_numbers_and_texts_of_numpy_are_the_same_address():
    assert derived_seed(np.int64(5), np.str_("a"), np.uint8(3)) == derived_seed(5, "a", 3)


def test_addresses_stay_the_same_from_one_version_to_the_next():
    """Else a run could not be resumed, nor `aam predict` repeat a validation, with the next version."""
    assert derived_seed(42, "hide", 7) == 5382490889766910590
    assert generator(42, "shuffle", 0).permutation(8).tolist() == [7, 0, 2, 5, 4, 3, 6, 1]

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aam.data.files.sequences import PAD, A, C, G, N, T
from aam.training.substitution import substitute


def tokens_of(asvs: int, length: int = 60) -> torch.Tensor:
    rng = np.random.default_rng(asvs)
    return torch.from_numpy(rng.integers(A, N + 1, size=(asvs, length)).astype(np.uint8))


def keys_of(asvs: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(asvs).integers(-(2**63), 2**63, size=asvs))


@pytest.mark.parametrize("rate", [0.002, 0.1, 0.9])
def test_every_nucleotide_is_substituted_as_often_as_asked_and_as_any_other(rate):
    tokens = tokens_of(6000)
    read = substitute(tokens, keys_of(6000), rate, 1, 0)
    assert read.dtype == torch.uint8
    for base in (A, C, G, T, N):
        own = read[tokens == base]
        wrong = own[own != base]
        assert len(wrong) / len(own) == pytest.approx(rate, abs=4.5 * (rate * (1 - rate) / len(own)) ** 0.5)
        others = [other for other in (A, C, G, T) if other != base]
        times = torch.stack([(wrong == other).sum() for other in others]).double()
        assert times.sum() == len(wrong)
        share = 1 / len(others)
        assert (times - share * len(wrong)).abs().max() < 4.5 * (share * (1 - share) * len(wrong)) ** 0.5


@given(rate=st.floats(0, 1, exclude_max=True), step=st.integers(0, 9), padded=st.integers(0, 20))
def test_padding_stays_and_changes_nothing_before_it(rate, step, padded):
    tokens, keys = tokens_of(20, 20), keys_of(20)
    short = tokens.clone()
    short[:, 20 - padded :] = PAD
    whole, read = (substitute(each, keys, rate, 1, step) for each in (tokens, short))
    assert (read[:, 20 - padded :] == PAD).all()
    assert torch.equal(read[:, : 20 - padded], whole[:, : 20 - padded])
    assert ((whole >= A) & (whole <= N)).all()


def test_without_noise_the_nucleotides_are_read_as_they_are():
    assert torch.equal(substitute(tokens_of(9), keys_of(9), 0.0, 1, 0), tokens_of(9))


def test_what_is_substituted_is_a_function_of_seed_step_and_asv():
    tokens, keys = tokens_of(60), keys_of(60)
    read = substitute(tokens, keys, 0.2, 1, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(substitute(tokens[order], keys[order], 0.2, 1, 0), read[order])
    assert torch.equal(substitute(tokens[:7], keys[:7], 0.2, 1, 0), read[:7])
    others = [substitute(tokens, keys, 0.2, 2, 0), substitute(tokens, keys, 0.2, 1, 1), read]
    assert len({tuple(other.flatten().tolist()) for other in others}) == 3

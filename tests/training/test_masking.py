import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aam.config import MaskConfig
from aam.data.files.sequences import PAD
from aam.data.sampling.seeded import derived_seed, uniforms
from aam.training.tasks.masking import mask_nucleotides


def tokens_of(asvs: int, length: int = 100, padded: int = 0) -> torch.Tensor:
    tokens = torch.full((asvs, length), 2, dtype=torch.uint8)
    tokens[:, length - padded :] = PAD
    return tokens


def keys_of(asvs: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(asvs).integers(-(2**63), 2**63, size=asvs))


def masks(tokens: torch.Tensor, keys: torch.Tensor, seed: int = 1, step: int | str = 0, **options) -> torch.Tensor:
    return mask_nucleotides(tokens, keys, MaskConfig(**{"nuc_asv_fraction": 1.0, **options}), seed, step)


@pytest.mark.parametrize("options", [{}, {"nuc_mask_strategy": "span"}])
@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.5])
def test_every_nucleotide_is_masked_as_often_as_asked(options, ratio):
    masked = masks(tokens_of(4000), keys_of(4000), nuc_mask_ratio=ratio, **options).double()
    assert masked.mean() == pytest.approx(ratio, abs=0.005)
    deviation = (ratio * (1 - ratio) / 4000) ** 0.5
    assert (masked.mean(0) - ratio).abs().max() < 4.5 * deviation  # also the first and the last ones


@given(ratio=st.sampled_from([0.1, 0.4]), span=st.integers(1, 9), length=st.integers(1, 30), step=st.integers(0, 9))
def test_spans_are_the_union_of_stretches_of_the_asked_length(ratio, span, length, step):
    keys = keys_of(8)
    config = {"nuc_mask_ratio": ratio, "nuc_mask_strategy": "span", "nuc_mask_span": span}
    masked = masks(tokens_of(8, length), keys, step=step, **config)
    starts = uniforms(derived_seed(1, "hide", step), keys, length + span - 1) < 1 - (1 - ratio) ** (1 / span)
    expected = torch.zeros(8, length + 2 * span, dtype=torch.bool)
    for asv, start in starts.nonzero().tolist():
        expected[asv, start : start + span] = True
    assert torch.equal(masked, expected[:, span - 1 : span - 1 + length])


def test_padding_is_never_masked_and_changes_nothing_before_it():
    keys = keys_of(50)
    whole = masks(tokens_of(50), keys, nuc_mask_strategy="span", nuc_mask_ratio=0.5)
    padded = masks(tokens_of(50, padded=30), keys, nuc_mask_strategy="span", nuc_mask_ratio=0.5)
    assert not padded[:, 70:].any()
    assert torch.equal(padded[:, :70], whole[:, :70])


def test_masks_are_a_function_of_seed_step_and_asv():
    tokens, keys = tokens_of(60), keys_of(60)
    mask = masks(tokens, keys)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masks(tokens, keys[order]), mask[order])
    assert torch.equal(masks(tokens[:7], keys[:7]), mask[:7])
    assert torch.equal(masks(tokens, keys, step="validation"), masks(tokens, keys, step="validation"))
    others = [masks(tokens, keys, seed=2), masks(tokens, keys, step=1), masks(tokens, keys, step="validation"), mask]
    assert len({tuple(other.flatten().tolist()) for other in others}) == 4


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_a_share_of_the_asvs_hides_nucleotides_and_each_as_if_alone(share):
    tokens, keys = tokens_of(4000), keys_of(4000)
    some, every = masks(tokens, keys, nuc_asv_fraction=share), masks(tokens, keys)
    hiding = some.any(dim=1)
    assert hiding.double().mean() == pytest.approx(share, abs=4.5 * (share * (1 - share) / 4000) ** 0.5)
    assert torch.equal(some[hiding], every[hiding])
    next_step = masks(tokens, keys, step=1, nuc_asv_fraction=share).any(dim=1)
    assert (hiding & next_step).double().mean() == pytest.approx(share**2, abs=0.04)

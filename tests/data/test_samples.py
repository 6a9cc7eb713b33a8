"""Samples as tensors: cut into parts, pooled, and made of a batch of the table."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aam.data.sampling.samples import SampleBatch, Samples


def draw_samples(seed: int, samples: int = 7, unique: int = 12, longest: int = 14) -> Samples:
    """Samples that share ASVs, each ASV in one at least, with all that may be masked or given."""
    generator = torch.Generator().manual_seed(seed)
    asvs = torch.randint(1, 6, (unique, longest), generator=generator, dtype=torch.uint8)
    held = torch.rand(samples, unique, generator=generator) < 0.3
    held[torch.randint(samples, (unique,), generator=generator), torch.arange(unique)] = True
    held[torch.arange(samples), torch.randint(unique, (samples,), generator=generator)] = True
    size = held.sum(1)
    index = held.to(torch.int8).argsort(dim=1, descending=True)[:, : int(size.max())]
    padding = torch.arange(index.shape[1]) >= size[:, None]
    # some ASVs have no reads and are no padding
    counts = torch.randint(0, 4, index.shape, generator=generator).masked_fill(padding, 0)
    return Samples(
        asvs,
        index,
        counts,
        counts.sum(1) + 9,
        padding,
        torch.rand(asvs.shape, generator=generator) < 0.3,
        (torch.rand(index.shape, generator=generator) < 0.3) & ~padding,
        torch.randint(4, (samples, 3), generator=generator),
        torch.randn(samples, 5, generator=generator),
    )


def same(one: Samples, other: Samples) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 8), parts=st.integers(1, 5), unique=st.integers(1, 12))
def test_parts_are_of_consecutive_samples_and_mask_each_nucleotide_once(
    seed: int, samples: int, parts: int, unique: int
):
    whole = draw_samples(seed, samples, unique)
    cut = whole.split(parts)
    assert len(cut) == min(samples, parts)
    assert torch.cat([part.asv[part.owned] for part in cut]).sort().values.tolist() == list(range(unique))
    times_masked = torch.zeros_like(whole.masked_nucleotides, dtype=torch.int64)
    start, seen = 0, set()
    for part, asv, owned in cut:
        rows = slice(start, start + len(part.padding))
        start = rows.stop
        here = ~whole.padding[rows]
        assert torch.equal(part.asvs, whole.asvs[asv])
        assert torch.equal(asv, whole.asv_index[rows][here].unique())
        assert torch.equal(asv[part.asv_index][here], whole.asv_index[rows][here])
        assert part.asv_index.max() < len(asv), "where padding too"
        for name in ("counts", "depth", "padding", "masked_abundances", "categories", "pooled"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
        assert owned.tolist() == [number not in seen for number in asv.tolist()], "the first part that holds it"
        seen |= set(asv.tolist())
        times_masked[asv] += part.masked_nucleotides
    assert start == samples
    assert torch.equal(times_masked, whole.masked_nucleotides.long())


def test_parts_own_asvs():
    """Else nothing was said of ASVs that several parts hold."""
    assert sum(int((~part.owned).sum()) for part in draw_samples(0).split(3)) >= 6


def test_parts_lack_what_the_whole_lacks():
    whole = draw_samples(1)._replace(masked_nucleotides=None, masked_abundances=None, categories=None, pooled=None)
    for part in whole.split(3):
        assert part.samples[5:] == (None,) * 4


def test_embeddings_are_cut_as_nucleotides_are_and_pass_their_gradient():
    whole = draw_samples(2)
    asvs = torch.randn(12, 4, requires_grad=True)
    counts = whole.counts.float().requires_grad_()
    cut = whole._replace(asvs=asvs, counts=counts).split(3)
    assert all(part.samples.are_embedded for part in cut)
    sum(part.samples.asvs.sum() + part.samples.counts.sum() for part in cut).backward()
    assert torch.equal(asvs.grad[:, 0], sum(torch.bincount(part.asv, minlength=12) for part in cut).float())
    assert (counts.grad == 1).all()


def test_an_asv_of_no_sample_is_refused():
    whole = draw_samples(0)._replace(masked_nucleotides=None)
    with pytest.raises(ValueError, match="in none of its samples"):
        whole._replace(asvs=torch.cat([whole.asvs, whole.asvs[:1]])).split(2)


@pytest.mark.parametrize("categories", [None, torch.tensor([[1, 2], [3, 0], [0, 1]])])
def test_pooled_samples_have_no_asvs(categories: Tensor | None):
    pooled = torch.randn(3, 6, dtype=torch.float64)
    samples = Samples.of_pooled(pooled, categories)
    assert samples.pooled is pooled
    assert samples.categories is categories
    assert samples.masked_nucleotides is samples.masked_abundances is None
    assert samples.asv_index.shape == samples.counts.shape == samples.padding.shape == (3, 0)
    assert len(samples.asvs) == 0
    assert not samples.depth.any()
    assert samples.asv_index.dtype == torch.int64
    assert samples.padding.dtype == torch.bool


def test_pooled_samples_can_be_cut():
    pooled, categories = torch.randn(5, 6), torch.randint(4, (5, 2))
    cut = [part.samples for part in Samples.of_pooled(pooled, categories).split(2)]
    assert [len(part.pooled) for part in cut] == [3, 2]
    assert torch.equal(torch.cat([part.pooled for part in cut]), pooled)
    assert torch.equal(torch.cat([part.categories for part in cut]), categories)


def test_samples_move_with_all_that_they_have():
    samples = draw_samples(0)
    assert all(part.is_meta for part in samples.to(torch.device("meta")))
    assert same(samples.to(torch.device("cpu")), samples)
    plain = samples._replace(categories=None)
    assert same(plain.to(torch.device("cpu")), plain)


def test_only_floating_asvs_are_embedded():
    samples = draw_samples(0)
    assert not samples.are_embedded
    assert not samples._replace(asvs=samples.asvs.long()).are_embedded
    assert samples._replace(asvs=samples.asvs.bfloat16()).are_embedded


def test_a_batch_gives_the_model_what_it_holds():
    samples = draw_samples(3)
    rows, unique = torch.arange(7), torch.arange(12)
    occurrence = torch.bincount(samples.asv_index[~samples.padding])
    batch = SampleBatch(rows, unique, samples.asv_index, samples.counts, samples.depth, samples.padding, occurrence)
    plain = samples._replace(masked_nucleotides=None, masked_abundances=None, pooled=None)
    assert same(batch.samples(samples.asvs, samples.categories), plain)
    assert same(batch.samples(samples.asvs), plain._replace(categories=None))
    assert batch.real == slice(0, 7)


@pytest.mark.parametrize("is_padding", [False, True])
def test_a_batch_without_asvs_knows_its_samples_alone(is_padding: bool):
    batch = SampleBatch.without_asvs(np.array([3, 1]), is_padding)
    assert batch.sample.tolist() == [3, 1]
    assert batch.real == slice(0, 0 if is_padding else 2)
    assert batch.asv_index.shape == batch.counts.shape == batch.padding.shape == (2, 0)
    assert len(batch.asv) == len(batch.occurrence) == 0

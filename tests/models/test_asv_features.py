import pytest
import torch

from aam.data.sampling.samples import Samples
from aam.models.asv_features import FREQUENCY, AsvFeatures, standardizing, waves


@pytest.fixture
def features():
    torch.manual_seed(3)
    return AsvFeatures(6, 500)


def asvs(number=40):
    return torch.randn(number, 6, generator=torch.Generator().manual_seed(1))


INDEX = torch.tensor([[0, 1, 2, 0], [5, 3, 4, 9], [5, 3, 4, 8]])
COUNTS = torch.tensor([[3, 1, 20, 0], [2, 7, 1, 4], [2, 7, 1, 4]])


def samples(index=INDEX, counts=COUNTS, number=40) -> Samples:
    return Samples(asvs(number), index, counts, counts.sum(1), counts == 0)


def waves_of(features, rows):
    return waves(rows, dict(features.named_parameters()))


def test_a_sample_is_the_sum_of_its_asvs_by_log_reads(features):
    rows = waves_of(features, asvs())
    expected = torch.stack(
        [(count.log1p()[:, None] * rows[index]).sum(0) for index, count in zip(INDEX, COUNTS, strict=True)]
    )
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, unbiased=False, keepdim=True)
    assert torch.allclose(features(samples()), expected, atol=1e-4)


def test_neither_order_nor_padding_nor_other_samples_matter(features):
    whole = features(samples())
    turned = features(samples(INDEX.flip(1), COUNTS.flip(1)))
    alone = features(samples(INDEX[:1, :3], COUNTS[:1, :3], 10))
    assert torch.allclose(whole, turned, atol=1e-5)
    assert torch.allclose(whole[:1], alone, atol=1e-5)


def test_waves_are_alike_for_related_asvs_alone(features):
    one = asvs()
    near, far = one + 0.01 * torch.randn(one.shape), asvs(80)[40:]
    own = waves_of(features, one)
    assert torch.cosine_similarity(own, waves_of(features, near)).min() > 0.95
    assert torch.cosine_similarity(own, waves_of(features, far)).abs().mean() < 0.2


def test_the_kernel_is_a_gaussian(features):
    one, other = asvs(2)[:1], asvs(2)[:1] + 0.3
    scalar = 2 * (waves_of(features, one) * waves_of(features, other)).mean()
    assert float(scalar) == pytest.approx(float((-((FREQUENCY * 0.3) ** 2) / 2 * torch.ones(())).exp()), abs=0.15)


def test_embeddings_are_standardized(features):
    rows = 7 + 0.03 * asvs()
    with torch.no_grad():
        for name, value in standardizing(rows).items():
            getattr(features, name).copy_(value)
    standard = (rows - features.shift) * features.scale
    assert standard.mean(0).abs().max() < 1e-3
    assert (standard.std(0, unbiased=False) - 1).abs().max() < 1e-3


def test_nothing_of_them_learns(features):
    assert not any(parameter.requires_grad for parameter in features.parameters())
    torch.manual_seed(3)
    assert torch.equal(AsvFeatures(6, 500).weight, features.weight)

import pytest
import torch

from aam.models.asv_features import FREQUENCY, AsvFeatures, standardizing


@pytest.fixture
def features():
    torch.manual_seed(3)
    return AsvFeatures(6, 500)


def asvs(number=40):
    return torch.randn(number, 6, generator=torch.Generator().manual_seed(1))


SLOT = torch.tensor([[0, 1, 2, 0], [5, 3, 4, 9], [5, 3, 4, 8]])
COUNT = torch.tensor([[3, 1, 20, 0], [2, 7, 1, 4], [2, 7, 1, 4]])


def test_a_sample_is_the_sum_of_its_asvs_by_log_reads(features):
    waves = features.waves(asvs())
    expected = torch.stack(
        [(count.log1p()[:, None] * waves[slot]).sum(0) for slot, count in zip(SLOT, COUNT, strict=True)]
    )
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, unbiased=False, keepdim=True)
    assert torch.allclose(features(asvs(), SLOT, COUNT), expected, atol=1e-4)


def test_neither_order_nor_padding_nor_other_samples_matter(features):
    whole = features(asvs(), SLOT, COUNT)
    turned = features(asvs(), SLOT.flip(1), COUNT.flip(1))
    alone = features(asvs(10), SLOT[:1, :3], COUNT[:1, :3])
    assert torch.allclose(whole, turned, atol=1e-5)
    assert torch.allclose(whole[:1], alone, atol=1e-5)


def test_waves_are_alike_for_related_asvs_alone(features):
    one = asvs()
    near, far = one + 0.01 * torch.randn(one.shape), asvs(80)[40:]
    waves = features.waves(one)
    assert torch.cosine_similarity(waves, features.waves(near)).min() > 0.95
    assert torch.cosine_similarity(waves, features.waves(far)).abs().mean() < 0.2


def test_the_kernel_is_a_gaussian(features):
    one, other = asvs(2)[:1], asvs(2)[:1] + 0.3
    scalar = 2 * (features.waves(one) * features.waves(other)).mean()
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

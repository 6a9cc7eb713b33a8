import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.models.sample_encoder import SampleEncoder

each_attention = pytest.mark.parametrize("attention", ["full", "induced"])
exact = {"rtol": 1e-10, "atol": 1e-10}


def encoder(config: ModelConfig) -> SampleEncoder:
    torch.manual_seed(0)
    return SampleEncoder(config).double()


@pytest.fixture(scope="session")
def draw(make_batch):
    """Samples whose ASVs are embedded."""

    def make(seed: int, samples: int = 4) -> Samples:
        asvs = torch.randn(9, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return make_batch(seed, samples)._replace(asvs=asvs, masked_nucleotides=None)

    return make


@each_attention
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), extra=st.integers(1, 5))
def test_order_and_padding_of_asvs_change_nothing(
    make_config, draw, padded, shuffled, alone, attention: str, seed: int, extra: int
):
    model, samples = encoder(make_config(sample_attention=attention)), padded(draw(seed), extra)
    embedding, context = model(samples)
    order = torch.randperm(samples.padding.shape[1], generator=torch.Generator().manual_seed(seed))
    turned = shuffled(samples, order)
    output = model(turned)
    torch.testing.assert_close(output.embedding, embedding, **exact)
    present = ~turned.padding
    torch.testing.assert_close(output.asv_context[present], context[:, order][present], **exact)
    for row in range(4):
        torch.testing.assert_close(embedding[row : row + 1], model(alone(samples, row)).embedding, **exact)


@each_attention
def test_abundance_and_depth_matter(make_config, draw, attention: str):
    model, samples = encoder(make_config(sample_attention=attention)), draw(1)
    embedding = model(samples).embedding
    richer = samples.counts.clone()
    richer[:, 0] += 1000
    # the last: reads of ASVs that are not among those that the model reads
    for changed in (
        samples._replace(counts=richer),
        samples._replace(counts=10 * samples.counts, depth=10 * samples.depth),
        samples._replace(depth=samples.depth + 1000),
    ):
        assert (model(changed).embedding - embedding).norm(dim=1).min() > 1e-4


@each_attention
def test_masked_abundances_are_not_seen(make_config, draw, alone, attention: str):
    model, samples = encoder(make_config(sample_attention=attention)), draw(1)
    samples = alone(samples, int((~samples.padding).sum(1).argmax()))
    masked = torch.zeros_like(samples.padding)
    masked[:, :2] = True
    assert (samples.counts[masked] > 1).all()
    counts = samples.counts.clone()
    counts[:, 0] -= 1
    counts[:, 1] += 1
    swapped = samples._replace(counts=counts)
    one, other = (model(each._replace(masked_abundances=masked)) for each in (samples, swapped))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(model(samples).embedding, model(swapped).embedding)


@each_attention
def test_pooling_the_context_gives_the_embedding(make_config, draw, attention: str):
    model, samples = encoder(make_config(sample_attention=attention)), draw(2)
    embedding, context = model(samples)
    assert context.shape == (*samples.padding.shape, 16)
    assert torch.equal(model.pool(context, samples.padding), embedding)


@pytest.mark.parametrize("joins", ["concat", "film", "none"])
def test_abundance_joins_as_it_is_told(make_config, draw, padded, joins: str):
    model, samples = encoder(make_config(count_embedding=joins)), draw(1)
    embedding = model(samples).embedding
    richer = model(samples._replace(counts=10 * samples.counts, depth=10 * samples.depth)).embedding
    assert torch.equal(embedding, richer) == (joins == "none")
    assert any(name.startswith("abundance.") for name in model.state_dict()) == (joins != "none")
    torch.testing.assert_close(model(padded(samples, 3)).embedding, embedding, **exact)
    masked = samples._replace(masked_abundances=~samples.padding)
    if joins != "none":
        assert not torch.equal(model(masked).embedding, embedding)
    torch.testing.assert_close(
        model(masked), model(masked._replace(counts=samples.counts.clamp_max(1))), rtol=0, atol=0
    )


def test_abundance_scales_and_shifts_an_asv_in_film(make_config, draw):
    """(1 + gamma) * x + beta."""
    model, samples = encoder(make_config(count_embedding="film")), draw(1)
    x = functional.embedding(samples.asv_index, samples.asvs)
    abundance = model.abundance(samples.counts, samples.depth[:, None].expand_as(samples.counts), None)
    gamma, beta = abundance.chunk(2, dim=-1)
    torch.testing.assert_close(model._join_abundance(x, abundance), (1 + gamma) * x + beta, **exact)


@each_attention
def test_a_sample_without_asvs_has_a_finite_embedding_and_gradient(make_config, draw, attention: str):
    model, samples = encoder(make_config(sample_attention=attention)), draw(1)
    samples.asvs.requires_grad_()
    samples.counts[0], samples.padding[0] = 0, True
    embedding = model(samples).embedding
    assert embedding.isfinite().all()
    embedding.sum().backward()
    assert samples.asvs.grad is not None
    assert samples.asvs.grad.isfinite().all()


@each_attention
def test_an_asv_without_reads_is_no_padding(make_config, draw, attention: str):
    """`padding` says what is there, and not the counts: an ASV of 0 reads is read as one of 1."""
    model, samples = encoder(make_config(sample_attention=attention)), draw(1)
    counts = samples.counts.clone()
    counts[0] = 0
    unread = model(samples._replace(counts=counts))
    counts = torch.where(samples.padding, 0, counts.clamp_min(1))
    torch.testing.assert_close(unread, model(samples._replace(counts=counts)), rtol=0, atol=0)
    nothing = samples.padding.clone()
    nothing[0] = True
    assert not torch.allclose(unread.embedding[0], model(samples._replace(padding=nothing)).embedding[0])


@each_attention
def test_padded_and_packed_samples_agree(make_config, draw, attention: str):
    model, samples = encoder(make_config(sample_attention=attention)), draw(3)
    packed = model(samples).embedding
    model.transformer.pads = True
    torch.testing.assert_close(model(samples).embedding, packed, **exact)


@each_attention
def test_checkpointing_gives_the_same_gradient(make_config, draw, attention: str):
    gradients = []
    for checkpointing in (False, True):
        model = encoder(make_config(sample_attention=attention, gradient_checkpointing=checkpointing))
        samples = draw(2)
        samples.asvs.requires_grad_()
        model(samples).embedding.square().sum().backward()
        gradients.append([samples.asvs.grad, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.equal(plain, checkpointed)


def test_other_asvs_matter_through_the_points(make_config, draw):
    model, asvs = encoder(make_config(sample_attention="induced", induced_points=3)), draw(0).asvs
    counts, padding = torch.full((1, 3), 5), torch.zeros(1, 3, dtype=torch.bool)
    one, other = (
        model(Samples(asvs, torch.tensor([index]), counts, counts.sum(1), padding)).asv_context
        for index in ([0, 1, 2], [0, 1, 7])
    )
    assert (other - one)[0, :2].norm(dim=-1).min() > 1e-4
    assert {p.shape[0] for name, p in model.named_parameters() if name.endswith("points")} == {3}

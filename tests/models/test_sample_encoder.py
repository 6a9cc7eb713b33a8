import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aam.config import ModelConfig
from aam.models.sample_encoder import SampleEncoder

each_attention = pytest.mark.parametrize("attention", ["full", "induced"])
exact = {"rtol": 1e-10, "atol": 1e-10}


def encoder(config: ModelConfig) -> SampleEncoder:
    torch.manual_seed(0)
    return SampleEncoder(config).double()


def asv_vectors(unique: int = 9, width: int = 16) -> torch.Tensor:
    return torch.randn(unique, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@each_attention
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), extra=st.integers(1, 5))
def test_order_and_padding_of_asvs_change_nothing(make_config, make_batch, attention: str, seed: int, extra: int):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors()
    _, slot, count, depth, _ = make_batch(seed)
    slot, count = functional.pad(slot, (0, extra), value=3), functional.pad(count, (0, extra))
    embedding, context = model(asvs, slot, count, depth, return_context=True)
    order = torch.randperm(slot.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = model(asvs, slot[:, order], count[:, order], depth, return_context=True)
    torch.testing.assert_close(shuffled.embedding, embedding, **exact)
    present = count[:, order] > 0
    torch.testing.assert_close(shuffled.asv_context[present], context[:, order][present], **exact)
    for row in range(len(slot)):
        here = count[row] > 0
        alone = model(asvs, slot[row : row + 1, here], count[row : row + 1, here], depth[row : row + 1]).embedding
        torch.testing.assert_close(embedding[row : row + 1], alone, **exact)


@each_attention
def test_abundance_and_depth_matter(make_config, make_batch, attention: str):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors()
    _, slot, count, depth, _ = make_batch(1)
    embedding = model(asvs, slot, count, depth).embedding
    richer = count.clone()
    richer[:, 0] += 1000
    assert (model(asvs, slot, richer, depth).embedding - embedding).norm(dim=1).min() > 1e-4
    assert (model(asvs, slot, 10 * count, 10 * depth).embedding - embedding).norm(dim=1).min() > 1e-4
    # reads of ASVs that are not among those that the model reads
    assert (model(asvs, slot, count, depth + 1000).embedding - embedding).norm(dim=1).min() > 1e-4


@each_attention
def test_hidden_abundances_are_not_seen(make_config, make_batch, attention: str):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors()
    _, slot, count, depth, _ = make_batch(1, unique=9)
    row = int((count > 0).sum(1).argmax())
    slot, count, depth = slot[row : row + 1], count[row : row + 1], depth[row : row + 1]
    hidden = torch.zeros_like(count, dtype=torch.bool)
    hidden[:, :2] = True
    assert (count[hidden] > 1).all()
    swapped = count.clone()
    swapped[:, 0] -= 1
    swapped[:, 1] += 1
    torch.testing.assert_close(
        model(asvs, slot, count, depth, hidden), model(asvs, slot, swapped, depth, hidden), rtol=0, atol=0
    )
    assert not torch.equal(model(asvs, slot, count, depth).embedding, model(asvs, slot, swapped, depth).embedding)


@each_attention
def test_context_and_pooling_by_themselves_are_the_whole(make_config, make_batch, attention: str):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors()
    _, slot, count, depth, _ = make_batch(2)
    embedding, context = model(asvs, slot, count, depth, return_context=True)
    assert torch.equal(model.contextualise(asvs, slot, count, depth), context)
    assert torch.equal(model.pool(context, count == 0), embedding)


@pytest.mark.parametrize("joins", ["concat", "film", "none"])
def test_abundance_joins_as_it_is_told(make_config, make_batch, joins: str):
    model, asvs = encoder(make_config(count_embedding=joins)), asv_vectors()
    _, slot, count, depth, _ = make_batch(1)
    embedding = model(asvs, slot, count, depth).embedding
    richer = model(asvs, slot, 10 * count, 10 * depth).embedding
    assert torch.equal(embedding, richer) == (joins == "none")
    assert any(name.startswith("abundance.") for name in model.state_dict()) == (joins != "none")
    padded = model(asvs, functional.pad(slot, (0, 3), value=2), functional.pad(count, (0, 3)), depth).embedding
    torch.testing.assert_close(padded, embedding, **exact)
    hidden = count > 0
    if joins != "none":
        assert not torch.equal(model(asvs, slot, count, depth, hidden).embedding, embedding)
    torch.testing.assert_close(
        model(asvs, slot, count, depth, hidden), model(asvs, slot, count.clamp_max(1), depth, hidden), rtol=0, atol=0
    )


def test_abundance_scales_and_shifts_an_asv_in_film(make_config, make_batch):
    """(1 + gamma) * x + beta."""
    model, asvs = encoder(make_config(count_embedding="film")), asv_vectors()
    _, slot, count, depth, _ = make_batch(1)
    x = functional.embedding(slot, asvs)
    abundance = model.abundance(count, depth[:, None].expand_as(count), None)
    gamma, beta = abundance.chunk(2, dim=-1)
    torch.testing.assert_close(model._join_abundance(x, abundance), (1 + gamma) * x + beta, **exact)


def test_context_only_on_request(make_config, make_batch):
    model, asvs = encoder(make_config()), asv_vectors()
    _, slot, count, depth, _ = make_batch(1)
    assert model(asvs, slot, count, depth).asv_context is None
    assert model(asvs, slot, count, depth, return_context=True).asv_context.shape == (*slot.shape, 16)


@each_attention
def test_a_sample_without_asvs_has_a_finite_embedding_and_gradient(make_config, make_batch, attention: str):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors().requires_grad_()
    _, slot, count, depth, _ = make_batch(1)
    count[0] = 0
    embedding = model(asvs, slot, count, depth).embedding
    assert embedding.isfinite().all()
    embedding.sum().backward()
    assert asvs.grad is not None
    assert asvs.grad.isfinite().all()


@each_attention
def test_padded_and_packed_samples_agree(make_config, make_batch, attention: str):
    model, asvs = encoder(make_config(sample_attention=attention)), asv_vectors()
    _, slot, count, depth, _ = make_batch(3)
    packed = model(asvs, slot, count, depth).embedding
    model.transformer.pads = True
    torch.testing.assert_close(model(asvs, slot, count, depth).embedding, packed, **exact)


@each_attention
def test_checkpointing_gives_the_same_gradient(make_config, make_batch, attention: str):
    _, slot, count, depth, _ = make_batch(2)
    gradients = []
    for checkpointing in (False, True):
        model = encoder(make_config(sample_attention=attention, gradient_checkpointing=checkpointing))
        asvs = asv_vectors().requires_grad_()
        model(asvs, slot, count, depth).embedding.square().sum().backward()
        gradients.append([asvs.grad, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.equal(plain, checkpointed)


def test_other_asvs_matter_through_the_points(make_config, make_batch):
    model, asvs = encoder(make_config(sample_attention="induced", induced_points=3)), asv_vectors()
    slot, count = torch.tensor([[0, 1, 2]]), torch.full((1, 3), 5)
    depth = torch.tensor([15])
    context = model.contextualise(asvs, slot, count, depth)
    other = model.contextualise(asvs, torch.tensor([[0, 1, 7]]), count, depth)
    assert (other - context)[0, :2].norm(dim=-1).min() > 1e-4
    assert {p.shape[0] for name, p in model.named_parameters() if name.endswith("points")} == {3}

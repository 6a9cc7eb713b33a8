import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.models.distance_link import LINKS, SOFTENING, Link, cosine, euclidean, laplace, tanh

links = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
bounded = pytest.mark.parametrize("link", [laplace, tanh, cosine])


def embeddings(seed: int, rows: int = 5, width: int = 7, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_values_by_hand():
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    one = torch.tensor([[1.0, 0.0]])
    distance = (25 + SOFTENING**2) ** 0.5 - SOFTENING
    assert euclidean(x, y).item() == pytest.approx(distance)
    assert laplace(x, y).item() == pytest.approx(1 - 2.718281828459045**-distance)
    assert tanh(x, one).item() == pytest.approx(0.7615941, abs=1e-3)
    assert cosine(one, y).item() == pytest.approx((1 - 0.6) / 2)
    assert cosine(one, -one).item() == pytest.approx(1)


@links
def test_equal_rows_have_distance_zero_and_a_finite_gradient(link: Link):
    x = embeddings(0).float().requires_grad_()
    y = x.detach().clone().requires_grad_()
    distance = link(x, y)
    assert (distance.diagonal() == 0).all()
    distance.diagonal().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


@links
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1e-2, 1.0, 100.0]))
def test_symmetric_and_not_negative(link: Link, seed: int, scale: float):
    x, y = embeddings(seed, scale=scale), embeddings(seed + 1, rows=3, scale=scale)
    assert torch.equal(link(x, y), link(y, x).T)
    assert (link(x, y) >= 0).all()


@bounded
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_at_most_one(link: Link, seed: int, scale: float):
    assert (link(embeddings(seed, scale=scale), embeddings(seed + 1, scale=scale)) <= 1 + 1e-12).all()


@links
def test_gradient_against_finite_differences(link: Link):
    x, y = embeddings(3, 3, 4).requires_grad_(), embeddings(4, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(link, (x, y))
    assert torch.autograd.gradcheck(lambda x: link(x, x), (x,))


@pytest.mark.parametrize("link", [euclidean, laplace, tanh])
def test_small_distances_of_far_embeddings_are_exact_in_single_precision(link: Link):
    # a distance through scalar products would lose these in the rounding of |x|^2 = 1e6
    x = torch.full((1, 4), 500.0)
    y = x + torch.tensor([[0.125, 0.0, 0.0, 0.0]])
    exact = link(x.double(), y.double())
    torch.testing.assert_close(link(x, y).double(), exact, rtol=1e-5, atol=0)


@links
def test_half_precision_is_raised_to_single(link: Link):
    x = embeddings(5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert link(x, x).dtype == torch.float32
    assert torch.equal(link(x, x), link(x.float(), x.float()))

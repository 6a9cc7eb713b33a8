import math

import pytest
import torch

from aam.training.losses import MultiTaskLoss, class_loss, count_loss, nucleotide_loss, pairwise_loss, target_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pairwise_loss_is_the_mean_over_pairs():
    predicted, true = random(5, 5), random(5, 5, seed=1)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    expected = sum((predicted[i, j] - true[i, j]).item() ** 2 for i, j in pairs) / 10
    assert pairwise_loss(predicted, true).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [0, 1])
def test_pairwise_loss_without_a_pair_is_zero_with_zero_gradient(size):
    predicted = random(size, size).requires_grad_()
    loss = pairwise_loss(predicted, random(size, size, seed=1))
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()


def test_nucleotide_loss_weighs_and_adds_up_over_batches():
    logits, true, weight = random(7, 6), torch.tensor([0, 5, 2, 2, 1, 0, 3]), torch.tensor([1, 4, 1, 2, 3, 1, 1])
    each = [math.log(sum(math.exp(x) for x in row)) - row[t] for row, t in zip(logits.tolist(), true, strict=True)]
    expected = sum(loss * w for loss, w in zip(each, weight.tolist(), strict=True)) / 13
    whole = nucleotide_loss(logits, true, weight, weight.sum())
    parts = [nucleotide_loss(logits[cut], true[cut], weight[cut], weight.sum()) for cut in (slice(3), slice(3, 7))]
    assert whole.item() == pytest.approx(expected, rel=1e-12)
    assert sum(parts).item() == pytest.approx(expected, rel=1e-12)


def test_nucleotide_loss_with_nothing_hidden_is_zero():
    logits = torch.zeros(0, 7, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    loss = nucleotide_loss(logits, empty, empty, torch.tensor(0))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("mse", lambda e: e * e),
        ("mae", abs),
        ("huber", lambda e: e * e / 2 if abs(e) < 1 else abs(e) - 0.5),
    ],
)
def test_target_losses_are_weighted_means(kind, of):
    predicted, true = 2 * random(6), random(6, seed=1)
    weight = torch.tensor([1.0, 2, 0.5, 1, 3, 1])
    errors = (predicted - true).tolist()
    assert min(map(abs, errors)) < 1 < max(map(abs, errors))
    expected = sum(of(e) * w for e, w in zip(errors, weight.tolist(), strict=True)) / 8.5
    assert target_loss(kind, predicted, true, weight, weight.sum()).item() == pytest.approx(expected, rel=1e-12)


def test_class_loss_is_the_weighted_mean_cross_entropy():
    logits, true, weight = random(4, 3), torch.tensor([2, 0, 0, 1]), torch.tensor([1.0, 0.5, 0.5, 2])
    each = [math.log(sum(map(math.exp, row))) - row[t] for row, t in zip(logits.tolist(), true, strict=True)]
    expected = sum(loss * w for loss, w in zip(each, weight.tolist(), strict=True)) / 4
    assert class_loss(logits, true, weight, weight.sum()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_count_loss_looks_at_hidden_asvs_alone(dtype):
    predicted = random(2, 3).to(dtype).requires_grad_()
    abundance = torch.tensor([[5, 3, 2], [4, 0, 0]]) / torch.tensor([[10], [4]])  # 0 is padding
    hidden = torch.tensor([[True, False, True], [True, False, False]])
    loss = count_loss(predicted, abundance, hidden, hidden.sum())
    loss.backward()
    wanted = [(0, 0, 0.5), (0, 2, 0.2), (1, 0, 1.0)]
    expected = sum((predicted[i, j].item() - math.log(share)) ** 2 for i, j, share in wanted) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(predicted.grad != 0, hidden)


def test_count_loss_with_nothing_hidden_is_zero():
    predicted = random(2, 3).float().requires_grad_()
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    loss = count_loss(predicted, torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]), hidden, hidden.sum())
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()


def test_the_sum_of_the_losses_is_weighted():
    loss = MultiTaskLoss({"a": 2.0, "b": 0.5, "c": 0.0})
    assert loss({"a": torch.tensor(3.0), "b": torch.tensor(4.0)}).item() == 8
    assert [loss.active(name) for name in ("a", "c", "d")] == [True, False, False]
    with pytest.raises(KeyError):
        loss({"d": torch.tensor(1.0)})

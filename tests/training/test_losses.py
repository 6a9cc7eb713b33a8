import math
from dataclasses import dataclass

import pytest
import torch
from sklearn.metrics import mean_pinball_loss

from aam.models.distance_link import LINKS
from aam.training import losses
from aam.training.losses import (
    MultiTaskLoss,
    RegressionLoss,
    class_errors,
    count_errors,
    nucleotide_loss,
    pairwise_gradient,
    target_loss,
    taxonomy_losses,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Pairs:
    """Samples of a step, their true distances, and the mean over pairs by plain loops, with its gradient."""

    z: torch.Tensor
    true: torch.Tensor

    @classmethod
    def draw(cls, samples: int, dtype: torch.dtype = torch.float64) -> "Pairs":
        true = random(samples, samples, seed=1).abs()
        return cls(random(samples, 3).to(dtype), (true + true.T).fill_diagonal_(0))

    def dense(self) -> tuple[float, torch.Tensor]:
        z = self.z.to(torch.float64, copy=True).requires_grad_()
        count = len(z)
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        errors = [((z[i] - z[j]).square().sum() + 1e-6).sqrt() - 1e-3 for i, j in pairs]
        errors = [(1 - (-d).exp() - self.true[i, j]) ** 2 for d, (i, j) in zip(errors, pairs, strict=True)]
        loss = torch.stack(errors).mean()
        loss.backward()
        return loss.item(), z.grad

    def of_rank(self, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A rank's share: it sees its own rows of the true distances alone, as on a cluster."""
        own = self.true[start : start + size]
        mine = self.z[start : start + size]
        return pairwise_gradient(mine, self.z, start, LINKS["laplace"], lambda rows, columns: own[rows, columns])

    def of_ranks(self, *sizes: int) -> tuple[float, torch.Tensor]:
        """Add up the shares of ranks with these numbers of samples."""
        shares = [self.of_rank(sum(sizes[:rank]), size) for rank, size in enumerate(sizes)]
        return sum(value for value, _ in shares).item(), torch.cat([gradient for _, gradient in shares])


@pytest.mark.parametrize("block", [1, 2, 3, 512])
@pytest.mark.parametrize("sizes", [(9,), (4, 5), (5, 4), (3, 3, 3), (3, 3, 2, 1), (9, 0), (0, 4, 0, 5), (1,) * 9])
def test_shares_of_the_pairwise_gradient_add_up_to_that_of_all_pairs(monkeypatch, sizes, block):
    monkeypatch.setattr(losses, "PAIR_BLOCK", block)
    pairs = Pairs.draw(9)
    expected_value, expected = pairs.dense()
    value, gradient = pairs.of_ranks(*sizes)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert (gradient - expected).norm() <= 1e-12 * expected.norm()
    assert expected.norm() > 1e-2


def test_the_pairwise_gradient_of_one_rank_is_whole_for_its_own_samples():
    """What one rank has is what autograd gives its rows: not a half of it, and nothing of its own pairs alone."""
    pairs = Pairs.draw(6)
    _, expected = pairs.dense()
    _, gradient = pairs.of_rank(2, 3)
    assert torch.allclose(gradient, expected[2:5], rtol=1e-12, atol=0)
    _, alone = Pairs(pairs.z[2:5], pairs.true[2:5, 2:5]).dense()
    assert (gradient - alone).norm() > 0.1 * expected[2:5].norm()


@pytest.mark.parametrize("sizes", [(0,), (1,), (0, 0), (0, 1), (1, 0)])
def test_the_pairwise_gradient_without_a_pair_is_zero(sizes):
    value, gradient = Pairs.draw(sum(sizes)).of_ranks(*sizes)
    assert value == 0
    assert gradient.shape == (sum(sizes), 3)
    assert not gradient.any()


def test_a_rank_without_samples_has_no_share_of_the_pairs():
    value, gradient = Pairs.draw(4).of_rank(2, 0)
    assert value == 0
    assert gradient.shape == (0, 3)


def test_equal_samples_have_a_finite_pairwise_gradient():
    pairs = Pairs(torch.ones(3, 2, dtype=torch.float64), torch.full((3, 3), 0.5, dtype=torch.float64))
    value, gradient = pairs.of_ranks(2, 1)
    assert value == pytest.approx(0.25, rel=1e-12)
    assert not gradient.any()


def test_the_pairwise_gradient_in_single_precision():
    pairs = Pairs.draw(9, torch.float32)
    expected_value, expected = pairs.dense()
    with torch.no_grad():  # as the objective calls it
        value, gradient = pairs.of_ranks(4, 5)
    assert gradient.dtype == torch.float32
    assert value == pytest.approx(expected_value, rel=1e-6)
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()


def test_nucleotide_loss_weighs_and_adds_up_over_batches():
    logits, true, weight = random(7, 6), torch.tensor([0, 5, 2, 2, 1, 0, 3]), torch.tensor([1, 4, 1, 2, 3, 1, 1])
    each = [math.log(sum(math.exp(x) for x in row)) - row[t] for row, t in zip(logits.tolist(), true, strict=True)]
    expected = sum(loss * w for loss, w in zip(each, weight.tolist(), strict=True)) / 13
    whole = nucleotide_loss(logits, true, weight, weight.sum())
    parts = [nucleotide_loss(logits[cut], true[cut], weight[cut], weight.sum()) for cut in (slice(3), slice(3, 7))]
    assert whole.item() == pytest.approx(expected, rel=1e-12)
    assert sum(parts).item() == pytest.approx(expected, rel=1e-12)


def test_taxonomy_losses_weigh_known_ranks_and_add_up_over_batches():
    logits, weight = random(5, 7), torch.tensor([1, 4, 2, 3, 0])
    true = torch.tensor([[0, 2], [1, -1], [-1, 3], [2, 0], [0, 1]])
    expected = []
    for rank, columns in enumerate((slice(3), slice(3, 7))):
        known = [
            (math.log(sum(map(math.exp, row[columns]))) - row[columns][of], w)
            for row, of, w in zip(logits.tolist(), true[:, rank].tolist(), weight.tolist(), strict=True)
            if of >= 0
        ]
        expected.append(sum(loss * w for loss, w in known) / sum(w for _, w in known))
    total = (weight[:, None] * (true >= 0)).sum(0)
    whole = taxonomy_losses(logits, true, (3, 4), weight, total)
    cuts = (slice(2), slice(2, 5))
    parts = [taxonomy_losses(logits[cut], true[cut], (3, 4), weight[cut], total) for cut in cuts]
    assert whole.tolist() == pytest.approx(expected, rel=1e-12)
    assert sum(parts).tolist() == pytest.approx(expected, rel=1e-12)


def test_taxonomy_losses_of_unknown_ranks_are_zero_and_pull_nothing():
    logits = random(3, 5).requires_grad_()
    weight = torch.tensor([1, 2, 0])
    losses_of_ranks = taxonomy_losses(logits, torch.full((3, 2), -1), (2, 3), weight, torch.zeros(2, dtype=torch.int64))
    losses_of_ranks.sum().backward()
    assert losses_of_ranks.tolist() == [0, 0]
    assert not logits.grad.any()


def test_nucleotide_loss_with_nothing_masked_is_zero():
    logits = torch.zeros(0, 7, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    loss = nucleotide_loss(logits, empty, empty, torch.tensor(0))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("loss", "of"),
    [
        (RegressionLoss("mse"), lambda e: e * e),
        (RegressionLoss("mae"), abs),
        (RegressionLoss("huber"), lambda e: e * e / 2 if abs(e) < 1 else abs(e) - 0.5),
        (RegressionLoss("asymmetric"), abs),
        (RegressionLoss("asymmetric", (), 3.0, 0.5), lambda e: 3.0 * e if e > 0 else -0.5 * e),
        (RegressionLoss("quantile", (0.5,)), lambda e: abs(e) / 2),
    ],
)
def test_errors_of_a_number_and_their_weighted_mean(loss, of):
    predicted, true = 2 * random(6), random(6, seed=1)
    weight = torch.tensor([1.0, 2, 0.5, 1, 3, 1], dtype=torch.float64)
    errors = (predicted - true).tolist()
    assert min(map(abs, errors)) < 1 < max(map(abs, errors))
    assert min(errors) < 0 < max(errors)
    each = loss.errors(predicted[:, None], true)
    assert each.tolist() == pytest.approx([of(e) for e in errors], rel=1e-12)
    expected = sum(of(e) * w for e, w in zip(errors, weight.tolist(), strict=True)) / 8.5
    whole = target_loss(each[:, None], weight[:, None], weight.sum()[None])
    assert whole.item() == pytest.approx(expected, rel=1e-12)


def test_the_quantile_loss_is_the_mean_of_pinball_losses():
    shares = (0.1, 0.5, 0.8)
    predicted, true = random(9, 3), random(9, seed=1)
    each = RegressionLoss("quantile", shares).errors(predicted, true)
    plain = [
        sum(q * (t - p) if t > p else (1 - q) * (p - t) for p, q in zip(row, shares, strict=True)) / 3
        for row, t in zip(predicted.tolist(), true.tolist(), strict=True)
    ]
    assert each.tolist() == pytest.approx(plain, rel=1e-12)
    columns = zip(predicted.T.numpy(), shares, strict=True)
    reference = [mean_pinball_loss(true.numpy(), column, alpha=share) for column, share in columns]
    assert each.mean().item() == pytest.approx(sum(reference) / 3, rel=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_quantile_loss_is_least_at_the_quantile(share):
    true = torch.arange(101, dtype=torch.float64)
    loss = RegressionLoss("quantile", (share,))
    means = [loss.errors(torch.full((101, 1), float(at), dtype=torch.float64), true).mean() for at in range(101)]
    assert min(range(101), key=means.__getitem__) == pytest.approx(100 * share, abs=1)


def test_several_targets_count_alike_however_many_values_they_have():
    errors, weight = random(5, 3).abs(), random(5, 3, seed=1).abs()
    weight[1:, 2] = 0
    expected = [
        sum(e * w for e, w in zip(column, of, strict=True)) / sum(of)
        for column, of in zip(errors.T.tolist(), weight.T.tolist(), strict=True)
    ]
    assert expected[2] == pytest.approx(errors[0, 2].item())
    whole = target_loss(errors, weight, weight.sum(0))
    parts = [target_loss(errors[cut], weight[cut], weight.sum(0)) for cut in (slice(2), slice(2, 5))]
    assert whole.item() == pytest.approx(sum(expected) / 3, rel=1e-12)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


def test_a_target_that_no_sample_of_a_step_has_is_zero_and_pulls_nothing():
    predicted, weight = random(4, 2).requires_grad_(), torch.ones(4, 2, dtype=torch.float64)
    weight[:, 1] = 0
    errors = torch.stack(
        [RegressionLoss("mse").errors(part[:, None], random(4, seed=1)) for part in predicted.T], dim=1
    )
    loss = target_loss(errors, weight, weight.sum(0))
    loss.backward()
    assert loss.item() == pytest.approx(errors[:, 0].mean().item() / 2, rel=1e-12)
    assert not predicted.grad[:, 1].any()
    assert predicted.grad[:, 0].all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_errors_are_cross_entropies_against_smoothed_labels(smoothing):
    logits, true = random(4, 3), torch.tensor([2, 0, 0, 1])
    wanted = [[smoothing / 3 + (1 - smoothing) * (k == t) for k in range(3)] for t in true.tolist()]
    logs = [[x - math.log(sum(map(math.exp, row))) for x in row] for row in logits.tolist()]
    expected = [-sum(p * x for p, x in zip(row, log, strict=True)) for row, log in zip(wanted, logs, strict=True)]
    errors = class_errors(logits, true, smoothing)
    assert errors.tolist() == pytest.approx(expected, rel=1e-12)
    reference = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, true)
    assert errors.mean().item() == pytest.approx(reference.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_of_abundances_are_those_of_their_logarithms(dtype):
    predicted = random(2, 3).to(dtype).requires_grad_()
    abundance = (torch.tensor([[5, 3, 2], [4, 0, 0]]) / torch.tensor([[10], [4]])).to(dtype)  # 0 is padding
    masked = torch.tensor([[True, False, True], [True, False, False]])
    errors = count_errors(predicted, abundance) * masked
    errors.sum().backward()
    wanted = {(0, 0): 0.5, (0, 2): 0.2, (1, 0): 1.0}
    expected = [(predicted[place].item() - math.log(share)) ** 2 for place, share in wanted.items()]
    assert errors[masked].tolist() == pytest.approx(expected, rel=1e-6)
    assert predicted.grad.isfinite().all()
    assert torch.equal(predicted.grad != 0, masked)


def test_the_sum_of_the_losses_is_weighted():
    loss = MultiTaskLoss({"a": 2.0, "b": 0.5, "c": 0.0})
    assert loss({"a": torch.tensor(3.0), "b": torch.tensor(4.0)}).item() == 8
    with pytest.raises(KeyError):
        loss({"d": torch.tensor(1.0)})

"""The losses, each a pure function, and their weighted sum.

Shapes: G samples of an optimizer step, B samples, U unique ASVs, M masked nucleotides, V vocabulary, K outputs, T
targets, R taxonomic ranks, C classes of all of them together. A loss is given the total weight of the whole optimizer
step, so that it adds up over the batches of a step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from aam.config import TargetLoss
from aam.models.distance_link import at_least_single

PAIR_BLOCK = 256
"""Samples a side of a block of pairs, which bounds the memory of comparing them.

On a GPU `torch.cdist` takes 256 x 256 x D numbers in its backward pass (PyTorch's issue 24345), and true distances from
a tree of 30,000 ASVs take 0.6 GB (1.5 GB for blocks of 512).
"""


def pairwise_gradient(
    own: Tensor,
    everyone: Tensor,
    start: int,
    distance: Callable[[Tensor, Tensor], Tensor],
    true: Callable[[slice, slice], Tensor],
) -> tuple[Tensor, Tensor]:
    """Mean over all pairs of samples of the squared error of their distances: this rank's part, and its gradient.

    A pair of two own samples counts here alone. A pair with another rank's sample counts half here and half there in
    the value; its gradient at the own embedding is whole, since the other rank does not see that embedding as its own.
    Added over ranks, both are those of the mean over all G (G - 1) / 2 pairs (docs/distributed.md has the derivation).
    Pairs are compared block by block, so that the memory is linear in G.

    Args:
        own: [B, D], the rows ``start`` to ``start + B`` of `everyone`, scaled; no gradient flows through it.
        everyone: [G, D], the samples of all ranks.
        start: where the own rows begin.
        distance: from rows [b, D] and columns [c, D] to distances [b, c]; without parameters.
        true: from a slice of the own samples and one of all samples to their true distances, [b, c].

    Returns:
        The value, a float64 scalar (zero where there is no pair), and its gradient [B, D].
    """
    value = torch.zeros((), dtype=torch.float64, device=own.device)
    gradient = torch.zeros_like(own)
    total = max(1, len(everyone) * (len(everyone) - 1) // 2)
    with torch.enable_grad():
        for rows, columns in _blocks_of_pairs(len(own), len(everyone), start):
            mine = own[rows].detach().requires_grad_()
            is_own = start <= columns.start < start + len(own)
            others = everyone[columns].detach().requires_grad_(is_own)
            error = (distance(mine, others) - true(rows, columns).to(own.dtype)).square()
            if is_own and columns.start - start == rows.start:
                error = error.triu(1)
            part = error.sum() / total
            slopes = torch.autograd.grad(part, [mine, others] if is_own else [mine])
            gradient[rows] += slopes[0]
            if is_own:
                gradient[columns.start - start : columns.stop - start] += slopes[1]
            value += part.detach() * (1.0 if is_own else 0.5)
    return value, gradient


def _blocks_of_pairs(own: int, everyone: int, start: int) -> Iterator[tuple[slice, slice]]:
    """Cut own x all samples into blocks: own columns apart from others, and of own pairs only rows before columns."""
    bounds = [(0, start), (start, start + own), (start + own, everyone)]
    columns = [slice(at, min(at + PAIR_BLOCK, end)) for begin, end in bounds for at in range(begin, end, PAIR_BLOCK)]
    for at in range(0, own, PAIR_BLOCK):
        for column in columns:
            if not start <= column.start < start + at:
                yield slice(at, min(at + PAIR_BLOCK, own)), column


def nucleotide_loss(logits: Tensor, true: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Cross-entropy of masked nucleotides, logits [M, V] and true int64 [M], over the total weight of the step.

    The weight [M] of each is the number of occurrences of its ASV in samples.
    """
    loss = functional.cross_entropy(at_least_single(logits), true, reduction="none")
    return (loss * weight.to(loss.dtype)).sum() / total.to(loss.dtype).clamp_min(1)


def taxonomy_losses(logits: Tensor, true: Tensor, sizes: Sequence[int], weight: Tensor, total: Tensor) -> Tensor:
    """Cross-entropy of each taxonomic rank over the ASVs whose class is known, weighed by their occurrences: [R].

    Args:
        logits: [U, C], one rank after the other.
        true: int64 [U, R], classes; negative where not known.
        sizes: classes of each rank, which add up to C.
        weight: [U], occurrences of the ASV in samples.
        total: [R], sum over the optimizer step of the weights of the ASVs whose class is known.
    """
    losses = [
        (functional.cross_entropy(part, of_rank.clamp_min(0), reduction="none") * (weight * (of_rank >= 0))).sum()
        for part, of_rank in zip(torch.split(logits, list(sizes), dim=1), true.unbind(1), strict=True)
    ]
    return torch.stack(losses) / total.to(losses[0].dtype).clamp_min(1)


class RegressionLoss(NamedTuple):
    """How the error of a number is measured, on the scale that is learned."""

    kind: TargetLoss
    quantiles: tuple[float, ...] = ()
    """Of the quantile loss: the levels that are predicted."""
    over_penalty: float = 1.0
    """Of the asymmetric loss, for each unit too high."""
    under_penalty: float = 1.0
    """For each unit too low."""

    def errors(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Error of every sample: predicted [B, quantiles] or [B, 1], and true [B] -> [B].

        The quantile loss (Koenker & Bassett 1978) is the mean over the quantiles q of max(q e, (q - 1) e), e being the
        truth minus the prediction; the asymmetric one is linear with a slope for each side.
        """
        excess = predicted - true[:, None]
        match self.kind:
            case "huber":
                each = functional.huber_loss(predicted, true[:, None].expand_as(predicted), reduction="none")
            case "mse":
                each = excess.square()
            case "mae":
                each = excess.abs()
            case "quantile":
                level = excess.new_tensor(self.quantiles)
                each = torch.maximum(-level * excess, (1 - level) * excess)
            case "asymmetric":
                each = torch.maximum(self.over_penalty * excess, -self.under_penalty * excess)
        return each.mean(dim=1)


def class_errors(logits: Tensor, true: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2016): logits [B, K], int64 true [B] -> [B]."""
    return functional.cross_entropy(logits, true, reduction="none", label_smoothing=smoothing)


def target_loss(errors: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Mean over targets of the weighted means of errors [B, T] over samples, by the totals [T] of the step's weights.

    The weight [B, T] is 0 where a value is missing.
    """
    each = (errors * weight).sum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return each.mean()


def count_errors(predicted: Tensor, relative_abundance: Tensor) -> Tensor:
    """Squared errors of log relative abundances: [B, S], predicted, and [B, S], true, 0 where padding -> [B, S]."""
    true = relative_abundance.clamp_min(torch.finfo(relative_abundance.dtype).tiny).log()
    return (predicted - true).square()


@dataclass(frozen=True)
class MultiTaskLoss:
    """Weighted sum of named losses."""

    weights: Mapping[str, float]

    def __call__(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Add up the parts; every part needs a weight."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

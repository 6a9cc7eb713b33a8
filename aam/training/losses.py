"""The losses, each a pure function, and their weighted sum.

Shapes: G samples of an optimizer step, B samples, M hidden nucleotides, V vocabulary, K outputs. A loss is given the
total weight of the whole optimizer step, so that it adds up over the batches of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aam.config import TargetLoss


def pairwise_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean over pairs i < j of the squared error of the distances.

    Args:
        predicted: [G, G] distances of the model.
        true: [G, G] true distances.

    Returns:
        A scalar; zero where there is no pair.
    """
    size = len(predicted)
    row, column = torch.triu_indices(size, size, offset=1, device=predicted.device)
    error = predicted[row, column] - true[row, column].to(predicted.dtype)
    return error.square().sum() / max(1, len(row))


def nucleotide_loss(logits: Tensor, hidden: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Cross-entropy of hidden nucleotides, each ASV weighed by its occurrences in samples.

    Args:
        logits: [M, V] at hidden nucleotides.
        hidden: int64 [M], what they were.
        weight: [M], occurrences of the ASV that each belongs to.
        total: sum of the weights over the optimizer step.
    """
    loss = functional.cross_entropy(at_least_single(logits), hidden, reduction="none")
    return (loss * weight.to(loss.dtype)).sum() / total.clamp_min(1)


def target_loss(kind: TargetLoss, predicted: Tensor, true: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Weighted regression loss on the transformed scale, of [B] predictions."""
    if kind == "huber":
        error = functional.huber_loss(predicted, true, reduction="none")
    else:
        difference = predicted - true
        error = difference.square() if kind == "mse" else difference.abs()
    return (error * weight).sum() / total


def class_loss(logits: Tensor, true: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Weighted cross-entropy of classes: logits [B, K], int64 true [B], weight [B]."""
    return (functional.cross_entropy(logits, true, reduction="none") * weight).sum() / total


def count_loss(predicted: Tensor, relative_abundance: Tensor, hidden: Tensor, total: Tensor) -> Tensor:
    """Squared error of the log relative abundance of hidden ASVs; all [B, S], total the number hidden in the step."""
    true = relative_abundance.clamp_min(torch.finfo(relative_abundance.dtype).tiny).log()
    return ((predicted - true).square() * hidden).sum() / total.clamp_min(1)


def at_least_single(x: Tensor) -> Tensor:
    """Bring what autocast computed to single precision; double stays double."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class MultiTaskLoss:
    """Weighted sum of named losses."""

    weights: Mapping[str, float]

    def __call__(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Add up the parts; every part needs a weight."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

    def active(self, name: str) -> bool:
        """Whether a loss has a weight above zero."""
        return self.weights.get(name, 0.0) > 0

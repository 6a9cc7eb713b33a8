"""Which nucleotides are substituted: a function of (seed, step, ASV), so two ranks that hold the same ASV agree."""

import torch
from torch import Tensor

from aam.data.files.sequences import PAD, A, N
from aam.data.sampling.seeded import derived_seed, uniforms

BASES = 4
"""A, C, G and T, whose tokens follow one another."""


def substitute(tokens: Tensor, keys: Tensor, rate: float, seed: int, step: int) -> Tensor:
    """Substitute nucleotides, uint8 [U, L], each by itself with a probability; padding stays.

    A substituted nucleotide is one of the others of A, C, G and T, all alike; of an unknown one (N) that is any of the
    four. ASVs are told apart by their keys, int64 [U].
    """
    if rate == 0:
        return tokens
    draw = uniforms(derived_seed(seed, "misread", step), keys, tokens.shape[1])
    wrong = (draw < rate) & (tokens != PAD)
    # below the rate, the draw is uniform again: it chooses the substitute
    choices = torch.where(tokens == N, BASES, BASES - 1)
    pick = torch.minimum((draw / rate * choices).long(), choices - 1)
    other = A + torch.where(tokens == N, pick, (tokens.long() - A + 1 + pick) % BASES)
    return torch.where(wrong, other.to(tokens.dtype), tokens)

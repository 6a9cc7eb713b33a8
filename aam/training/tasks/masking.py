"""Which nucleotides are masked: a function of (seed, step, ASV), so two ranks that hold the same ASV agree."""

import torch
from torch import Tensor

from aam.config import MaskConfig
from aam.data.files.sequences import PAD
from aam.data.sampling.seeded import derived_seed, uniforms


def mask_nucleotides(
    tokens: Tensor, keys: Tensor, config: MaskConfig, seed: int, step: int | str, asv_fraction: float | None = None
) -> Tensor:
    """Choose the nucleotides to mask.

    Args:
        tokens: uint8 [U, L], the nucleotides; padding is never masked.
        keys: int64 [U], key of each ASV.
        config: fraction of the nucleotides of an ASV, strategy, and length of the stretches.
        seed: seed of the run.
        step: number of the optimizer step; a word for masks that stay the same, as in validation.
        asv_fraction: probability that an ASV has masked nucleotides; as the config says unless given.

    Returns:
        bool [U, L]: stretches start at each nucleotide with the probability that makes the expected fraction
        ``nuc_mask_ratio``; they may overlap.
    """
    span = config.nuc_mask_span if config.nuc_mask_strategy == "span" else 1
    start_probability = 1 - (1 - config.nuc_mask_ratio) ** (1 / span)
    # a stretch may start before the first nucleotide, so that the first ones are masked as often as the others
    length = tokens.shape[1] + span - 1
    starts = uniforms(derived_seed(seed, "hide", step), keys, length) < start_probability
    chosen = uniforms(derived_seed(seed, "choose", step), keys, 1) < (asv_fraction or config.nuc_asv_fraction)
    begun = torch.nn.functional.pad(starts.to(torch.int32).cumsum(1), (1, 0))
    covered = begun[:, span:] > begun[:, :-span]  # by a stretch
    return covered & (tokens != PAD) & chosen

"""Configs of checkpoints that an earlier aam wrote, in today's options.

A change of options that checkpoints hold adds a step here; steps are taken in the order in which they were made, and
each recognises by its options what it is for. So a model stays readable; a run goes on with the aam that began it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

Document = dict[str, dict[str, Any]]
"""Options by section."""


def in_todays_options(config: Document) -> Document:
    """Bring the config of a checkpoint, of this aam or of an earlier one, to the options of this one."""
    for step in STEPS:
        config = step({section: dict(options) for section, options in config.items()})
    return config


def _validation_has_its_name(config: Document) -> Document:
    """``test_size`` was the fraction of the samples that chose the checkpoint; there was no test."""
    split = config.get("split", {})
    if "test_size" in split:
        share = split.pop("test_size")
        if split.get("split_column") is None:  # where a column says it, the share said nothing
            split["val_fraction"] = share
    return config


def _encoder_learned_as_the_head(config: Document) -> Document:
    """A predictor had one learning rate, as many steps as its epochs gave, and a head that read what it was given."""
    if "target" in config and "standardize_samples" not in config["target"]:
        config["target"]["standardize_samples"] = False
        frozen = config["finetune"]["freeze_base"]
        config["optim"] |= {"min_steps": 0} if frozen else {"min_steps": 0, "encoder_lr_ratio": 1.0}
    return config


def _head_read_embeddings_alone(config: Document) -> Document:
    """There were no random features of ASVs; the encoder learned unless the option said that it stays."""
    if "target" in config and "asv_features" not in config["target"]:
        config["target"]["asv_features"] = 0
    return config


def _a_fraction_was_a_share(config: Document) -> Document:
    """``nuc_asv_fraction`` was called ``nuc_asv_share``."""
    if "nuc_asv_share" in config.get("masking", {}):
        config["masking"]["nuc_asv_fraction"] = config["masking"].pop("nuc_asv_share")
    return config


STEPS: Final[tuple[Callable[[Document], Document], ...]] = (
    _validation_has_its_name,
    _encoder_learned_as_the_head,
    _head_read_embeddings_alone,
    _a_fraction_was_a_share,
)


def in_todays_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an older checkpoint by the names that modules have today."""
    return {_RENAMED_WEIGHT.sub(r"\1scale.log_tau", name): value for name, value in weights.items()}


_RENAMED_WEIGHT: Final = re.compile(r"^(encoder\.)?log_tau$")
"""The learned scale of distances has been a module of its own since checkpoints of December 2026."""

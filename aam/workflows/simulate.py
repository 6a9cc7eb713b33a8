"""Write a simulated study."""

import logging
from typing import Final

import torch

from aam.config import SimulateCommandConfig, SimulateConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.training.memory.meters import check_fits

logger = logging.getLogger(__name__)

_BYTES_OF_CELL: Final = 40
"""Least bytes that the simulation takes for each ASV of each sample: five arrays of numbers at once."""


def simulate(config: SimulateCommandConfig) -> None:
    """Simulate a study and write its table, tree, metadata and taxonomy, and what drives its columns.

    Raises:
        InputError: the folder cannot be written, or holds files of these names and ``overwrite`` is not set.
    """
    _check_memory(config.study)
    study = simulate_study(config.study)
    write_study(study, config.study.directory, config.study.overwrite)
    logger.info(
        "Wrote a study of %d samples and %d ASVs to %s",
        study.table.n_samples,
        study.table.n_asvs,
        config.study.directory,
    )


def _check_memory(study: SimulateConfig) -> None:
    """Refuse a study that the machine has no memory for.

    Raises:
        InputError: it has not.
    """
    needed = study.asvs * (_BYTES_OF_CELL * max(study.samples, study.subjects) + study.bp)
    what = f"a study of {study.samples:,} samples and {study.asvs:,} ASVs"
    check_fits(needed, torch.device("cpu"), what, "lower --samples, --asvs or --subjects")

"""Write a simulated study."""

import logging

from aam.config import SimulateCommandConfig
from aam.data.simulation.study import simulate_study, write_study

logger = logging.getLogger(__name__)


def simulate(config: SimulateCommandConfig) -> None:
    """Simulate a study and write its table, tree, metadata and taxonomy, and what drives its columns.

    Raises:
        InputError: the folder cannot be written, or holds files of these names and ``overwrite`` is not set.
    """
    study = simulate_study(config.study)
    write_study(study, config.study.directory, config.study.overwrite)
    logger.info(
        "Wrote a study of %d samples and %d ASVs to %s",
        study.table.n_samples,
        study.table.n_asvs,
        config.study.directory,
    )

"""`aam unifrac`: the distances between all samples of a study, as a file."""

import logging

from aam.config import SamplingConfig, UnifracCommandConfig
from aam.data.distances.backends import available_backend, check_metric, compute_matrix
from aam.data.distances.matrix import check_writable, write_distance_matrix
from aam.data.study import load_study
from aam.workflows.tables import check_outputs

logger = logging.getLogger(__name__)


def write_unifrac(config: UnifracCommandConfig) -> None:
    """Compute UniFrac between all samples with an established program and write the matrix.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_outputs(config, {"output": config.matrix.output}, config.matrix.overwrite)
    check_writable(config.matrix.output)
    backend = available_backend(config.matrix.backend)
    check_metric(config.unifrac.unifrac_metric, backend)
    study = load_study(config.inputs, SamplingConfig(), config.unifrac, needs=("tree",), ids_suffice=True)
    metric = config.unifrac.unifrac_metric
    logger.info("computing %s between %d samples with %s", metric, study.table.n_samples, backend)
    matrix = compute_matrix(study.table, study.require_tree(), config.unifrac, backend)
    write_distance_matrix(matrix, config.matrix.output)
    logger.info("wrote %s", config.matrix.output)

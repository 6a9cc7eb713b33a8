"""`aam export`: a trained model as one file for other programs."""

import logging
from typing import TYPE_CHECKING

from aam.config import ExportConfig
from aam.learners.base import Arrays, prefixed
from aam.learners.storage import TrainedLearner
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.workflows.makers import read_learner
from aam.workflows.onnx.model_file import require, write_model
from aam.workflows.restore import restored
from aam.workflows.tables import check_outputs

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)


def export(config: ExportConfig) -> None:
    """Write the model of a run as a file of ONNX.

    Raises:
        InputError: there is no model, it cannot be had in such a file, or the file cannot be written; nothing has been
            written then.
    """
    path = config.model.output
    check_outputs(config, {"output": path}, config.model.overwrite)
    require("onnx", "onnxscript")
    checkpoint = read_checkpoint(config.exported.run)
    model, arrays = _made_of(checkpoint)
    write_model(model, checkpoint, arrays, path)
    logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


def _made_of(checkpoint: Checkpoint) -> tuple["ModelProto", Arrays]:
    """The graph, and the arrays that predicting takes besides."""
    from aam.workflows.onnx import learners, network  # noqa: PLC0415  # after it is known that onnx is there

    if checkpoint.kind != "learner":
        return network.graph_of(restored(checkpoint)), {}
    trained = read_learner(checkpoint)
    return learners.graph_of(trained), _kept(trained)


def _kept(trained: TrainedLearner) -> Arrays:
    """Arrays of a learner's checkpoint without those of its solutions."""
    arrays = prefixed("tree", trained.reference.arrays())
    if trained.likeness is not None:
        arrays |= prefixed("likeness", trained.likeness.arrays())
    for place, solution in enumerate(trained.fitted.solutions):
        if solution.conformity is not None:
            arrays |= prefixed(f"conformity{place}", solution.conformity.arrays())
    return arrays

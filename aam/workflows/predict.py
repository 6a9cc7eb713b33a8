"""`aam predict`: apply a fine-tuned model to samples."""

import logging
from pathlib import Path

import pandas as pd

from aam.config import PredictConfig, SamplingConfig
from aam.data.distances.phylogeny import LengthChoices, read_phylogeny
from aam.data.files.embedding_files import check_cache_folder
from aam.data.study import Study, load_study
from aam.errors import InputError
from aam.learners.storage import NOTHING_KNOWN, TrainedLearner, no_intervals
from aam.training.checkpoints.store import read_checkpoint
from aam.training.distributed import setup_distributed
from aam.training.machine.compute import Compute
from aam.workflows.makers import read_learner
from aam.workflows.onnx.predict import predict_by_onnx
from aam.workflows.predict_network import predict_study, unlike_columns
from aam.workflows.restore import restored
from aam.workflows.tables import check_outputs, check_tables, write_table

logger = logging.getLogger(__name__)

NETWORK_READS_NO_TREE = (
    "--tree puts new ASVs on branches that a model knows, and the network reads their sequences: leave it out"
)


def predict(config: PredictConfig) -> None:
    """Predict the samples of a table with a trained model and write one row for each.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    with setup_distributed(config.runtime.device, inference=True) as world:
        output = config.inference.output
        world.on_main(lambda: check_outputs(config, {"output": output}, config.inference.overwrite))
        world.on_main(lambda: check_tables({"output": output}))
        world.on_main(lambda: check_cache_folder(config.inference.embedding_cache))
        if config.trained.onnx is not None:
            world.on_main(lambda: _write(*predict_by_onnx(config), output))
            return
        path = config.trained.require_checkpoint()
        checkpoint = read_checkpoint(path)
        if checkpoint.kind == "learner":
            world.on_main(lambda: _predict_by_learner(read_learner(checkpoint), config))
            return
        if config.inputs.tree is not None:
            raise InputError(NETWORK_READS_NO_TREE)
        if config.intervals.interval is not None:
            raise InputError(no_intervals("neural"))
        trained = restored(checkpoint)
        if trained.targets is None:
            raise InputError(
                f"--checkpoint {path} is a pretrained encoder and predicts no column: "
                "fine-tune it with `aam train`, or use `aam embed`"
            )
        study = load_study(config.inputs, trained.config.sampling)
        compute = Compute.of(world, config.runtime)
        predictions = predict_study(
            trained,
            study,
            config.inference.batch_size,
            compute,
            config.runtime.num_workers or 0,
            config.inference.embedding_cache,
        )
        if world.is_main:
            _write(predictions.assign(**unlike_columns(trained, study)), study, output)
        world.barrier()  # a launcher may end the others when the first has ended


def _predict_by_learner(trained: TrainedLearner, config: PredictConfig) -> None:
    """Predict with a learner that reads the whole table, and write the table; the first process does it alone.

    Raises:
        InputError: a file is wrong, or no sample can be predicted.
    """
    if config.inference.embedding_cache is not None:
        raise InputError(f"--embedding-cache is for the network, and the model is a learner of the kind {trained.name}")
    phylogeny = None
    inputs = config.inputs
    if inputs.tree is not None:
        trained.check_reads_branches()
        phylogeny = read_phylogeny(inputs.tree, LengthChoices.of(inputs), inputs.root)
    study = load_study(inputs, SamplingConfig())
    predictions, used = trained.predict(study, phylogeny, config.intervals.interval)
    _write(predictions, used, config.inference.output)


def _write(predictions: pd.DataFrame, study: Study, output: Path) -> None:
    """Write predictions, with a row for every sample that was left out."""
    write_table(with_left_out(predictions, study), output)
    logger.info("wrote %s", output)


def with_left_out(predictions: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add a row for every sample that could not be used, its values empty and the reason in the column ``note``."""
    notes = study.left_out.set_index("sample_id").rename(columns={"reason": "note"})
    if "unlike" in predictions:
        foreign = notes["note"] == NOTHING_KNOWN
        notes = notes.assign(unlike=foreign.map({True: "yes", False: ""}), why=notes["note"].where(foreign, ""))
    table = pd.concat([predictions.assign(note=""), notes])
    return table.rename_axis("sample_id")

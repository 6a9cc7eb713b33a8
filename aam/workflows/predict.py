"""`aam predict`: apply a fine-tuned model to samples."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aam.config import PredictConfig, SamplingConfig
from aam.data.dataset import FixedBatches
from aam.data.embedding_files import check_cache_folder
from aam.data.rarefaction import SampleDraws
from aam.data.study import Study, load_study
from aam.errors import InputError, first_ids
from aam.learners.storage import TrainedLearner, learner_of
from aam.training.asv_embeddings import embeddings_of
from aam.training.checkpoint import read_checkpoint
from aam.training.compute import Compute
from aam.training.distributed import setup_distributed
from aam.training.inference import asvs_of
from aam.training.target_objective import predict_outputs
from aam.workflows.restore import Restored, restored
from aam.workflows.tables import check_outputs, write_table

logger = logging.getLogger(__name__)


def predict(config: PredictConfig) -> None:
    """Predict the samples of a table with a trained model and write one row for each.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    with setup_distributed(config.runtime.device, inference=True) as world:
        output = config.inference.output
        world.on_main(lambda: check_outputs(config, {"output": output}, config.inference.overwrite))
        world.on_main(lambda: check_cache_folder(config.inference.embedding_cache))
        checkpoint = read_checkpoint(config.trained.checkpoint)
        if checkpoint.kind == "learner":
            world.on_main(lambda: _predict_by_learner(learner_of(checkpoint), config))
            return
        trained = restored(checkpoint)
        if trained.targets is None:
            raise InputError(
                f"--checkpoint {config.trained.checkpoint} is a pretrained encoder and predicts no column: "
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
            write_table(with_left_out(predictions, study), output)
            logger.info("wrote %s", output)
        world.barrier()  # a launcher may end the others when the first has ended


def _predict_by_learner(trained: TrainedLearner, config: PredictConfig) -> None:
    """Predict with a learner that reads the whole table, and write the table; the first process does it alone.

    Raises:
        InputError: a file is wrong, or no sample can be predicted.
    """
    if config.inference.embedding_cache is not None:
        raise InputError(f"--embedding-cache is for the network, and the model is a learner of the kind {trained.name}")
    study = load_study(config.inputs, SamplingConfig())
    predictions, used = trained.predict(study)
    write_table(with_left_out(predictions, used), config.inference.output)
    logger.info("wrote %s", config.inference.output)


def predict_study(
    trained: Restored,
    study: Study,
    batch_size: int,
    compute: Compute,
    num_workers: int = 0,
    cache: Path | None = None,
) -> pd.DataFrame:
    """Predict every sample of a study, in its order; columns as of `Targets.decode`. Ranks share the samples.

    Embeddings of ASVs are kept in the folder `cache`, if there is one; see `embeddings_of`.
    """
    assert trained.predictor is not None
    assert trained.targets is not None
    batches, nucleotides = study_batches(trained, study, batch_size, compute)
    metadata = metadata_of(study, trained)
    trained.targets.warn_of_others(metadata)
    categories = categories_of(metadata, trained, compute)
    predictor = trained.predictor.to(compute.device)
    training = predictor.training
    predictor.eval()
    embeddings = embeddings_of(predictor, nucleotides, asvs_of(batches), compute, cache)
    outputs = predict_outputs(predictor, embeddings, batches, compute, num_workers, categories)
    predictor.train(training)
    return trained.targets.decode(outputs, metadata)


def categories_of(metadata: pd.DataFrame, trained: Restored, compute: Compute) -> torch.Tensor | None:
    """Categories of the samples of a study, int64 [samples, C] on the device, where predictions depend on them."""
    if trained.categories is None:
        return None
    return torch.from_numpy(trained.categories.encode(metadata)).to(compute.device)


def metadata_of(study: Study, trained: Restored) -> pd.DataFrame:
    """Metadata of every sample of a study; without columns where there is none.

    Raises:
        InputError: there is none and the model reads some.
    """
    if study.metadata is not None:
        return study.metadata
    assert trained.targets is not None
    categories = () if trained.categories is None else trained.categories.needed
    needed = first_ids(dict.fromkeys([*categories, *trained.targets.metadata_columns]), limit=20)
    if needed:
        raise InputError(f"the model reads columns of the metadata ({needed}): give --metadata (metadata= in Python)")
    return pd.DataFrame(index=pd.Index(study.table.sample_ids, name="sample_id", dtype=object))


def study_batches(
    trained: Restored, study: Study, batch_size: int, compute: Compute
) -> tuple[FixedBatches, torch.Tensor]:
    """All samples of a study as the model's validation drew them, and the nucleotides on the device."""
    draws = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed)
    longest = trained.config.model.max_bp
    assert longest is not None
    nucleotides = torch.from_numpy(study.nucleotides(longest)).to(compute.device)
    return FixedBatches(draws, np.arange(study.table.n_samples), batch_size), nucleotides


def with_left_out(predictions: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add a row for every sample that could not be used, its values empty and the reason in the column ``note``."""
    assert study.left_out is not None
    notes = study.left_out.set_index("sample_id").rename(columns={"reason": "note"})
    table = pd.concat([predictions.assign(note=""), notes])
    return table.rename_axis("sample_id")

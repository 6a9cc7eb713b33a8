"""Predictions of a network that is restored, for samples of any study."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.study import Study
from aam.errors import InputError, first_ids
from aam.learners.likeness import Likeness
from aam.training.inference.asv_embeddings import embeddings_of
from aam.training.inference.samples import asvs_of, predict_outputs
from aam.training.machine.compute import Compute
from aam.workflows.restore import Restored


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
    targets = trained.require_targets()
    batches, nucleotides = study_batches(trained, study, batch_size, compute)
    metadata = metadata_of(study, trained)
    targets.warn_of_others(metadata)
    categories = categories_of(metadata, trained, compute)
    predictor = trained.require_predictor().to(compute.device)
    training = predictor.training
    predictor.eval()
    embeddings = embeddings_of(predictor, nucleotides, asvs_of(batches), compute, cache)
    outputs = predict_outputs(predictor, embeddings, batches, compute, num_workers, categories)
    predictor.train(training)
    return targets.decode(outputs, metadata)


def unlike_columns(trained: Restored, study: Study) -> "dict[str, pd.Series[str]]":
    """Columns that say which samples are unlike those of the training, by ASVs, depth and lengths; see `Likeness`.

    Nothing where an older aam has trained the network.
    """
    document = trained.documents.get("likeness")
    return {} if document is None else Likeness.from_json(document).unlike(study.table)


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
    categories = () if trained.categories is None else trained.categories.needed
    needed = first_ids(dict.fromkeys([*categories, *trained.require_targets().metadata_columns]), limit=20)
    if needed:
        raise InputError(f"the model reads columns of the metadata ({needed}): give --metadata")
    return pd.DataFrame(index=pd.Index(study.table.sample_ids, name="sample_id", dtype=object))


def study_batches(
    trained: Restored, study: Study, batch_size: int, compute: Compute
) -> tuple[FixedBatches, torch.Tensor]:
    """All samples of a study as the model's validation drew them, and the nucleotides on the device."""
    draws = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed)
    nucleotides = torch.from_numpy(study.nucleotides(trained.config.model.max_bp)).to(compute.device)
    return FixedBatches(draws, np.arange(study.table.n_samples), batch_size), nucleotides

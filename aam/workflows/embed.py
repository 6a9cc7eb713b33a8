"""`aam embed`: sample and ASV embeddings for other tools."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aam.config import EmbedConfig
from aam.data.distances.linkage import check_linkable, linkage_newick
from aam.data.files.embedding_files import check_cache_folder
from aam.data.files.whole_files import write_text
from aam.data.study import Study, load_study
from aam.training.distributed import World, setup_distributed
from aam.training.inference.asv_embeddings import AsvEmbeddings, embeddings_of
from aam.training.inference.samples import asvs_of, embed_samples
from aam.training.machine.compute import Compute
from aam.workflows.predict import with_left_out
from aam.workflows.predict_network import study_batches
from aam.workflows.restore import Restored, restore
from aam.workflows.tables import check_outputs, check_tables, write_table

logger = logging.getLogger(__name__)


def embed(config: EmbedConfig) -> None:
    """Write the embedding of every sample, and of every ASV if asked for.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    asvs = config.asvs
    outputs = {"output": config.inference.output, "asv": asvs.asv, "asv_tree": asvs.asv_tree}
    with setup_distributed(config.runtime.device, inference=True) as world:
        world.on_main(lambda: check_outputs(config, outputs, config.inference.overwrite))
        world.on_main(lambda: check_tables({"output": config.inference.output, "asv": asvs.asv}))
        world.on_main(lambda: check_cache_folder(config.inference.embedding_cache))
        trained = restore(config.trained.checkpoint)
        study = load_study(config.inputs, trained.config.sampling)
        if asvs.asv_tree is not None:
            check_linkable(study.table.n_asvs)
        compute = Compute.of(world, config.runtime)
        batches, nucleotides = study_batches(trained, study, config.inference.batch_size, compute)
        needs_all = asvs.asv is not None or asvs.asv_tree is not None
        every = np.arange(study.table.n_asvs) if needs_all else asvs_of(batches)
        encoder, cache = trained.encoder.to(compute.device), config.inference.embedding_cache
        embeddings = embeddings_of(encoder, nucleotides, every, compute, cache)
        rows = embed_samples(encoder, nucleotides, batches, compute, config.runtime.num_workers or 0, embeddings)
        _write(with_left_out(_by_sample(rows, study), study), config.inference.output, world)
        if asvs.asv is not None:
            _write(_by_asv(embeddings, study, compute), asvs.asv, world)
        if asvs.asv_tree is not None and world.is_main:
            table = _by_asv(embeddings, study, compute)
            write_text(asvs.asv_tree, linkage_newick(study.table.asv_ids, table.to_numpy()) + "\n")
            logger.info("wrote %s", asvs.asv_tree)
        world.barrier()  # a launcher may end the others when the first has ended


def _write(table: pd.DataFrame, path: Path, world: World) -> None:
    if world.is_main:
        write_table(table, path)
        logger.info("wrote %s", path)


def embed_study(
    trained: Restored, study: Study, batch_size: int, compute: Compute, num_workers: int = 0
) -> pd.DataFrame:
    """Embed every sample of a study, in its order: one column for each dimension. Ranks share the samples."""
    batches, nucleotides = study_batches(trained, study, batch_size, compute)
    rows = embed_samples(trained.encoder.to(compute.device), nucleotides, batches, compute, num_workers)
    return _by_sample(rows, study)


def embed_study_asvs(trained: Restored, study: Study, compute: Compute) -> pd.DataFrame:
    """Embed every ASV of a study, in its order: one column for each dimension. Ranks share the ASVs."""
    _, nucleotides = study_batches(trained, study, 1, compute)
    every = np.arange(study.table.n_asvs)
    return _by_asv(embeddings_of(trained.encoder.to(compute.device), nucleotides, every, compute), study, compute)


def _by_sample(rows: torch.Tensor, study: Study) -> pd.DataFrame:
    return _frame(rows.float().cpu(), pd.Index(study.table.sample_ids, name="sample_id"))


def _by_asv(embeddings: AsvEmbeddings, study: Study, compute: Compute) -> pd.DataFrame:
    rows = embeddings.of(torch.arange(study.table.n_asvs, device=compute.device))
    return _frame(rows.float().cpu(), pd.Index(study.table.asv_ids, name="asv_id"))


def _frame(rows: torch.Tensor, index: "pd.Index[str]") -> pd.DataFrame:
    return pd.DataFrame(rows.numpy(), index=index, columns=[f"dim_{i}" for i in range(rows.shape[1])])

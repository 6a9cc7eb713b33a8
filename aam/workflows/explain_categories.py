"""`aam explain --what category-attention`: how much ASVs attend to each categorical column.

Shapes: R pairs of a sample and an ASV, H heads, K categorical columns.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from aam.config import ExplainConfig, TrainConfig
from aam.data.files.embedding_files import check_cache_folder
from aam.data.study import Study, load_study
from aam.errors import InputError
from aam.evaluation.attention import ColumnMeans, plot_column_means
from aam.training.distributed import World, setup_distributed
from aam.training.inference.asv_embeddings import embeddings_of
from aam.training.inference.attention import AttentionRows, attend_to_categories
from aam.training.inference.samples import asvs_of
from aam.training.machine.compute import Compute
from aam.workflows.predict_network import categories_of, metadata_of, study_batches
from aam.workflows.restore import Restored, restore
from aam.workflows.tables import check_outputs, check_tables, write_parts

logger = logging.getLogger(__name__)


def explain_categories(config: ExplainConfig) -> None:
    """Write how much each ASV of each sample attends to each categorical column.

    Raises:
        InputError: a file or an option is wrong, or the model has no such attention; nothing has been written then.
    """
    with setup_distributed(config.runtime.device, inference=True) as world:
        checkpoint, explanation = config.trained.checkpoint, config.explanation
        assert checkpoint is not None
        outputs = {"output": config.output.output, "plot": explanation.plot}
        world.on_main(lambda: check_outputs(config, outputs, config.output.overwrite))
        world.on_main(lambda: check_tables({"output": config.output.output}, parquet=False))
        world.on_main(lambda: check_cache_folder(explanation.embedding_cache))
        trained = restore(checkpoint)
        columns = attended_columns(trained, checkpoint)
        if len(columns) == 1:
            logger.warning("the model has the one categorical column %s: every weight is 1", columns[0])
        study = load_study(config.inputs, trained.config.sampling)
        compute = Compute.of(world, config.runtime)
        workers, cache = config.runtime.num_workers or 0, explanation.embedding_cache
        parts = attention_parts(trained, study, explanation.batch_size, compute, workers, cache)
        _write(parts, columns, config, world)
        world.barrier()  # a launcher may end the others when the first has ended


def attended_columns(trained: Restored, path: Path) -> tuple[str, ...]:
    """Categorical columns that the ASVs of a model attend to.

    Raises:
        InputError: they attend to none.
    """
    needed = "ASVs attend to categories in models of `aam train` with --categorical-fusion cross_attention"
    if not isinstance(trained.config, TrainConfig):
        raise InputError(f"--checkpoint {path} is a pretrained encoder, which reads no categories: {needed}")
    categories = trained.categories
    if categories is None or not categories.fused:
        raise InputError(
            f"--checkpoint {path} was trained without --categorical-columns: {needed} and two columns or more"
        )
    fusion = trained.config.categories.categorical_fusion
    if fusion != "cross_attention":
        raise InputError(f"--checkpoint {path} was trained with --categorical-fusion {fusion}: {needed}")
    return categories.columns[: categories.fused]


def attention_parts(
    trained: Restored,
    study: Study,
    batch_size: int,
    compute: Compute,
    num_workers: int = 0,
    cache: Path | None = None,
) -> Iterator[pd.DataFrame]:
    """Give the attention of the ASVs of every sample, some samples at a time. Ranks share the samples.

    Args:
        trained: a model that `attended_columns` accepts.
        study: the samples; those of a model have metadata.
        batch_size: samples of a rank at a time.
        compute: device, precision and ranks.
        num_workers: processes that prepare batches.
        cache: folder of kept embeddings of ASVs, if any; see `embeddings_of`.

    Returns:
        Tables with a row for each sample, ASV and column; see `_table`. Every rank is to take all of them.

    Raises:
        InputError: there is no metadata, or it lacks a column; before the first table is made.
    """
    assert trained.categories is not None
    categories = categories_of(metadata_of(study, trained), trained, compute)
    assert categories is not None
    batches, nucleotides = study_batches(trained, study, batch_size, compute)
    predictor = trained.require_predictor().to(compute.device)
    embeddings = embeddings_of(predictor, nucleotides, asvs_of(batches), compute, cache)
    rows = attend_to_categories(predictor, embeddings, batches, compute, categories, num_workers)
    columns = trained.categories.columns[: trained.categories.fused]
    return (_table(part, study, columns) for part in rows)


def _table(rows: AttentionRows, study: Study, columns: tuple[str, ...]) -> pd.DataFrame:
    """A row for each sample, ASV and column: [R K], with the mean over heads and each head, 1 to H."""
    sample, asv = rows.pair.cpu().numpy().repeat(len(columns), axis=0).T
    heads = rows.weight.transpose(1, 2).flatten(0, 1).double().cpu().numpy()
    table = {
        "sample_id": np.array(study.table.sample_ids, dtype=object)[sample],
        "asv_id": np.array(study.table.asv_ids, dtype=object)[asv],
        "column": np.tile(np.array(columns, dtype=object), len(rows.pair)),
        "weight": heads.mean(axis=1),
    }
    return pd.DataFrame(table | {f"head_{number}": weight for number, weight in enumerate(heads.T, start=1)})


def _write(parts: Iterator[pd.DataFrame], columns: tuple[str, ...], config: ExplainConfig, world: World) -> None:
    """Write the tables on rank 0, one after the other; every rank takes part in making them."""
    if not world.is_main:
        for _ in parts:
            pass
        return
    means = ColumnMeans(columns)
    assert config.output.output is not None
    write_parts(means.watch(parts), config.output.output)
    logger.info("wrote %s", config.output.output)
    logger.info("mean weight of columns: %s", means.summary())
    if config.explanation.plot is not None:
        plot_column_means(means, config.explanation.plot)
        logger.info("wrote %s", config.explanation.plot)

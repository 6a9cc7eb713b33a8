"""`aam explain --what attention`: what the network looks at in samples and in their ASVs."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from aam.config import ExplainConfig, TrainConfig
from aam.data.files.sequences import PAD
from aam.data.files.whole_files import write_json
from aam.data.sampling.samples import Samples
from aam.errors import InputError
from aam.interpret.attention import Attended, attention_of_asvs, attention_of_nucleotides
from aam.interpret.attention_plots import plot_attention
from aam.interpret.attribution_plots import shortened
from aam.interpret.explained import chosen_rows
from aam.interpret.names import Names
from aam.interpret.network import ReadSample
from aam.learners.base import Rows
from aam.training.distributed import setup_distributed
from aam.training.run_folder import RunFolder
from aam.workflows.explained_model import NetworkModel, open_model
from aam.workflows.folder import check_folder, open_folder
from aam.workflows.tables import write_parts

logger = logging.getLogger(__name__)

SOURCE = "Attention is not explanation (Jain and Wallace 2019); pooling by attention (Lee et al. 2019)."
ASVS_TOGETHER = 64
"""ASVs whose nucleotides go through the network together."""


def explain_attention(config: ExplainConfig) -> None:
    """Write what the network attends to: in each sample to its ASVs, in each ASV to its nucleotides.

    Raises:
        InputError: a file or an option is wrong, or the model is no network; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    with setup_distributed(config.runtime.device, inference=True) as world:
        if world.size > 1:
            raise InputError("--what attention runs in one process: start it without torchrun")
        model = open_model(config, world)
        if not isinstance(model, NetworkModel):
            raise InputError(
                f"--what attention: the model is a learner of the kind {model.learner}, which has no attention; only "
                "the network has. Use --what attribution"
            )
        if model.trained.config.model.sample_level == "clades":
            raise InputError(
                "--what attention: in this network ASVs do not attend to one another (--sample-level clades). Use "
                "--what attribution"
            )
        rows = chosen_rows(model.study, config.explained.samples, config.importance.seed)
        with open_folder(config, config.output.folder) as folder:
            _write(model, rows, folder)
            logger.info("wrote %s", folder)


def attend(model: NetworkModel, sample: ReadSample) -> Attended:
    """How the ASVs of a sample attend to one another, and how they are pooled."""
    return attention_of_asvs(model.trained.encoder, _as_input(model, sample))


def _as_input(model: NetworkModel, sample: ReadSample) -> Samples:
    device, size = model.compute.device, len(sample.asvs)
    index = torch.arange(size, device=device)[None]
    reads = torch.from_numpy(sample.reads).to(device)[None]
    depth = torch.tensor([sample.depth], device=device)
    categories = None if sample.categories is None else sample.categories[None]
    return Samples(
        model.embedded(sample.asvs),
        index,
        reads,
        depth,
        torch.zeros_like(index, dtype=torch.bool),
        categories=categories,
    )


def _write(model: NetworkModel, rows: Rows, folder: RunFolder) -> None:
    columns = _category_columns(model)
    write_parts((_of_sample(model, row, columns) for row in rows.tolist()), folder.attention)
    asvs = np.unique(np.concatenate([model.read(row).asvs for row in rows.tolist()]))
    write_parts(_of_nucleotides(model, asvs), folder.attention_nucleotides)
    first = model.read(int(rows[0]))
    attended, names = attend(model, first), Names.of(model.study.table, model.study.taxonomy)
    labels = [shortened(names.asv(int(column))) for column in first.asvs]
    title = f"attention in sample {model.study.table.sample_ids[rows[0]]} ({len(labels)} ASVs); it is no importance"
    plot_attention(attended.mean[0].cpu().numpy(), attended.pooling[0].cpu().numpy(), labels, title, folder)
    write_json(folder.explanation, _summary(model, rows, columns))


def _category_columns(model: NetworkModel) -> tuple[str, ...]:
    """Categorical columns that ASVs attend to; none where there is no such attention."""
    trained = model.trained
    assert isinstance(trained.config, TrainConfig)
    if trained.categories is None or trained.config.categories.categorical_fusion != "cross_attention":
        return ()
    return trained.categories.columns[: trained.categories.fused]


def _of_sample(model: NetworkModel, row: int, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each ASV that the network reads of a sample, the most attended to first."""
    sample, table = model.read(row), model.study.table
    names, attended = Names.of(table, model.study.taxonomy), attend(model, sample)
    found: dict[str, Any] = {
        "sample_id": table.sample_ids[row],
        "asv_id": [table.asv_ids[column] for column in sample.asvs],
        "name": [names.asv(int(column)) for column in sample.asvs],
        "proportion": sample.reads / sample.depth,
        "received": attended.received[0].double().cpu().numpy(),
        "pooling": attended.pooling[0].double().cpu().numpy(),
    }
    if columns:
        predictor = model.trained.require_predictor()
        with torch.no_grad():
            weights = predictor.category_attention(_as_input(model, sample))[0].mean(dim=0)
        found |= {f"category_{name}": weights[:, place].double().cpu().numpy() for place, name in enumerate(columns)}
    return pd.DataFrame(found).sort_values("received", ascending=False, kind="stable")


def _of_nucleotides(model: NetworkModel, asvs: Rows) -> Iterator[pd.DataFrame]:
    """A row for each patch of nucleotides of each ASV; ASVs of one length together."""
    longest = model.trained.config.model.max_bp
    tokens = model.study.nucleotides(longest)[asvs]
    length = (tokens != PAD).sum(axis=1)
    for size in np.unique(length).tolist():
        places = np.flatnonzero(length == size)
        for start in range(0, len(places), ASVS_TOGETHER):
            some = places[start : start + ASVS_TOGETHER]
            part = torch.from_numpy(tokens[some, :size]).to(model.compute.device)
            yield _patches(model, asvs[some], attention_of_nucleotides(model.trained.encoder, part), size)


def _patches(model: NetworkModel, asvs: Rows, attended: Attended, length: int) -> pd.DataFrame:
    number, step = attended.pooling.shape[1], model.trained.config.model.nucleotide_patch
    first = np.tile(np.arange(number) * step + 1, len(asvs))
    return pd.DataFrame(
        {
            "asv_id": np.repeat([model.study.table.asv_ids[column] for column in asvs], number),
            "first_nucleotide": first,
            "last_nucleotide": np.minimum(first + step - 1, length),
            "received": attended.received.flatten().double().cpu().numpy(),
            "pooling": attended.pooling.flatten().double().cpu().numpy(),
        }
    )


def _summary(model: NetworkModel, rows: Rows, columns: Sequence[str]) -> dict[str, Any]:
    categories = f" and to {', '.join(columns)}" if columns else ""
    return {
        "what": "attention",
        "column": model.column.name,
        "learner": model.learner,
        "sentence": f"What the network attends to in {len(rows)} samples: to their ASVs{categories}. Attention is no "
        "importance: it may be high on what changes no prediction; see --what deletion.",
        "notes": [
            "received: how much the ASVs of the sample attend to this one, mean over heads, layers and attending ASVs; "
            "the sum over the sample is 1. pooling: what the last step takes of it; the sum is 1.",
            "attention_nucleotides.tsv: the same of the stretches of nucleotides of an ASV, which is no matter of the "
            "sample.",
        ],
        "source": SOURCE,
    }

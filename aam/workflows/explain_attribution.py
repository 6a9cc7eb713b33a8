"""`aam explain --what attribution`: what each ASV adds to the prediction of a sample."""

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd

from aam.config import ExplainConfig
from aam.data.files.whole_files import write_json
from aam.errors import InputError
from aam.interpret.attribution import SampleAttribution, Tables, attribute, mean_absolute
from aam.interpret.attribution_plots import plot_attributions, plot_sample, told
from aam.interpret.explained import ExplainedModel, chosen_rows, drawn_rows
from aam.interpret.names import Names
from aam.learners.base import Rows
from aam.training.distributed import setup_distributed
from aam.training.run_folder import RunFolder
from aam.workflows.explained_model import open_model
from aam.workflows.folder import check_folder, open_folder
from aam.workflows.tables import write_parts

logger = logging.getLogger(__name__)

SOURCE = (
    "Integrated gradients (Sundararajan, Taly and Yan 2017) of kernel and network; Shapley values of forests "
    "(interventional TreeSHAP: Lundberg et al. 2020); differences to several samples averaged (Erion et al. 2021)."
)
_TOLD = 3
"""ASVs that the sentence names."""


def explain_attribution(config: ExplainConfig) -> None:
    """Write the attributions of ASVs and clades for the samples of a table.

    Raises:
        InputError: a file or an option is wrong, or the model cannot be explained so; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    with setup_distributed(config.runtime.device, inference=True) as world:
        if world.size > 1:
            raise InputError("--what attribution runs in one process: start it without torchrun")
        model = open_model(config, world)
        rows, background = asked_samples(model, config)
        logger.info("explaining %d samples, compared with %d", len(rows), len(background))
        samples = list(attribute(model, rows, background))
        with open_folder(config, config.output.folder) as folder:
            _write(model, samples, background, folder)
            logger.info("wrote %s", folder)


def asked_samples(model: ExplainedModel, config: ExplainConfig) -> tuple[Rows, Rows]:
    """The samples to explain, and those that they are compared with.

    Raises:
        InputError: a sample is not there.
    """
    seed, options = config.importance.seed, config.explained
    rows = chosen_rows(model.study, options.samples, seed)
    return rows, drawn_rows(model.study, options.background, seed, "background")


def _write(model: ExplainedModel, samples: list[SampleAttribution], background: Rows, folder: RunFolder) -> None:
    tables = Tables(model, background)

    def parts() -> Iterator[pd.DataFrame]:
        for sample in samples:
            yield tables.of_sample(sample)

    write_parts(parts(), folder.attribution)
    write_parts((tables.summary(sample) for sample in samples), folder.attribution_samples)
    plot_attributions(model, samples, folder)
    plot_sample(model, samples[0], folder)
    write_json(
        folder.explanation,
        {
            "what": "attribution",
            "column": model.column.name,
            "learner": model.learner,
            "sentence": sentence(model, samples),
            "notes": notes(model, samples, background),
            "source": SOURCE,
        },
    )


def sentence(model: ExplainedModel, samples: list[SampleAttribution]) -> str:
    """The result in a sentence."""
    size = mean_absolute(samples)
    names = Names.of(model.study.table, model.study.taxonomy)
    first = [int(column) for column in np.argsort(-size, kind="stable")[:_TOLD] if size[column] > 0]
    many = f"{len(samples)} samples" if len(samples) > 1 else f"sample {model.study.table.sample_ids[samples[0].row]}"
    if not first:
        return f"No ASV adds to the predictions of {model.column.name} by {model.learner} in {many}."
    share = size[first].sum() / size.sum()
    return (
        f"In {many}, predictions of {model.column.name} by {model.learner} are moved most by "
        f"{'; '.join(names.asv(column) for column in first)}: {share:.0%} of the size of all attributions."
    )


def notes(model: ExplainedModel, samples: list[SampleAttribution], background: Rows) -> list[str]:
    """What one should know to read the tables."""
    ids = model.study.table.sample_ids
    others = f"{len(background)} samples of the table ({', '.join(ids[row] for row in background.tolist())})"
    gap = max(float(np.abs(sample.contributions.gap).max()) for sample in samples)
    of_classes = "Probabilities are explained, one row for each class."
    return [
        of_classes if model.classes else f"Explained is: {told(model, 0)}.",
        "Attributions of the ASVs of a sample add up to its prediction minus the baseline; the largest gap in these "
        f"samples is {gap:.1g} (column gap of attribution_samples.tsv).",
        *_baseline(model.learner, others),
        "A clade has the sum of its ASVs. What clades contribute in the learner clades is divided among the ASVs whose "
        "reads make the clade larger, or smaller, than in the baseline.",
        "Attribution is of a model, not a cause: it says what the model used, right or wrong.",
    ]


def _baseline(learner: str, others: str) -> list[str]:
    """What samples are compared with, in words."""
    of_network = f"as many ASVs and reads as the sample, all of them like the average read of {others}"
    if learner in ("network", "neural"):
        return [f"The baseline has {of_network}."]
    told = [
        f"The baseline is the mean prediction for {others}, each with the metadata of the sample that is explained.",
        "ASVs that a sample lacks and others have also have attributions: their absence says something.",
    ]
    if learner == "ensemble":
        told[0] += f" The network, if it is a member of the ensemble, has another: {of_network}."
    return told

"""`aam explain --what deletion`: by how much predictions change without the ASVs that explanations put first."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import ExplainConfig
from aam.data.files.metadata import categorical_column, numeric_column
from aam.data.files.whole_files import whole_file, write_json
from aam.errors import InputError, first_ids
from aam.interpret.deletion import RANDOM_ORDERS, Deletion, Ranking
from aam.interpret.deletion_plots import plot_deletion
from aam.interpret.explained import ExplainedModel
from aam.learners.base import Floats, Rows
from aam.training.distributed import setup_distributed
from aam.workflows.explain_attention import attend
from aam.workflows.explain_attribution import asked_samples
from aam.workflows.explained_model import NetworkModel, open_model
from aam.workflows.folder import check_folder, open_folder

logger = logging.getLogger(__name__)

SOURCE = "Deletion test (Petsiuk, Das and Saenko 2018); percentile bootstrap over samples (Efron and Tibshirani 1993)."


def explain_deletion(config: ExplainConfig) -> None:
    """Take ASVs out of samples in the orders of explanations and at random, and write how predictions change.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    with setup_distributed(config.runtime.device, inference=True) as world:
        if world.size > 1:
            raise InputError("--what deletion runs in one process: start it without torchrun")
        model = open_model(config, world)
        rows, background = asked_samples(model, config)
        rankings = rankings_of(model, background, config.explained.importance)
        deletion = Deletion(model, rows, _truth(model, rows), config.importance.seed)
        table = deletion.table(rankings)
        with open_folder(config, config.output.folder) as folder:
            with whole_file(folder.deletion) as draft:
                table.to_csv(draft, sep="\t", index=False, float_format="%.6g")
            change, loss = _labels(model)
            plot_deletion(table, f"{model.column.name}, {model.learner}: {len(rows)} samples", change, loss, folder)
            write_json(folder.explanation, _summary(model, table, deletion))
            logger.info("wrote %s", folder)


def rankings_of(model: ExplainedModel, background: Rows, importance: Path | None) -> dict[str, Ranking]:
    """The orders in which ASVs are taken out, besides a random one.

    Raises:
        InputError: the table of importance is no such table, or names none of the ASVs.
    """
    rankings: dict[str, Ranking] = {}
    if importance is not None:
        scores = read_importance(importance, model.study.table.asv_ids)
        rankings["importance"] = lambda _: scores

    def by_attribution(row: int) -> Floats:
        size: Floats = np.abs(model.contributions(row, background).value[0]).sum(axis=1)
        return size

    rankings["attribution"] = by_attribution
    if isinstance(model, NetworkModel):
        rankings["attention"] = _by_attention(model)
    rankings["abundance"] = lambda row: model.study.asv_proportions[[row]].toarray()[0]
    return rankings


def _by_attention(model: NetworkModel) -> Ranking:
    def score(row: int) -> Floats:
        sample = model.read(row)
        found = np.zeros(model.study.table.n_asvs)
        attended = attend(model, sample)
        found[sample.asvs] = attended.received[0].double().cpu().numpy()
        return found

    return score


def read_importance(path: Path, asv_ids: tuple[str, ...]) -> Floats:
    """Importance of the ASVs of a table, that of ASVs which are not listed 0 [A].

    Raises:
        InputError: the file is no importance.tsv, or lists none of the ASVs.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"level": str, "id": str})
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"--importance {path} cannot be read: {str(error).splitlines()[0]}") from None
    missing = [name for name in ("level", "id", "importance") if name not in table]
    if missing:
        raise InputError(
            f"--importance {path} has no column {first_ids(missing)}: give importance.tsv of --what importance"
        )
    numbers = pd.to_numeric(table["importance"], errors="coerce")
    if numbers.isna().any():
        raise InputError(f"--importance {path}: row {int(numbers.isna().argmax()) + 2} has no number as importance")
    rows = table["level"] == "asv"
    listed = dict(zip(table["id"][rows], numbers[rows], strict=True))
    if not set(listed) & set(asv_ids):
        raise InputError(
            f"--importance {path} lists none of the {len(asv_ids)} ASVs of the model and the table; it must be of the "
            "same study"
        )
    return np.array([listed.get(name, 0.0) for name in asv_ids])


def _truth(model: ExplainedModel, rows: Rows) -> NDArray[Any] | None:
    """True values of samples, where the metadata has the column."""
    metadata, name = model.study.metadata, model.column.name
    if metadata is None or name not in metadata:
        logger.info("--metadata has no column %s: the rise of the loss is not known", name)
        return None
    take = categorical_column if model.classes else numeric_column
    return np.asarray(take(metadata, name).iloc[rows], dtype=object)


def _labels(model: ExplainedModel) -> tuple[str, str]:
    """What changes and what rises, for plots."""
    name = model.column.name
    if model.classes:
        return f"mean change of probability ({name})", "rise of the log loss"
    scale = "" if model.in_units else ", logarithmic scale"
    return f"mean change of predicted {name}{scale}", f"rise of the mean absolute error{scale}"


def _summary(model: ExplainedModel, table: pd.DataFrame, deletion: Deletion) -> dict[str, Any]:
    number = 5 if (table["removed"] == 5).any() else int(table["removed"].max())
    rows = table[table["removed"] == number].set_index("order")
    told = ", ".join(f"{row['change']:.3g} by {order}" for order, row in rows.iterrows())
    return {
        "what": "deletion",
        "column": model.column.name,
        "learner": model.learner,
        "sentence": f"Without their first {number} ASVs, predictions of {model.column.name} by {model.learner} change "
        f"by {told} (mean over {len(deletion.rows)} samples).",
        "notes": [
            "Reads of the ASVs are taken away; proportions of the others rise. A sample keeps at least one ASV.",
            f"At random is the mean of {RANDOM_ORDERS} orders. Abundant ASVs change a sample most in any case: an "
            "explanation says something where it is above abundance.",
            "Intervals are of samples (95 %), as if these were independent.",
            "Samples that the model was trained on are predicted too well: their loss rises more than that of others.",
        ],
        "source": SOURCE,
    }

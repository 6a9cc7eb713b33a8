"""`aam explain --what robustness`: scores on held-out samples that are worse than those that were learned from."""

import logging
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from aam.config import ExplainConfig
from aam.data.files.whole_files import whole_file, write_json
from aam.evaluation.fold_models import NOT_KEPT
from aam.interpret.damage import DAMAGES
from aam.interpret.robustness import plot_robustness, robustness, robustness_sentence
from aam.training.run_folder import RunFolder
from aam.workflows.explained_evaluation import ExplainedEvaluation, read_fitted
from aam.workflows.folder import check_folder, open_folder

logger = logging.getLogger(__name__)

NOTES = (
    "Learners were fitted to the samples as they are; held-out samples alone are changed, as learners see them.",
    "Spurious reads are of other ASVs of the held-out samples, as frequent as these are (index hopping). Cut ASVs "
    "that are alike are counted as one, where a tree of such reads would place them: forest, linear, clades and kernel "
    "see nothing else of it, the network reads the shorter sequences.",
    "Folds of the first repeat; 95 % intervals by a bootstrap over groups.",
)


def explain_robustness(config: ExplainConfig) -> None:
    """Predict damaged samples with the kept folds of an evaluation, and write tables and a plot.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    evaluation = ExplainedEvaluation.open(config)
    one = config.trained.learner
    learners = [one] if one is not None else [name for name in evaluation.config.names if name not in NOT_KEPT]
    paths = {(fold.name, name): fold.model for name in learners for fold in evaluation.folds_of(name)}
    parts = robustness(
        evaluation.variant,
        lambda fold, name: read_fitted(paths[fold.name, name]),
        learners,
        config.importance.seed,
    )
    total = sum(len(damage.levels) for damage in DAMAGES.values())
    table = pd.concat(tqdm(parts, total=total, unit="level", desc="robustness", disable=None), ignore_index=True)
    document = {
        "what": "robustness",
        "column": evaluation.column,
        "learner": ", ".join(learners),
        "sentence": robustness_sentence(table),
        "notes": list(NOTES),
        "source": str(evaluation.folder),
    }
    with open_folder(config, config.output.folder) as folder:
        _write(table, document, folder)


def _write(table: pd.DataFrame, document: dict[str, Any], folder: RunFolder) -> None:
    with whole_file(folder.robustness) as draft:
        table.to_csv(draft, sep="\t", index=False)
    plot_robustness(table, folder.robustness_plot)
    write_json(folder.explanation, document)
    logger.info("%s", document["sentence"])
    logger.info("wrote %s", folder)

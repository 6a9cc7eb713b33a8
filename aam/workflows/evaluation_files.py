"""The result files of `aam evaluate`."""

import logging
from pathlib import Path

import pandas as pd

from aam.data.files.whole_files import whole_file, write_json
from aam.evaluation.evaluation_plots import plot_predictions, plot_scores
from aam.evaluation.outcome import Evaluation
from aam.evaluation.variants import MAIN
from aam.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def write_evaluation(evaluation: Evaluation, folder: RunFolder) -> None:
    """Write tables, plots and, last, the verdict; a reader sees each file whole or not at all."""
    _write(evaluation.main.folds, folder.fold_table)
    for name, outcome in evaluation.outcomes.items():
        end = "" if name == MAIN else f"_{name}"
        _write(outcome.predictions, folder.predictions(end))
        _write(outcome.scores, folder.scores(end))
        _write(outcome.differences, folder.differences(end))
        _write(outcome.errors_by_group, folder.errors_by_group(end))
        _write(outcome.coverage, folder.coverage(end))
    plot_predictions(evaluation, folder.predictions_plot)
    plot_scores(evaluation, folder.scores_plot)
    write_json(folder.evaluation, evaluation.to_json())
    logger.info("wrote %s", folder)


def _write(table: pd.DataFrame, path: Path) -> None:
    """Numbers are written with all their digits, so that scores can be computed again."""
    with whole_file(path) as draft:
        table.to_csv(draft, sep="\t", index=False)

"""The result files of `aam evaluate`."""

import logging
from pathlib import Path

import pandas as pd

from aam.data.files.whole_files import whole_file, write_json
from aam.evaluation.evaluation_plots import plot_predictions, plot_scores
from aam.evaluation.outcome import Evaluation
from aam.evaluation.variants import MAIN

logger = logging.getLogger(__name__)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write tables, plots and, last, ``evaluation.json``; a reader sees each file whole or not at all."""
    _write(evaluation.main.folds, folder / "folds.tsv")
    for name, outcome in evaluation.outcomes.items():
        end = "" if name == MAIN else f"_{name}"
        _write(outcome.predictions, folder / f"predictions{end}.tsv")
        _write(outcome.scores, folder / f"scores{end}.tsv")
        _write(outcome.differences, folder / f"differences{end}.tsv")
        _write(outcome.errors_by_group, folder / f"errors_by_group{end}.tsv")
    plot_predictions(evaluation, folder / "plots" / "predictions")
    plot_scores(evaluation, folder / "plots" / "scores")
    write_json(folder / "evaluation.json", evaluation.to_json())
    logger.info("wrote %s", folder)


def _write(table: pd.DataFrame, path: Path) -> None:
    """Numbers are written with all their digits, so that scores can be computed again."""
    with whole_file(path) as draft:
        table.to_csv(draft, sep="\t", index=False)

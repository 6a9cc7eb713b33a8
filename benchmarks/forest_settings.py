"""The yardstick against a random forest with scikit-learn's defaults, on the same log-ratios and the same folds.

    python benchmarks/forest_settings.py --data STUDIES --rows ecam-month mackerel-site amazon-village

Rows are those of `accuracy.py`, one repeat of their folds. Printed are both scores, and their difference with its 95 %
interval over groups.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from _common import print_table, write_json
from accuracy import ROWS, Row
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from aam.config import EvaluateConfig
from aam.config.learners import TreesConfig
from aam.learners.base import Learner, Problem
from aam.learners.features import log_ratios_of_counts, prevalent_asvs
from aam.learners.trees import ForestLearner, ForestSolution, as_arrays
from aam.workflows.evaluate import evaluate_study, load_labelled


@dataclass(frozen=True)
class PlainForest(Learner):
    """A random forest as scikit-learn makes it when told nothing."""

    name: ClassVar[str] = "defaults"

    def solve(self, problem: Problem) -> ForestSolution:
        """Grow it on the columns of `forest`."""
        columns = prevalent_asvs(problem.study, problem.rows, TreesConfig().min_prevalence)
        features = log_ratios_of_counts(problem.study, problem.rows, columns)
        kind = RandomForestClassifier if problem.classes else RandomForestRegressor
        target = problem.codes if problem.classes else problem.y
        return ForestSolution(
            columns, as_arrays(kind(random_state=problem.seed).fit(features, target), problem.classes)
        )


def config_of(row: Row, data: Path) -> EvaluateConfig:
    """The evaluation of a row."""
    files = data / row.study
    return EvaluateConfig.from_flat(
        {
            "table": (files / "table.biom",),
            "metadata": files / "metadata.tsv",
            "where": row.where,
            "metadata_column": row.column,
            "classifier": row.classifier,
            "group_column": row.group,
            "repeats": 1,
            "output_dir": Path(),
        }
    )


def main() -> None:
    """Compare on every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--rows", nargs="+", default=["ecam-month", "mackerel-site", "amazon-village"])
    parser.add_argument("--json", type=Path, help="also write the figures and the machine's description here")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    figures = []
    for name in options.rows:
        config = config_of(ROWS[name], options.data)
        learners = {"forest": ForestLearner(TreesConfig()), "defaults": PlainForest()}
        out = evaluate_study(*load_labelled(config), config, learners).main.out
        value, noise = out.difference("forest", "defaults")
        scores = [out.scores[learner][out.main] for learner in learners]
        figures.append([name, out.main, *scores, value, noise.low, noise.high])
    columns = ["row", "score", "forest", "defaults", "difference", "low", "high"]
    print_table(columns, figures)
    write_json(options.json, [dict(zip(columns, row, strict=True)) for row in figures])


if __name__ == "__main__":
    main()

"""`aam explain --what importance`: which clades, taxa and ASVs the predictions of held-out samples depend on."""

import logging

import numpy as np
import pandas as pd

from aam.config import ExplainConfig
from aam.errors import InputError
from aam.interpret.forest_importance import impurity_decrease
from aam.interpret.importance import Inquiry
from aam.interpret.importance_files import write_importance
from aam.interpret.kept_folds import KeptFolds
from aam.interpret.names import Names
from aam.learners.base import Floats
from aam.learners.trees import ForestSolution
from aam.workflows.explained_evaluation import ExplainedEvaluation, read_fitted
from aam.workflows.folder import check_folder, open_folder

logger = logging.getLogger(__name__)


def explain_importance(config: ExplainConfig) -> None:
    """Exchange reads of clades, taxa and ASVs among held-out samples, and write by how much predictions get worse.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    evaluation = ExplainedEvaluation.open(config)
    inquiry = inquire(evaluation, config)
    importance = inquiry.answer()
    inquiry.folds.close()
    with open_folder(config, config.output.folder) as folder:
        write_importance(importance, inquiry, evaluation.column, str(config.trained.learner), folder)
        logger.info("wrote %s", folder)


def inquire(evaluation: ExplainedEvaluation, config: ExplainConfig) -> Inquiry:
    """What is asked of the kept folds of an evaluation.

    Raises:
        InputError: there is neither a tree nor a taxonomy, or no model of the learner.
    """
    study, learner, options = evaluation.study, config.trained.learner, config.importance
    assert learner is not None
    if study.tree is None and study.taxonomy is None:
        raise InputError(
            f"--evaluation {evaluation.folder} was without a tree, so that there are no clades: give --taxonomy to "
            "explain by taxa, or evaluate again with --tree"
        )
    kept = evaluation.folds_of(learner)
    folds = KeptFolds(kept, evaluation.groups, read_fitted, options.permutations, options.seed, options.jobs)
    names = Names.of(study.table, study.taxonomy)
    return Inquiry(study, folds, names, options.error_rate, _of_forest(evaluation))


def _of_forest(evaluation: ExplainedEvaluation) -> Floats:
    """Mean over the folds of what the forest goes by [A]."""
    variant = evaluation.variant
    truth = variant.labels.values.iloc[:, 0]
    parts = []
    for fold, kept in zip(variant.folds, evaluation.folds_of("forest"), strict=True):
        fitted = read_fitted(kept.model)
        (solution,) = fitted.solutions
        assert isinstance(solution, ForestSolution)
        numbers = pd.get_dummies(truth.iloc[fold.train]) if variant.labels.config.classifier else truth.iloc[fold.train]
        values = np.asarray(numbers, dtype=np.float64).reshape(len(fold.train), -1)
        parts.append(impurity_decrease(solution, variant.draws[0], fold.train, values))
    mean: Floats = np.mean(parts, axis=0)
    return mean

"""`aam explain --what log-ratio`: some ASVs against others as one number, and how well it predicts."""

import logging
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed, parallel_config

from aam.config import ExplainConfig
from aam.evaluation.fold_fits import FoldResult, Variant, fit_fold, sendable
from aam.evaluation.outcome import Outcome
from aam.evaluation.schemes import Fold
from aam.interpret.log_ratio import Balance, BalanceLearner, BalanceSolution, Ranking, check_classes
from aam.interpret.log_ratio_files import LogRatio, write_log_ratio
from aam.interpret.names import Names
from aam.learners.base import Fitted, pose
from aam.workflows.explained_evaluation import ExplainedEvaluation
from aam.workflows.folder import check_folder, open_folder

logger = logging.getLogger(__name__)


def explain_log_ratio(config: ExplainConfig) -> None:
    """Choose ASVs in the training part of every fold, score their log-ratio, and write that of all samples.

    Raises:
        InputError: a file or an option is wrong, or there are more than two classes; nothing has been written then.
    """
    check_folder(config, config.output.folder)
    evaluation = ExplainedEvaluation.open(config)
    found = log_ratio(evaluation, config)
    with open_folder(config, config.output.folder) as folder:
        write_log_ratio(found, folder)
        logger.info("wrote %s", folder)


def log_ratio(evaluation: ExplainedEvaluation, config: ExplainConfig) -> LogRatio:
    """The balance of each fold with what it predicts, and that of all samples."""
    variant, study = evaluation.variant, evaluation.study
    learner = BalanceLearner(config.importance.taxa)
    rows = np.arange(study.table.n_samples)
    targets, (problem,) = pose(study, rows, variant.labels, variant.seed)
    check_classes(problem.classes)
    solution = learner.solve(problem)
    sent = sendable(variant, with_branches=False)
    calls = [delayed(_fold)(sent, fold, learner) for fold in variant.folds]
    with parallel_config("loky", inner_max_num_threads=1):
        folds = Parallel(config.importance.jobs)(calls)
    outcome = Outcome.of(variant, [fold.result for fold in folds])
    names = Names.of(study.table, study.taxonomy)
    classes = targets.columns[0].classes
    ends = () if classes is None else classes.classes
    chosen = [fold.balance for fold in folds]
    return LogRatio(study, evaluation.column, outcome, Ranking.of(problem), solution.balance, chosen, names, ends)


@dataclass(frozen=True, eq=False)
class _Fold:
    """What came of a fold."""

    result: FoldResult
    balance: Balance


def _fold(variant: Variant, fold: Fold, learner: BalanceLearner) -> _Fold:
    balances: list[Balance] = []

    def keep(_: str, fitted: Fitted) -> None:
        (solution,) = fitted.solutions
        assert isinstance(solution, BalanceSolution)
        balances.append(solution.balance)

    result = fit_fold(variant, fold, {learner.name: learner}, keep)
    return _Fold(result, balances[0])

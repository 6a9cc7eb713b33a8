"""How good a set of options is: the out-of-fold score of the learner, as `aam evaluate` has it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from aam.config import EvaluateConfig, TuneConfig
from aam.data.study import digest
from aam.errors import InputError
from aam.evaluation.comparison import OutOfFold, prediction_table
from aam.evaluation.fold_fits import FoldResult, Variant, fit_fold, without_values
from aam.evaluation.fold_store import FoldStore
from aam.evaluation.schemes import Fold
from aam.learners.base import Learner, pose
from aam.learners.folds import inner_folds
from aam.learners.registry import make_learner
from aam.workflows.makers import makers

Options = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Bench:
    """Fits the learner with any options to any folds of the samples, and keeps what came of it."""

    config: TuneConfig
    variant: Variant
    store: FoldStore

    @property
    def learner(self) -> str:
        """Its name."""
        return self.config.tuning.learner

    def results(self, folds: Sequence[Fold], purpose: str, options: Options) -> Iterator[FoldResult]:
        """Predictions of each fold in turn; those that were computed before with the same options are read.

        Args:
            folds: of rows of the samples.
            purpose: which folds these are; their names are theirs within it.
            options: that are changed.

        Raises:
            InputError: the options contradict each other, or nothing can be learned with them.
            TrainingDivergedError: the network did not learn with them.
        """
        config = self.config.evaluation(dict(options))
        name = f"{purpose}-{digest([repr(sorted(config.options_of_all().items()))])[:16]}"
        learners = {self.learner: learner_of(config, self.learner, self.variant.study.tree is not None)}
        variant = replace(self.variant, name=name)
        for fold in folds:
            kept = self.store.read(name, fold.name, learners)
            if kept is None:
                kept = fit_fold(variant, fold, learners)
                self.store.write(kept)
            yield kept

    def out_of_fold(self, results: Sequence[FoldResult]) -> OutOfFold:
        """The predictions of some folds together, averaged over repeats."""
        study, groups = self.variant.study, self.variant.labels.groups
        ids = list(study.table.sample_ids)
        named = pd.Series(ids if groups is None else groups, index=ids)
        return OutOfFold.of(prediction_table(results, self.variant), named, self.variant.seed)

    def score(self, results: Sequence[FoldResult]) -> float:
        """R2, or balanced accuracy, of the predictions of some folds together; NaN where that is undefined."""
        out = self.out_of_fold(results)
        return out.scores[self.learner][out.main]

    def within(self, fold: Fold, most: int) -> tuple[Fold, ...]:
        """Folds of the training samples of a fold, whole groups on one side; nothing of what it holds out is in them.

        Raises:
            InputError: the training samples cannot be divided so that each part can be learned from.
        """
        labels = without_values(self.variant.labels, fold.held_out)
        seed = self.variant.seed + fold.repeat
        _, (problem,) = pose(self.variant.draws[0], fold.train, labels, seed)
        inner: list[Fold] = []
        for train, held_out in inner_folds(problem, most):
            # a class whose groups are all held out has no prediction to score
            known = np.isin(problem.y[held_out], problem.y[train]) if problem.classes else np.full(len(held_out), True)
            if known.any():
                inner.append(Fold(1, len(inner) + 1, problem.rows[train], problem.rows[held_out[known]]))
        if len(inner) < 2:
            raise InputError(f"fold {fold.name} has too few training samples to divide: give --nested-trials 0")
        for part in inner:
            self._check(part, fold)
        return tuple(inner)

    def _check(self, part: Fold, outer: Fold) -> None:
        try:
            pose(self.variant.study, part.train, without_values(self.variant.labels, part.held_out), self.variant.seed)
        except InputError as error:
            raise InputError(
                f"the training samples of fold {outer.name} cannot be divided for the nested score: {error}; give "
                "fewer --nested-folds, or --nested-trials 0"
            ) from None


def learner_of(config: EvaluateConfig, name: str, has_tree: bool) -> Learner:
    """The learner with its options.

    Raises:
        InputError: it needs a tree and there is none.
    """
    return make_learner(name, config.options_of_learners(), has_tree, makers(config))


def scores_by_fold(
    bench: Bench, folds: Sequence[Fold], purpose: str, options: Options, tell: Callable[[int, float], bool]
) -> float | None:
    """The score of some options over folds, or None where they were given up.

    Args:
        bench: fits and scores.
        folds: in the order in which they are fitted.
        purpose: see `Bench.results`.
        options: that are changed.
        tell: is given the number of folds that are done and the score of their predictions; says whether to give up.

    Raises:
        InputError: see `Bench.results`; or the score is undefined.
        TrainingDivergedError: see there.
    """
    results: list[FoldResult] = []
    score = np.nan
    for result in bench.results(folds, purpose, options):
        results.append(result)
        score = bench.score(results)
        if len(results) < len(folds) and np.isfinite(score) and tell(len(results), score):
            return None
    if not np.isfinite(score):
        raise InputError("the score is undefined: the held-out samples have one value alone")
    return score

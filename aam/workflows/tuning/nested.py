"""The nested score: how well the learner predicts when its options are tuned without the samples that it predicts.

For each fold the options are tuned anew on its training samples alone, by folds within them, and what is best there is
fitted to all of them and predicts the fold. Neither the choice nor what was there to choose from has seen the fold.

Source: Varma and Simon 2006, Bias in error estimation when using cross-validation for model selection.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from aam.data.sampling.seeded import derived_seed
from aam.evaluation.fold_fits import FoldResult
from aam.evaluation.intervals import Interval
from aam.evaluation.schemes import Fold
from aam.workflows.tuning.scoring import Bench, scores_by_fold
from aam.workflows.tuning.search import Search, Shared

OUTER = "chosen"
"""Purpose of the fits to all training samples of a fold."""


@dataclass(frozen=True)
class NestedResult:
    """What the searches within folds say."""

    score: float
    interval: Interval
    """95 %, by bootstrap over groups."""
    trials: int
    """Of each search."""
    folds: int
    """Within the training samples of each fold."""
    chosen: tuple[dict[str, Any], ...]
    """For each fold its name, the score of the choice within its training samples, and the options."""


@dataclass(frozen=True, eq=False)
class Nested:
    """The searches within the folds of the first repeat."""

    bench: Bench
    searches: tuple[tuple[Fold, Search], ...]
    """Each fold with the search among its training samples."""
    inner: tuple[tuple[Fold, ...], ...]
    """Folds within the training samples of each."""

    def work(self) -> int:
        """Do what is left to do of all searches; see `Search.work`."""
        return sum(
            search.work(partial(scores_by_fold, self.bench, inner, f"within-{fold.name}"))
            for (fold, search), inner in zip(self.searches, self.inner, strict=True)
        )

    @property
    def unfinished(self) -> int:
        """Trials that are not done."""
        return sum(search.unfinished for _, search in self.searches)

    def result(self) -> NestedResult:
        """Fit the best options of each search to all training samples of its fold, and predict the fold.

        Raises:
            InputError: no trial of a search has a score.
        """
        results: list[FoldResult] = []
        chosen = []
        for fold, search in self.searches:
            best = search.best(f"tuning within the training samples of fold {fold.name}")
            results += self.bench.results([fold], OUTER, best.params)
            chosen.append({"fold": fold.name, "score_within": best.value, "options": best.params})
        out, learner = self.bench.out_of_fold(results), self.bench.learner
        trials = self.searches[0][1].total
        folds = len(self.inner[0])
        return NestedResult(
            out.scores[learner][out.main], out.interval(learner, out.main), trials, folds, tuple(chosen)
        )


def nested_searches(bench: Bench, shared: Shared) -> Nested:
    """Begin the searches within the folds of the first repeat, or continue them.

    Args:
        bench: fits and scores.
        shared: by the processes.

    Raises:
        InputError: the training samples of a fold cannot be divided.
    """
    tuning = bench.config.tuning
    folds = [fold for fold in bench.variant.folds if fold.repeat == 1]
    inner = tuple(bench.within(fold, tuning.nested_folds) for fold in folds)
    searches = []
    for fold in folds:
        name = f"within-{fold.name}"
        label = f"without fold {fold.name}, trial"
        seed = derived_seed(tuning.seed, name, bits=32)
        searches.append((fold, shared.search(name, label, tuning.trials_within, seed)))
    return Nested(bench, tuple(searches), inner)

"""Searches that several processes share: Optuna proposes options, and keeps how good they are.

What is proposed depends on the seed, the number of proposals before, and what is known of them by then; so a search by
one process is the same in every run, killed and resumed or not.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from aam.config import TuneConfig
from aam.config.search_space import Choices, Range, Space
from aam.data.sampling.seeded import derived_seed
from aam.errors import InputError, TrainingDivergedError
from aam.workflows.shared_folder import Seat
from aam.workflows.tuning.scoring import Options
from aam.workflows.tuning.space import taken_value

logger = logging.getLogger(__name__)

AT_RANDOM: Final = 5
"""Proposals before the first that learns from others, and trials before the first that may be given up."""
FIRST_JUDGED: Final = 2
"""Folds after which a trial may be given up for the first time."""
FINGERPRINT, PROCESS, REASON, TRIED_AGAIN = "fingerprint", "process", "reason", "tried_again"
"""Attributes of searches and of trials."""

Score = Callable[[Options, Callable[[int, float], bool]], float | None]
"""Scores options; see `scores_by_fold`."""


def distributions(config: TuneConfig, space: Space) -> dict[str, BaseDistribution]:
    """The search space as Optuna has it; an option that takes fractions takes them between whole ends too."""
    return {name: _distribution(config, name, entry) for name, entry in space.items()}


def _distribution(config: TuneConfig, name: str, entry: Range | Choices) -> BaseDistribution:
    if isinstance(entry, Choices):
        return CategoricalDistribution(entry.choices)
    if isinstance(entry.low, int) and isinstance(entry.high, int) and type(taken_value(config, name, entry.low)) is int:
        return IntDistribution(entry.low, entry.high, log=entry.log)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log)


@dataclass(frozen=True, eq=False)
class Shared:
    """What all searches of a tuning, and all processes that work on it, have in common."""

    config: TuneConfig
    space: Space
    storage: BaseStorage
    """What keeps the trials."""
    seat: Seat
    """Of this process."""
    name: str
    """How names of searches begin in a study file that other tunings may use."""
    fingerprint: str
    """Hash of all that scores depend on besides the options that are tried."""

    def search(self, name: str, label: str, total: int, seed: int) -> "Search":
        """Begin a search, or continue it; the first options are those that were given, where they can be proposed.

        Args:
            name: among the searches of this tuning.
            label: what its trials are called when they are told of.
            total: trials of all processes together.
            seed: of what is proposed.

        Raises:
            InputError: the trials that are there are of other data.
        """
        pruner: BasePruner = MedianPruner(AT_RANDOM, FIRST_JUDGED) if self.config.tuning.prune else NopPruner()
        with self.seat.moment(), quiet():
            study = optuna.create_study(
                storage=self.storage,
                study_name=f"{self.name}-{name}",
                direction="maximize",
                pruner=pruner,
                load_if_exists=True,
            )
            known = study.user_attrs.get(FINGERPRINT)
            if known is None:
                study.set_user_attr(FINGERPRINT, self.fingerprint)
        if known not in (None, self.fingerprint):
            raise InputError(
                "--resume: the trials there are of other data or of another search space: table, tree, metadata, folds "
                "or --space have changed since; start anew with --overwrite, or name another folder"
            )
        search = Search(label, study, distributions(self.config, self.space), total, seed, self.seat)
        search.first(self.config.evaluation({}).flat())
        return search


@dataclass(frozen=True, eq=False)
class Search:
    """One search for the best options, in a study of Optuna."""

    label: str
    """What trials are called when they are told of."""
    study: optuna.Study
    space: Mapping[str, BaseDistribution]
    total: int
    """Trials of all processes together."""
    seed: int
    seat: Seat

    def first(self, options: Options) -> None:
        """Let these options be the first to be tried, where they lie in the search space."""
        params = {name: _plain(options[name]) for name in self.space}
        with self.seat.moment(), quiet():
            if not self._counted() and all(_contains(self.space[name], value) for name, value in params.items()):
                self.study.enqueue_trial(params)

    def work(self, score: Score) -> int:
        """Try options until there are as many trials as asked for, finished or in the hands of others.

        Returns:
            Trials of this process.
        """
        own = 0
        while (trial := self._next()) is not None:
            self._try(trial, score)
            own += 1
        return own

    def _next(self) -> optuna.Trial | None:
        """Claim the next trial, or none where there are enough; those of dead processes are tried again first."""
        with self.seat.moment(), quiet():
            self._revive()
            counted = self._counted()
            waiting = any(trial.state == TrialState.WAITING for trial in counted)
            if len(counted) >= self.total and not waiting:
                return None
            place = len(counted) - waiting
            seed = derived_seed(self.seed, "options", place, bits=32)
            self.study.sampler = TPESampler(n_startup_trials=AT_RANDOM, seed=seed)
            trial = self.study.ask(dict(self.space))
            trial.set_user_attr(PROCESS, self.seat.name)
            return trial

    def _revive(self) -> None:
        """Let what processes were at that are gone be tried again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self.seat.is_alive(trial.user_attrs.get(PROCESS, "")):
                continue
            self.study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self.study.enqueue_trial(trial.params, user_attrs={TRIED_AGAIN: trial.number})
                logger.info("%s %d was interrupted, and is tried again", self.label, trial.number)

    def _try(self, trial: optuna.Trial, score: Score) -> None:
        def tell(folds: int, value: float) -> bool:
            trial.report(value, folds)
            return trial.should_prune()

        with quiet():
            try:
                value = score(trial.params, tell)
            except (InputError, TrainingDivergedError) as error:
                trial.set_user_attr(REASON, str(error))
                logger.warning("%s %d is not possible: %s", self.label, trial.number, error)
                value = None
            else:
                shown = "given up" if value is None else f"{value:.4f}"
                logger.info("%s %d: %s with %s", self.label, trial.number, shown, _said(trial.params))
            if value is None:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, value)

    def _counted(self) -> list[FrozenTrial]:
        """Trials but for those that were interrupted, which are there a second time."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]

    @property
    def unfinished(self) -> int:
        """Trials that are not done."""
        return max(self.total - len(self.done), 0)

    @property
    def done(self) -> list[FrozenTrial]:
        """Trials that have a score, were given up, or are not possible."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def best(self, what: str) -> FrozenTrial:
        """The trial with the best score; the first of equals.

        Args:
            what: was tuned, for a message.

        Raises:
            InputError: none has a score.
        """
        scored = [trial for trial in self.done if trial.state == TrialState.COMPLETE]
        if not scored:
            reason = next((trial.user_attrs[REASON] for trial in self.done if REASON in trial.user_attrs), "no reason")
            raise InputError(f"{what}: none of {len(self.done)} trials has a score: {reason}")
        return max(scored, key=lambda trial: (trial.value, -trial.number))


def _plain(value: Any) -> Any:
    """An option's value as a choice has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high  # type: ignore[attr-defined]


def _said(options: Options) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items()
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna say warnings alone, as aam says itself what is done."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

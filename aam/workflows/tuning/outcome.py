"""What a tuning found: tables, plots, options for other commands, and what its score is worth in words."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from aam.config import TuneConfig
from aam.config.tune import TUNED_SECTIONS
from aam.data.files.whole_files import whole_file, write_json, write_text
from aam.evaluation.evaluation_plots import BASELINE, MODEL, save
from aam.evaluation.scores import MAIN_CLASS, MAIN_NUMBER
from aam.evaluation.verdict import spelled
from aam.training.run_folder import RunFolder
from aam.workflows.train_command import train_command
from aam.workflows.tuning.nested import NestedResult
from aam.workflows.tuning.search import REASON, TRIED_AGAIN, Search, quiet
from aam.workflows.tuning.space import as_toml, readable_options

logger = logging.getLogger(__name__)

STATES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "given up",
    TrialState.FAIL: "interrupted",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FEWEST: Final = 4
"""Trials with a score, below which it cannot be told which option matters."""


@dataclass(frozen=True, eq=False)
class TuningOutcome:
    """The best options, and how good they are."""

    config: TuneConfig
    search: Search
    nested: NestedResult | None

    @property
    def best(self) -> FrozenTrial:
        """The trial with the best score."""
        return self.search.best("tuning")

    @property
    def metric(self) -> str:
        """The score that is tuned."""
        return MAIN_CLASS if self.config.target.classifier else MAIN_NUMBER

    @property
    def options(self) -> dict[str, Any]:
        """Options of the learner that are not left at their defaults: those given, and the best of those tried."""
        taken = self.config.evaluation(dict(self.best.params)).flat()
        sections, read = self.config.sections(), readable_options(self.config)
        defaults = {
            name: field.default for section in TUNED_SECTIONS for name, field in sections[section].model_fields.items()
        }
        encoder = {"pretrained_encoder"} if self.config.finetune.pretrained_encoder is not None else set()
        kept = [name for name in defaults if name in {*read, *encoder}]
        return {name: taken[name] for name in kept if name in self.best.params or taken[name] != defaults[name]}

    @property
    def command(self) -> str:
        """What trains the learner with the best options."""
        config, learner = self.config, self.config.tuning.learner
        changes = {"rarefy_depth": config.counts.rarefy_depth, "group_column": config.folds.groups}
        taken = config.evaluation(dict(self.best.params))
        return train_command(taken, learner, f"{config.target.column}-{learner}", **changes)

    @property
    def sentence(self) -> str:
        """How good the tuned learner is, and which score says so."""
        tuning, best = self.config.tuning, self.best
        metric, column = spelled(self.metric), self.config.target.column
        tuned = (
            f"the best of {len(self.search.done)} trials of {tuning.learner} predicts {column} with {metric} "
            f"{best.value:.3f} "
            "out of fold, which is optimistic, since the same folds chose it"
        )
        if self.nested is None:
            return f"{tuned}; --nested-trials was 0, so how good it is for new samples is not known"
        return (
            f"{tuned}; tuned anew within the training samples of each fold ({self.nested.trials} trials), {metric} of "
            f"the fold's own samples is {self.nested.score:.3f}{self._interval()}: report this one"
        )

    def _interval(self) -> str:
        assert self.nested is not None
        low, high = self.nested.interval
        return "" if np.isnan(low) else f" (95 % interval {low:.3f} to {high:.3f})"

    def to_json(self) -> dict[str, Any]:
        """The document `tuning.json`."""
        best = self.best
        given = self.search.study.get_trials(deepcopy=False)
        states = [trial.state for trial in given]
        return {
            "column": self.config.target.column,
            "learner": self.config.tuning.learner,
            "metric": self.metric,
            "best": {"trial": best.number, "score": best.value, "options": _json(self.options)},
            "sentence": self.sentence,
            "nested": None if self.nested is None else _nested(self.nested),
            "trials": len(self.search.done),
            "given_up": states.count(TrialState.PRUNED),
            "interrupted": states.count(TrialState.FAIL),
            "command": self.command,
        }


def _nested(nested: NestedResult) -> dict[str, Any]:
    low, high = (None if np.isnan(end) else end for end in nested.interval)
    return {
        "score": nested.score,
        "low": low,
        "high": high,
        "trials": nested.trials,
        "folds": nested.folds,
        "chosen": list(nested.chosen),
        "what": "options tuned anew within the training samples of each fold; the fold's samples were predicted by "
        "what was best there",
    }


def _json(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if not isinstance(value, int | float | tuple) else value for name, value in options.items()
    }


def write_outcome(outcome: TuningOutcome, folder: RunFolder) -> None:
    """Write tables, plots, options and, last, what was found; a reader sees each file whole or not at all."""
    with whole_file(folder.trials) as draft:
        trial_table(outcome.search).to_csv(draft, sep="\t", index=False)
    head = f"# {outcome.sentence}\n# {outcome.command}\n"
    write_text(folder.best_options, head.replace("\r", " ") + as_toml(outcome.options))
    save(_history(outcome), folder.history_plot)
    importance = importances(outcome.search)
    if importance:
        save(_importance(importance, outcome), folder.tuning_importance_plot)
    write_json(folder.tuning, outcome.to_json() | {"importance": importance})
    logger.info("%s", outcome.sentence)
    logger.info("wrote %s", folder)


def trial_table(search: Search) -> pd.DataFrame:
    """A row for each trial: state, score, folds that were fitted, seconds, options, and a note."""
    rows = []
    for trial in search.study.get_trials(deepcopy=False):
        seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        again = trial.user_attrs.get(TRIED_AGAIN)
        note = trial.user_attrs.get(REASON, "" if again is None else f"trial {again} again")
        values = trial.intermediate_values
        score = trial.value if trial.state == TrialState.COMPLETE else values.get(max(values, default=0))
        folds = max(values, default=0) + (trial.state == TrialState.COMPLETE)
        head = {"trial": trial.number, "state": STATES[trial.state], "score": score, "folds": folds, "seconds": seconds}
        rows.append(head | {name: trial.params.get(name) for name in search.space} | {"note": note})
    return pd.DataFrame(rows)


def importances(search: Search) -> dict[str, float]:
    """Fraction of the variance of scores that each option explains; empty where too few trials or equal scores tell.

    Source: Hutter, Hoos and Leyton-Brown 2014, An efficient approach for assessing hyperparameter importance (fANOVA).
    """
    values = [trial.value for trial in search.done if trial.state == TrialState.COMPLETE]
    if len(values) < FEWEST or np.ptp(np.asarray(values, np.float64)) == 0:
        return {}
    with quiet():
        evaluator = FanovaImportanceEvaluator(seed=search.seed % 2**32)
        found = optuna.importance.get_param_importances(search.study, evaluator=evaluator)
    return {name: float(value) for name, value in found.items()}


def _history(outcome: TuningOutcome) -> Figure:
    """Scores of trials in their order, the best so far, and the nested score."""
    scored = [trial for trial in outcome.search.done if trial.state == TrialState.COMPLETE]
    numbers, values = np.array([(trial.number, trial.value) for trial in scored], dtype=np.float64).T
    drawn = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = drawn.add_subplot()
    axes.plot(numbers, values, "o", color=MODEL, markersize=4, label="a trial")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color=MODEL, label="best so far")
    if outcome.nested is not None:
        low, high = outcome.nested.interval
        axes.axhline(outcome.nested.score, color=BASELINE, linestyle="--", label="nested score")
        if not np.isnan(low):
            axes.axhspan(low, high, color="0.5", alpha=0.15, linewidth=0)
    axes.set(xlabel="trial", ylabel=f"{spelled(outcome.metric)}, out of fold")
    axes.set_title(f"{outcome.config.tuning.learner}: {outcome.config.target.column}", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return drawn


def _importance(importance: Mapping[str, float], outcome: TuningOutcome) -> Figure:
    names = list(importance)[::-1]
    drawn = Figure(figsize=(6.4, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = drawn.add_subplot()
    axes.barh(names, [importance[name] for name in names], color=MODEL)
    axes.set_xlabel("fraction of the variance of scores that an option explains (fANOVA)", fontsize=9)
    axes.set_title(f"{outcome.config.tuning.learner}: {outcome.config.target.column}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn

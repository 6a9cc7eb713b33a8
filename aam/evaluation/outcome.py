"""What an evaluation found: tables and words."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pandas as pd

from aam.config import SECTIONS_OF_NETWORK
from aam.config.evaluate import EvaluateConfig
from aam.evaluation.comparison import OutOfFold, difference_table, group_table, prediction_table, score_table
from aam.evaluation.coverage import coverage_table, covering
from aam.evaluation.fold_fits import FoldResult, Variant
from aam.evaluation.intervals import FEWEST_GROUPS, LEVEL
from aam.evaluation.schemes import fold_table
from aam.evaluation.variants import MAIN, RANDOM, RAREFIED, samples_of
from aam.evaluation.verdict import NO_MODEL, Verdict, fallen, flattered, judge, misleading, perhaps_misleading


@dataclass(frozen=True, eq=False)
class Outcome:
    """One way to look at the samples, and what came of it."""

    variant: Variant
    predictions: pd.DataFrame
    """See `prediction_table`."""
    out: OutOfFold
    empty: tuple[str, ...]
    """Held-out samples without a read of an ASV that training knows, which got the guess of the null learner."""
    chosen: dict[str, dict[str, int]]
    """How often each file of options was chosen, by learner; of the most frequent first."""

    @classmethod
    def of(cls, variant: Variant, results: Sequence[FoldResult]) -> Self:
        """Put the folds together."""
        table = prediction_table(results, variant)
        ids = list(variant.study.table.sample_ids)
        names = ids if variant.labels.groups is None else variant.labels.groups
        empty = sorted({sample for result in results for sample in result.empty})
        out = OutOfFold.of(table, pd.Series(names, index=ids), variant.seed)
        return cls(variant, table, out, tuple(empty), _count_choices(results))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """See `score_table`."""
        return score_table(self.out)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """See `difference_table`."""
        return difference_table(self.out)

    @cached_property
    def errors_by_group(self) -> pd.DataFrame:
        """See `group_table`."""
        return group_table(self.out)

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """See `coverage_table`."""
        return coverage_table(self.predictions, self.out, self.variant.level)

    @cached_property
    def folds(self) -> pd.DataFrame:
        """See `fold_table`."""
        return fold_table(self.variant.folds, samples_of(self.variant.study, self.variant.labels))

    def misleads(self, learner: str) -> bool:
        """Whether depth or batch alone is better than a guess, beyond noise."""
        return learner in self.out.predicted and self.out.beats(learner, "null")


def _count_choices(results: Sequence[FoldResult]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for result in results:
        for learner, options in result.chosen.items():
            counts.setdefault(learner, Counter())[options] += 1
    ordered = {name: sorted(count.items(), key=lambda item: (-item[1], item[0])) for name, count in counts.items()}
    return {name: dict(ordered[name]) for name in sorted(ordered)}


INDEPENDENT: Final = (
    "intervals take the samples as independent: where several are of one subject, site or study, give --group-column"
)


class Advice(NamedTuple):
    """How to train a learner."""

    command: str | None
    """None for one that `aam train` does not know, or cannot train as it was fitted."""
    why_not: str | None = None
    """Why it cannot."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that an evaluation found."""

    column: str
    outcomes: dict[str, Outcome]
    """By the name of the variant: main, and where there are such, rarefied and random."""
    verdict: Verdict
    advice: Advice
    """What trains the best learner; nothing where that is not worth it."""
    notes: tuple[str, ...]
    """What to beware of."""
    leakage: tuple[str, ...]
    """What of the study lies on both sides of folds."""
    options: dict[str, Any]
    """What was asked for."""

    @classmethod
    def of(
        cls,
        config: EvaluateConfig,
        outcomes: Sequence[Outcome],
        advise: Callable[[str, Outcome], Advice],
        leakage: Sequence[str] = (),
    ) -> Self:
        """Judge.

        Args:
            config: the options.
            outcomes: what came of each variant, main first.
            advise: what trains a learner as it was in an outcome.
            leakage: what makes learners look better than they are for new groups.
        """
        by_name = {outcome.variant.name: outcome for outcome in outcomes}
        judged = by_name.get(RAREFIED, by_name[MAIN])
        column, groups = config.target.column, config.folds.groups
        unit = "samples" if groups is None else f"groups ({groups})"
        verdict = judge(judged.out, column, unit)
        to_train = verdict.to_train
        advice = Advice(None) if to_train is None else advise(to_train, judged)
        independent = () if groups is not None or config.folds.test_column is None else (INDEPENDENT,)
        notes = (*independent, *_notes(column, by_name), *covering(judged.coverage, to_train, column, unit))
        return cls(column, by_name, verdict, advice, notes, tuple(leakage), _options(config))

    @property
    def main(self) -> Outcome:
        """The evaluation as it was asked for."""
        return self.outcomes[MAIN]

    @property
    def command(self) -> str | None:
        """What trains the best learner; None where that is not worth it, or `aam train` cannot."""
        return self.advice.command

    @property
    def sentence(self) -> str:
        """The verdict, in one sentence."""
        rarefied = self.outcomes.get(RAREFIED)
        at = "" if rarefied is None else f" (at {rarefied.variant.depth} reads of each sample)"
        if self.verdict.to_train is None:
            return f"{self.verdict.sentence}{at}; there is nothing to train"
        end = f"; to train it: {self.command}" if self.command is not None else ""
        if self.advice.why_not is not None:
            end = f"; no command trains it, as {self.advice.why_not}"
        return f"{self.verdict.sentence}{at}{end}"

    @property
    def lines(self) -> list[str]:
        """The verdict and what to beware of."""
        return [*self.leakage, *self.notes, self.sentence]

    def to_json(self) -> dict[str, Any]:
        """Everything but the predictions."""
        out = self.main.out
        return {
            "column": self.column,
            "verdict": self.sentence,
            "best": self.verdict.best,
            "to_train": self.verdict.to_train,
            "command": self.command,
            "notes": list(self.notes),
            "leakage": list(self.leakage),
            "samples": len(out.sample_ids),
            "groups": out.boot.groups,
            "classes": list(out.classes),
            "interval": f"{LEVEL:g} % of {len(out.boot.times)} bootstrap draws of groups" if out.boot.enough else None,
            "options": self.options,
            **{name: _document(outcome) for name, outcome in self.outcomes.items()},
        }


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "folds": len(outcome.variant.folds),
        "depth": outcome.variant.depth,
        "chosen_options": outcome.chosen,
        "samples_without_known_asvs": list(outcome.empty),
        "scores": _records(outcome.scores),
        "differences": _records(outcome.differences),
        "coverage": _records(outcome.coverage),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON takes them: None for what is no number."""
    return [
        {str(key): None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _options(config: EvaluateConfig) -> dict[str, Any]:
    """Options that change results, and none that names a place."""
    left_out: dict[str, Any] = dict.fromkeys(("inputs", "output", "tracking"), True)
    if config.compares_network:
        left_out["finetune"] = {"pretrained_encoder", "embedding_cache"}
    else:
        left_out |= dict.fromkeys(SECTIONS_OF_NETWORK, True)
    sections = config.model_dump(mode="json", exclude=left_out)
    return {option: value for section in sections.values() for option, value in section.items()}


def _notes(column: str, outcomes: dict[str, Outcome]) -> list[str]:
    main = outcomes[MAIN]
    notes = []
    if not main.out.boot.enough:
        notes.append(
            f"no intervals: there are {main.out.boot.groups} groups, and below {FEWEST_GROUPS} a bootstrap over groups "
            "says little"
        )
    for learner in ("depth", "batch"):
        told = (misleading(main.out, learner, column), perhaps_misleading(main.out, learner))
        notes += [text for text in told if text is not None]
    rarefied, random = outcomes.get(RAREFIED), outcomes.get(RANDOM)
    if rarefied is not None:
        assert rarefied.variant.depth is not None
        notes.append(fallen(main.out, rarefied.out, rarefied.variant.depth))
    if random is not None:
        best = next(name for name in main.out.ranking if name not in NO_MODEL)
        notes.append(flattered(main.out, random.out, best))
    for learner, counts in main.chosen.items():
        times = ", ".join(f"{options} in {count}" for options, count in counts.items())
        notes.append(f"options of {learner}, chosen in {len(main.variant.folds)} folds: {times}")
    if main.empty:
        notes.append(
            f"{len(main.empty)} held-out samples have no read of an ASV that training knows, and were predicted by the "
            f"guess: {', '.join(main.empty[:5])}"
        )
    return notes

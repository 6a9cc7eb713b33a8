"""What out-of-fold predictions of several learners say: tables of scores, differences, and errors of groups.

Shapes: n samples that were held out, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.errors import InputError, first_ids
from aam.evaluation.fold_fits import NO_INTERVAL, FoldResult, Variant
from aam.evaluation.intervals import Floats, GroupBootstrap, Interval
from aam.evaluation.scores import (
    MAIN_CLASS,
    MAIN_NUMBER,
    Scores,
    draw_classes,
    draw_numbers,
    is_better,
    log_losses,
    score_classes,
    score_numbers,
)

PROBABILITY = "probability_"
CHANCE = 0.5
"""AUROC of a guess."""
SCORE_COLUMNS = ["learner", "metric", "value", "low", "high", "one_repeat"]
DIFFERENCE_COLUMNS = ["learner", "reference", "metric", "difference", "low", "high", "beyond_noise"]


def prediction_table(results: Sequence[FoldResult], variant: Variant) -> pd.DataFrame:
    """All predictions, one row for each sample, learner and repeat, in an order that does not depend on the work's.

    Columns: sample_id, learner, repeat, fold, true, prediction, and where there are such spread, low, high, set and
    probability_CLASS.
    """
    (target,) = variant.labels.values.columns
    truth = variant.labels.values[target]
    frames = []
    for result in sorted(results, key=lambda each: (each.repeat, each.fold)):
        for learner, columns in result.learners.items():
            head = {"sample_id": result.sample_id, "learner": learner, "repeat": result.repeat, "fold": result.fold}
            true = truth.loc[result.sample_id].to_numpy()
            frames.append(pd.DataFrame(head | {"true": true} | columns))
    table = pd.concat(frames, ignore_index=True)
    probabilities = sorted(str(name) for name in table if str(name).startswith(PROBABILITY))
    table[probabilities] = table[probabilities].fillna(0.0)  # of a class that a fold's training lacks
    first = ["sample_id", "learner", "repeat", "fold", "true", "prediction"]
    more = [name for name in ("spread", *NO_INTERVAL) if name in table]
    return table[[*first, *more, *probabilities]]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of the held-out samples by every learner, averaged over repeats."""

    sample_ids: tuple[str, ...]
    groups: NDArray[np.str_]
    true: Floats
    """Numbers, or places of classes [n]."""
    classes: tuple[str, ...]
    """Empty where numbers are predicted."""
    predicted: dict[str, Floats]
    """[n], or probabilities [n, C], by learner."""
    seed: int
    one_repeat: dict[str, Scores] = field(default_factory=dict)
    """Mean over repeats of the scores of each alone, by learner: those of single fits. Empty where nobody asks."""

    @classmethod
    def of(cls, table: pd.DataFrame, groups: "pd.Series[str]", seed: int) -> Self:
        """Average a table of predictions over repeats; see `_averaged`."""
        out = cls._averaged(table, groups, seed)
        if table["repeat"].nunique() == 1:
            return replace(out, one_repeat=out.scores)
        parts = [cls._averaged(part, groups, seed).scores for _, part in table.groupby("repeat")]
        return replace(out, one_repeat={name: _mean([scores[name] for scores in parts]) for name in out.predicted})

    @classmethod
    def _averaged(cls, table: pd.DataFrame, groups: "pd.Series[str]", seed: int) -> Self:
        """Average a table of predictions over repeats.

        Args:
            table: as of `prediction_table`.
            groups: group of each sample, by id.
            seed: of the bootstrap.
        """
        probabilities = [name for name in table if str(name).startswith(PROBABILITY)]
        names = list(dict.fromkeys(table["learner"]))
        means = table.groupby(["learner", "sample_id"])[probabilities or ["prediction"]].mean()
        ids = sorted(set(table["sample_id"]))
        predicted = {name: means.loc[name].loc[ids].to_numpy(np.float64) for name in names}
        truth = table.drop_duplicates("sample_id").set_index("sample_id")["true"].loc[ids]
        classes = tuple(str(name).removeprefix(PROBABILITY) for name in probabilities)
        true = _places(truth, classes) if classes else truth
        if not classes:
            predicted = {name: value[:, 0] for name, value in predicted.items()}
        of_samples = groups.loc[ids].to_numpy(dtype=np.str_)
        return cls(tuple(ids), of_samples, np.asarray(true, np.float64), classes, predicted, seed)

    def among(self, sample_ids: Sequence[str]) -> "OutOfFold":
        """The predictions of some samples."""
        known = set(sample_ids)
        kept = np.array([name in known for name in self.sample_ids])
        ids = tuple(name for name in self.sample_ids if name in known)
        predicted = {name: value[kept] for name, value in self.predicted.items()}
        return OutOfFold(ids, self.groups[kept], self.true[kept], self.classes, predicted, self.seed)

    @property
    def main(self) -> str:
        """The score that chooses the best learner."""
        return MAIN_CLASS if self.classes else MAIN_NUMBER

    @cached_property
    def boot(self) -> GroupBootstrap:
        """Draws of groups, the same for every learner."""
        return GroupBootstrap.of(self.groups, self.seed)

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores by learner."""
        return {name: self._score(value) for name, value in self.predicted.items()}

    @cached_property
    def drawn(self) -> dict[str, dict[str, Floats]]:
        """Scores of every draw by learner and metric."""
        return {name: self._draw(value) for name, value in self.predicted.items()}

    def _score(self, predicted: Floats) -> Scores:
        if self.classes:
            return score_classes(self.true.astype(np.int64), predicted, self.classes)
        return score_numbers(self.true.astype(np.float64), predicted)

    def _draw(self, predicted: Floats) -> dict[str, Floats]:
        if self.classes:
            return draw_classes(self.true.astype(np.int64), predicted, self.classes, self.boot)
        return draw_numbers(self.true.astype(np.float64), predicted, self.boot)

    @property
    def ranking(self) -> list[str]:
        """Learners from the best to the worst; of equal ones the one that comes first.

        Learners of classes whose main score is within noise of the guess are its equals; the log loss decides among
        equals, then the AUROC, as neither depends on which class is the likeliest.
        """
        return sorted(self.scores, key=lambda name: self._place(name, self.scores))

    @property
    def ranking_of_single_fits(self) -> list[str]:
        """As `ranking`, by the mean score of each repeat alone."""
        return sorted(self.scores, key=lambda name: self._place(name, self.of_one))

    @property
    def of_one(self) -> dict[str, Scores]:
        """Scores of single fits by learner, resolved."""
        return self.one_repeat or self.scores

    def _place(self, name: str, of: Mapping[str, Scores]) -> tuple[float, ...]:
        value = of[self._equal(name)][self.main]
        if not self.classes:
            return (-_finite(value),)
        scores = of[name]
        return (-round(_finite(value), 9), scores["log_loss"], -_finite(scores["auroc"]))

    def _equal(self, name: str) -> str:
        """The guess for learners of classes that are within noise of it, else the learner itself."""
        if not self.classes or "null" not in self.predicted or not self.boot.enough:
            return name
        return name if self.difference(name, "null")[1].excludes_zero else "null"

    def interval(self, learner: str, metric: str) -> Interval:
        """Interval of a score."""
        return self.boot.interval(self.drawn[learner][metric])

    def difference(self, learner: str, reference: str, metric: str | None = None) -> tuple[float, Interval]:
        """How far a learner's score lies above a reference's, and the interval of that over the same draws."""
        metric = metric or self.main
        value = self.scores[learner][metric] - self.scores[reference][metric]
        return value, self.boot.interval(self.drawn[learner][metric] - self.drawn[reference][metric])

    def beats(self, learner: str, reference: str) -> bool:
        """Whether a learner is better than a reference beyond noise, by the main score.

        Than the guess it also is if it ranks samples, which the likeliest class alone hides if classes are unbalanced.
        """
        value, interval = self.difference(learner, reference)
        return (value > 0 and interval.excludes_zero) or (reference == "null" and self.ranks(learner))

    def ranks(self, learner: str) -> bool:
        """Whether AUROC is above chance and log loss below that of the guess, both beyond noise."""
        if not self.classes or "null" not in self.predicted:
            return False
        gain, interval = self.difference(learner, "null", "log_loss")
        return gain < 0 and interval.excludes_zero and self.interval(learner, "auroc").low > CHANCE


def _places(truth: "pd.Series[str]", classes: Sequence[str]) -> "pd.Series[float]":
    """Places of classes.

    Raises:
        InputError: no training sample had one of them.
    """
    unknown = sorted(set(truth) - set(classes))
    if unknown:
        raise InputError(f"no training sample of any fold is of class {first_ids(unknown)}, which was held out")
    return truth.map({name: float(place) for place, name in enumerate(classes)})


def _mean(parts: Sequence[Scores]) -> Scores:
    """Mean of each score over those that are numbers."""
    return {str(metric): float(value) for metric, value in pd.DataFrame(parts).mean().items()}


def _finite(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def score_table(out: OutOfFold) -> pd.DataFrame:
    """One row for each learner and metric, with a 95 % interval where there are ten groups.

    ``value`` is of predictions that are averaged over repeats, ``one_repeat`` of single ones.
    """
    rows = [
        (name, metric, value, *out.interval(name, metric), out.of_one[name][metric])
        for name, scores in out.scores.items()
        for metric, value in scores.items()
    ]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def difference_table(out: OutOfFold) -> pd.DataFrame:
    """Every learner against the forest and against the best one; ``beyond_noise`` says better, worse or no."""
    references = list(dict.fromkeys(name for name in ("forest", out.ranking[0]) if name in out.predicted))
    return pd.DataFrame(list(_differences(out, references)), columns=DIFFERENCE_COLUMNS)


def _differences(out: OutOfFold, references: Sequence[str]) -> Iterator[tuple[str, str, str, float, float, float, str]]:
    for reference in references:
        for name, scores in out.scores.items():
            if name == reference:
                continue
            for metric in scores:
                value, interval = out.difference(name, reference, metric)
                better = "better" if is_better(metric, value) else "worse"
                noise = "unknown" if np.isnan(interval.low) else better if interval.excludes_zero else "no"
                yield name, reference, metric, value, *interval, noise


def group_table(out: OutOfFold) -> pd.DataFrame:
    """Errors of each group by learner: which subjects, sites or studies are predicted badly.

    Columns: group, learner, samples, and mae and bias (mean of predicted less true), or accuracy and log_loss.
    """
    table = pd.concat([_errors(out, name) for name in out.predicted], ignore_index=True)
    return table.sort_values("group", kind="stable", ignore_index=True)


def _errors(out: OutOfFold, learner: str) -> pd.DataFrame:
    predicted = out.predicted[learner]
    if out.classes:
        places = out.true.astype(np.int64)
        right = (predicted.argmax(axis=1) == places).astype(np.float64)
        errors = {"accuracy": right, "log_loss": log_losses(places, predicted)}
    else:
        errors = {"mae": np.abs(predicted - out.true), "bias": predicted - out.true}
    frame = pd.DataFrame({"group": out.groups} | errors)
    means = frame.groupby("group").mean()
    means.insert(0, "samples", frame.groupby("group").size())
    means.insert(0, "learner", learner)
    return means.reset_index()

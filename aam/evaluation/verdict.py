"""What an evaluation says in words: which learner is best, by how much, and what to beware of."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from aam.config.evaluate import OUTSIDE
from aam.evaluation.comparison import OutOfFold
from aam.evaluation.intervals import FEWEST_GROUPS, Interval

NAMES: Final = {
    "r2": "R2",
    "mae": "MAE",
    "rmse": "RMSE",
    "pearson": "Pearson r",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "log_loss": "log loss",
}
"""How scores are spelled for readers."""
NEAR: Final = 1 / 3
"""Fraction of a lead; an interval of the lead that goes below it is close to zero."""
NO_MODEL: Final = {
    "null": "a guess that looks at no sample",
    "depth": "sequencing depth alone",
    "batch": "the batch columns alone",
}
"""Learners of a comparison that nobody should train."""


@dataclass(frozen=True)
class Verdict:
    """The result in words."""

    best: str
    """The learner with the best score of all."""
    to_train: str | None
    """The best learner that is worth training; None where a guess is as good."""
    sentence: str


def spelled(metric: str) -> str:
    """A score's name for readers."""
    return NAMES.get(metric, metric.replace("recall_", "recall of "))


def shown_interval(interval: Interval) -> str:
    """``95 % 0.41 to 0.62``, or nothing where there is no interval."""
    return "" if np.isnan(interval.low) else f"95 % {interval.low:.2f} to {interval.high:.2f}"


def judge(out: OutOfFold, column: str, unit: str) -> Verdict:
    """Say which learner is best, by how much, and whether that is beyond noise.

    The best is chosen on the same predictions that judge it, so that its score is a little too good where others are
    within noise of it.

    Args:
        out: predictions of the held-out samples.
        column: what is predicted.
        unit: what the intervals are over, such as ``groups (subject)``.
    """
    ranking = out.ranking
    best = ranking[0]
    models = [name for name in ranking if name not in NO_MODEL]
    named = _with_score(out, best)
    if best not in NO_MODEL:
        rival = "forest" if best != "forest" else next((name for name in models if name != best), "null")
        parts = [f"{best} predicts {column} best: {named} over {out.boot.groups} {unit}", compared(out, best, rival)]
        parts += _best_of(out, best, rival, len(models))
        parts += [*_against_guess(out, best), *_single_fit(out, best)]
        return Verdict(best, best, ", ".join(parts))
    sentence = (
        f"no learner predicts {column} better than {NO_MODEL[best]} ({best}): {named} over {out.boot.groups} {unit}"
    )
    if not models:
        return Verdict(best, None, sentence)
    sentence += f"; the best that looks at ASVs is {models[0]}: {_with_score(out, models[0])}, "
    sentence += ", ".join([compared(out, models[0], best), *_hidden(out, models[0])])
    worth = "null" in out.predicted and out.beats(models[0], "null")
    sentence += "".join(f", {text}" for text in (_single_fit(out, models[0]) if worth else ()))
    return Verdict(best, models[0] if worth else None, sentence)


def _with_score(out: OutOfFold, name: str) -> str:
    interval = shown_interval(out.interval(name, out.main))
    return f"{spelled(out.main)} {out.scores[name][out.main]:.2f}" + (f" ({interval})" if interval else "")


def telling(out: OutOfFold, learner: str) -> str:
    """The score that tells what a learner knows: the main one, or AUROC where balanced accuracy hides it."""
    hidden = out.ranks(learner) and not out.difference(learner, "null")[1].excludes_zero
    return "auroc" if hidden else out.main


def compared(out: OutOfFold, learner: str, reference: str) -> str:
    """How much better or worse a learner is than another: ``0.04 above forest (0.51), beyond noise (...)``."""
    if reference not in out.predicted:
        return "alone in this comparison"
    metric = telling(out, learner)
    value, interval = out.difference(learner, reference, metric)
    side = "above" if value >= 0 else "below"
    of = "" if metric == out.main else f"{spelled(metric)} "
    return f"{of}{abs(value):.2f} {side} {reference} ({out.scores[reference][metric]:.2f}), {_noise(interval)}"


def _noise(interval: Interval) -> str:
    if np.isnan(interval.low):
        return f"and with fewer than {FEWEST_GROUPS} groups nobody can say whether that is noise"
    return f"{'beyond' if interval.excludes_zero else 'within'} noise ({shown_interval(interval)})"


def _best_of(out: OutOfFold, best: str, rival: str, models: int) -> list[str]:
    """What to say where the best of several learners is not far ahead: choosing it took advantage of noise."""
    if models < 2 or rival not in out.predicted:
        return []
    value, interval = out.difference(best, rival, telling(out, best))
    near = value > 0 and interval.low < NEAR * value
    return [f"chosen as the best of {models} on these predictions"] if near else []


def _against_guess(out: OutOfFold, best: str) -> list[str]:
    """What to say where a learner is no better than a guess, or does not look so."""
    if "null" not in out.predicted or not out.boot.enough or out.beats(best, "null"):
        return _hidden(out, best)
    return [f"but not better than a guess beyond noise (null {out.scores['null'][out.main]:.2f})"]


def _single_fit(out: OutOfFold, best: str) -> list[str]:
    """What to say where the best is so as a mean of several fits, and `aam train` makes one."""
    ranking = out.ranking_of_single_fits
    first = next(name for name in ranking if name not in NO_MODEL)
    said = []
    if first != best:
        ours = "" if first in OUTSIDE else ", as `aam train` makes one,"
        said.append(f"but of single fits{ours} {first} is best ({_single(out, first, best)})")
    if "null" in ranking and ranking.index("null") < ranking.index(best):
        said.append(f"but a single fit of {best} is no better than a guess ({_single(out, best, 'null')})")
    return said


def _single(out: OutOfFold, *names: str) -> str:
    """Scores of single fits; of classes also the log loss, which decides among equals."""
    metrics = (out.main, "log_loss") if out.classes else (out.main,)
    return "; ".join(
        f"{name}: " + ", ".join(f"{spelled(metric)} {out.of_one[name][metric]:.2f}" for metric in metrics)
        for name in names
    )


def _hidden(out: OutOfFold, learner: str) -> list[str]:
    """What to say where a learner ranks samples well and its balanced accuracy does not tell."""
    if telling(out, learner) == out.main:
        return []
    fractions = np.bincount(out.true.astype(np.int64), minlength=len(out.classes)) / len(out.true)
    rarest, scores = int(fractions.argmin()), out.scores[learner]
    return [
        f"and balanced accuracy hides what it knows, as the likeliest class alone counts and classes are unbalanced "
        f"({out.classes[rarest]}: {fractions[rarest]:.0%} of the samples): it ranks samples well, AUROC "
        f"{scores['auroc']:.2f} ({shown_interval(out.interval(learner, 'auroc'))}), and its log loss "
        f"{scores['log_loss']:.2f} is below that of null ({out.scores['null']['log_loss']:.2f}) beyond noise"
    ]


def misleading(out: OutOfFold, learner: str, column: str) -> str | None:
    """Say that depth or batch alone predicts the target, where it does beyond noise."""
    if learner not in out.predicted or not out.beats(learner, "null"):
        return None
    what = {"depth": "sequencing depth", "batch": "batch"}[learner]
    said = [NO_MODEL[learner] + " predicts it", _with_score(out, learner), compared(out, learner, "null")]
    return f"{column} is confounded with {what}: {', '.join([*said, *_hidden(out, learner)])}"


def perhaps_misleading(out: OutOfFold, learner: str) -> str | None:
    """Say that depth or batch may predict the target where there are too few groups to tell."""
    if learner not in out.predicted or out.boot.enough or out.difference(learner, "null")[0] <= 0:
        return None
    return f"{NO_MODEL[learner]} scores {compared(out, learner, 'null')}" + (
        "; --rarefy-depth auto shows what is left without it" if learner == "depth" else ""
    )


def fallen(all_reads: OutOfFold, rarefied: OutOfFold, depth: int) -> str:
    """How far the score falls when all samples have the same depth, on the samples that have it."""
    same = all_reads.among(rarefied.sample_ids)
    name = next(name for name in same.ranking if name not in NO_MODEL)
    metric = telling(same, name)
    before, after = same.scores[name][metric], rarefied.scores[name][metric]
    interval = same.boot.interval(rarefied.drawn[name][metric] - same.drawn[name][metric])
    verb = "falls" if after <= before else "rises"
    shown = shown_interval(interval)
    return (
        f"with {depth} reads of every sample the {spelled(metric)} of {name} {verb} from {before:.2f} to {after:.2f}"
        f" on the same {len(same.sample_ids)} samples" + (f" (difference {shown})" if shown else "")
    )


def flattered(by_group: OutOfFold, at_random: OutOfFold, name: str) -> str:
    """How much better a random split looks than new groups, if it does."""
    metric = telling(by_group, name)
    honest, random = by_group.scores[name][metric], at_random.scores[name][metric]
    interval = by_group.boot.interval(at_random.drawn[name][metric] - by_group.drawn[name][metric])
    said = f"a random split shows {spelled(metric)} {random:.2f} for {name} where new groups have {honest:.2f}"
    gap, shown = random - honest, shown_interval(interval)
    if not shown:
        return f"{said}; with fewer than {FEWEST_GROUPS} groups nobody can say whether knowing the groups helps"
    if not interval.excludes_zero:
        return f"{said}: the difference is within noise ({shown}), and nothing shows that knowing the groups helps"
    if gap > 0:
        return f"{said}: {gap:.2f} of it ({shown}) comes from knowing the groups"
    return f"{said}: it looks worse, beyond noise ({shown}), so nothing comes from knowing the groups"

"""The files of ``--what log-ratio``: the number of every sample, the ASVs that it is made of, a plot and a summary.

Shapes: n samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aam.data.files.whole_files import whole_file, write_json
from aam.data.sampling.seeded import generator
from aam.data.study import Study
from aam.evaluation.evaluation_plots import save
from aam.evaluation.outcome import Outcome
from aam.interpret.importance_files import COLOURS, shortened
from aam.interpret.log_ratio import Balance, BalanceLearner, Ranking
from aam.interpret.names import Names
from aam.learners.features import PSEUDO_PROPORTION
from aam.training.run_folder import RunFolder

SHOWN: Final = 15
"""ASVs of each side that are drawn."""
_TOLD: Final = 3
SOURCE: Final = (
    "Log-ratio of top against bottom ranked ASVs (Morton et al. 2019; Fedarko et al. 2020), ranked by the correlation "
    "of centred log-ratios (Aitchison 1986) with the column."
)


@dataclass(frozen=True, eq=False)
class LogRatio:
    """The balance of all samples, and what those of the folds predict."""

    study: Study
    column: str
    outcome: Outcome
    """Of the balances of the folds, out of fold."""
    ranking: Ranking
    balance: Balance
    chosen: Sequence[Balance]
    """The balance of each fold."""
    names: Names
    classes: Sequence[str]
    """The two classes, of which a large number speaks for the second; empty for a number."""

    def scores(self) -> dict[str, tuple[float, float, float]]:
        """Out-of-fold scores with their intervals: R2, or balanced accuracy and AUROC."""
        out, name = self.outcome.out, BalanceLearner.name
        metrics = ("balanced_accuracy", "auroc") if self.classes else ("r2",)
        return {metric: (out.scores[name][metric], *out.interval(name, metric)) for metric in metrics}

    def samples(self) -> pd.DataFrame:
        """Columns sample_id, log_ratio, true, and held_out: the prediction by balances of others, mean of repeats."""
        ids, out = list(self.study.table.sample_ids), self.outcome.out
        predicted = out.predicted[BalanceLearner.name]
        held_out = pd.Series(predicted[:, 1] if self.classes else predicted, index=list(out.sample_ids))
        true = self.outcome.variant.labels.values.iloc[:, 0]
        ratio = self.balance.of(self.study, np.arange(len(ids)))
        table = {"sample_id": ids, "log_ratio": ratio, "true": true.to_numpy(), "held_out": held_out.reindex(ids)}
        return pd.DataFrame({name: np.asarray(values) for name, values in table.items()})

    def taxa(self) -> pd.DataFrame:
        """Columns id, name, side, correlation, folds (fraction in which the ASV is on this side), prevalence."""
        correlation = dict(zip(self.ranking.columns.tolist(), self.ranking.correlation.tolist(), strict=True))
        counts = self.study.table.counts
        prevalence = np.bincount(counts.indices, minlength=counts.shape[1]) / counts.shape[0]
        rows = []
        for side in ("top", "bottom"):
            in_folds = [set(getattr(one, side).tolist()) for one in self.chosen]
            for column in getattr(self.balance, side).tolist():
                name = {"id": self.study.table.asv_ids[column], "name": self.names.asv(column), "side": side}
                folds = float(np.mean([column in each for each in in_folds]))
                told = {"correlation": correlation[column], "folds": folds, "prevalence": float(prevalence[column])}
                rows.append(name | told)
        return pd.DataFrame(rows)


def write_log_ratio(found: LogRatio, folder: RunFolder) -> None:
    """Write all files; the summary last."""
    for table, path in ((found.samples(), folder.log_ratio), (found.taxa(), folder.log_ratio_taxa)):
        with whole_file(path) as draft:
            table.to_csv(draft, sep="\t", index=False, float_format="%.6g")
    plot_log_ratio(found, folder)
    write_json(folder.explanation, summary(found))


def summary(found: LogRatio) -> dict[str, Any]:
    """What is in ``explanation.json``."""
    return {
        "what": "log-ratio",
        "column": found.column,
        "learner": BalanceLearner.name,
        "sentence": sentence(found),
        "notes": notes(found),
        "source": SOURCE,
    }


_SPELLED: Final = {"r2": "R²", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def told_scores(found: LogRatio) -> str:
    """The scores in words."""
    parts = []
    for metric, (value, low, high) in found.scores().items():
        interval = "" if np.isnan(low) else f" (95 % {low:.2f} to {high:.2f})"
        parts.append(f"{_SPELLED[metric]} {value:.2f}{interval}")
    return ", ".join(parts)


def sentence(found: LogRatio) -> str:
    """The result in a sentence."""
    taxa = found.taxa()
    sides = []
    for side in ("top", "bottom"):
        names = taxa[taxa["side"] == side]["name"].tolist()
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        sides.append(", ".join(names[:_TOLD]) + more)
    rises = f"{found.classes[1]} is likelier" if found.classes else f"{found.column} is higher"
    return (
        f"Where there is more of {sides[0]} against {sides[1]}, {rises}: such a log-ratio, chosen anew in each fold, "
        f"predicts held-out samples with {told_scores(found)}."
    )


def notes(found: LogRatio) -> list[str]:
    """What one should know to read the tables."""
    sizes = [len(one.top) for one in found.chosen]
    return [
        f"A fraction of {PSEUDO_PROPORTION:g} of a sample's reads is added to both sides before the logarithm, about a "
        "read in ten thousand; differences between samples that lack a side depend on it.",
        f"The score is of balances that were chosen by the training samples of each fold ({min(sizes)} to {max(sizes)} "
        f"ASVs a side); the one that is written is of all samples ({len(found.balance.top)} a side), so its fit to "
        "these samples looks better than the score; folds is the fraction of folds that chose an ASV for this side.",
    ]


def plot_log_ratio(found: LogRatio, folder: RunFolder) -> None:
    """Draw the log-ratio against the column, and the ASVs of both sides."""
    taxa = pd.concat([part.head(SHOWN) for _, part in found.taxa().groupby("side", sort=False)])
    drawn = Figure(figsize=(10.0, max(4.0, 1.2 + 0.24 * len(taxa))), layout="constrained")
    left, right = drawn.subplots(1, 2)
    samples = found.samples()
    if found.classes:
        _draw_classes(left, samples, found.classes)
        left.set_ylabel("log-ratio", fontsize=9)
    else:
        true = samples["true"].astype(float)
        left.scatter(samples["log_ratio"], true, s=10, alpha=0.6, linewidths=0, color=COLOURS["rises"])
        left.set_xlabel("log-ratio", fontsize=9)
        left.set_ylabel(found.column, fontsize=9)
    left.set_title("fitted to all samples", fontsize=9, loc="left")
    _draw_taxa(right, taxa)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    drawn.suptitle(f"{found.column}: log-ratio; out of fold {told_scores(found)}", fontsize=10)
    save(drawn, folder.log_ratio_plot)


def _draw_classes(axes: Axes, samples: pd.DataFrame, classes: Sequence[str]) -> None:
    """Boxes, and points beside each other at random."""
    parts = [samples[samples["true"].astype(str) == name]["log_ratio"].to_numpy() for name in classes]
    axes.boxplot(
        parts,
        tick_labels=[f"{name}\n({len(part)})" for name, part in zip(classes, parts, strict=True)],
        showfliers=False,
    )
    shift = generator(0, "points beside each other")
    for place, part in enumerate(parts, start=1):
        x = place + shift.uniform(-0.15, 0.15, len(part))
        axes.scatter(x, part, s=9, alpha=0.5, linewidths=0, color=COLOURS["rises"])


def _draw_taxa(axes: Axes, taxa: pd.DataFrame) -> None:
    """The correlation of each ASV with the column, those of the top above."""
    rows = taxa.sort_values("correlation").to_dict("records")
    for place, row in enumerate(rows):
        colour = COLOURS["rises"] if row["side"] == "top" else COLOURS["falls"]
        axes.barh(place, row["correlation"], color=colour, height=0.7)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(min(-0.7, len(rows) / 2 - 4), max(len(rows) - 0.3, len(rows) / 2 + 3))
    axes.set_yticks(range(len(rows)), [f"{shortened(row['name'])} ({row['folds']:.0%})" for row in rows], fontsize=8)
    axes.set_xlabel("correlation with the column\n(in brackets: chosen in so many folds)", fontsize=9)
    axes.set_title("top (blue) against bottom (orange)", fontsize=9, loc="left")

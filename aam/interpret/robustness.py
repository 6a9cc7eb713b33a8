"""How well learners predict held-out samples that are worse than those they learned from: a curve for each way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aam.data.study import Study
from aam.evaluation.comparison import OutOfFold, prediction_table
from aam.evaluation.evaluation_plots import save
from aam.evaluation.fold_fits import FoldResult, Variant, held_out_studies
from aam.evaluation.schemes import Fold
from aam.evaluation.verdict import spelled
from aam.interpret.damage import DAMAGES, damaged
from aam.learners.base import Fitted, Predictions
from aam.learners.rarefied import mean_output
from aam.training.run_folder import Ending

COLUMNS: Final = ("damage", "level", "learner", "metric", "value", "low", "high")
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by those who see colours differently (Okabe and Ito 2008, Color universal design)."""

Models = Callable[[Fold, str], Fitted]
"""What a learner has learned in a fold."""


def robustness(variant: Variant, models: Models, learners: Sequence[str], seed: int) -> Iterator[pd.DataFrame]:
    """Score learners on damaged held-out samples; what they learned from stays as it was.

    Reads are changed as learners see them, so after rarefaction where there is one. The folds of the first repeat are
    used: each sample is predicted once.

    Args:
        variant: samples and folds of an evaluation.
        models: gives what was learned.
        learners: which ones.
        seed: of the damage.

    Returns:
        For each way and level a table with the columns of `COLUMNS`: the main score of every learner (R2, or balanced
        accuracy) with its 95 % interval of a bootstrap over groups.
    """
    folds = [fold for fold in variant.folds if fold.repeat == variant.folds[0].repeat]
    held_out = {fold.name: held_out_studies(variant, fold)[0][1:] for fold in folds}
    fitted = {(fold.name, name): models(fold, name) for fold in folds for name in learners}
    for way, damage in DAMAGES.items():
        for level in damage.levels:
            results = []
            for fold in folds:
                worse = [damaged(study, way, level, seed) for study in held_out[fold.name]]
                of_fold = {name: fitted[fold.name, name] for name in learners}
                results.append(_predicted(variant, fold, of_fold, worse))
            yield _scored(variant, results, way, level)


def _predicted(variant: Variant, fold: Fold, learners: Mapping[str, Fitted], draws: Sequence[Study]) -> FoldResult:
    table, rows = draws[0].table, np.arange(draws[0].table.n_samples)
    assert draws[0].metadata is not None
    columns = {}
    for name, fitted in learners.items():
        (solution,) = fitted.solutions
        output = mean_output([solution.predict(draw, rows) for draw in draws])
        predictions = Predictions(fitted.targets, (output,)).table(draws[0].metadata)
        columns[name] = {str(column): predictions[column].tolist() for column in predictions}
    return FoldResult(variant.name, fold.repeat, fold.number, list(table.sample_ids), columns, [])


def _scored(variant: Variant, results: Sequence[FoldResult], way: str, level: float) -> pd.DataFrame:
    ids = list(variant.study.table.sample_ids)
    groups = ids if variant.labels.groups is None else variant.labels.groups
    out = OutOfFold.of(prediction_table(results, variant), pd.Series(groups, index=ids), variant.seed)
    rows = []
    for name, scores in out.scores.items():
        low, high = out.boot.interval(out.drawn[name][out.main])
        rows.append((way, level, name, out.main, scores[out.main], low, high))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def robustness_sentence(table: pd.DataFrame) -> str:
    """Which learner keeps most of its score where the damage is worst, for each way."""
    parts = []
    for way, damage in DAMAGES.items():
        rows = table[table["damage"] == way]
        whole = rows[rows["level"] == damage.levels[0]].set_index("learner")["value"]
        worst = rows[rows["level"] == damage.levels[-1]].set_index("learner")["value"]
        best = str(worst.idxmax())
        parts.append(f"{damage.label} {damage.levels[-1]:g}: {best} is best, {whole[best]:.2f} -> {worst[best]:.2f}")
    metric = spelled(str(table["metric"].iloc[0]))
    return f"{metric} on worse samples; " + "; ".join(parts)


def plot_robustness(table: pd.DataFrame, place: Callable[[Ending], Path]) -> None:
    """Draw a panel for every way, with a line and a band for each learner."""
    drawn = Figure(figsize=(4.0 * len(DAMAGES), 3.8), layout="constrained")
    panels = drawn.subplots(1, len(DAMAGES), sharey=True)
    for axes, way in zip(panels, DAMAGES, strict=True):
        _draw(axes, table[table["damage"] == way], way)
    panels[0].set_ylabel(f"{spelled(str(table['metric'].iloc[0]))} of held-out samples")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save(drawn, place)


def _draw(axes: Axes, rows: pd.DataFrame, way: str) -> None:
    levels = DAMAGES[way].levels
    at = np.arange(len(levels))
    for place, (name, of_learner) in enumerate(rows.groupby("learner", sort=False)):
        part = of_learner.set_index("level").loc[list(levels)]
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(at, part["value"], "o-", color=colour, label=str(name), markersize=4)
        if part["low"].notna().all():
            axes.fill_between(at, part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
    axes.set_xticks(at, [f"{level:g}" for level in levels])
    axes.set_xlabel(DAMAGES[way].label)
    axes.spines[["top", "right"]].set_visible(False)

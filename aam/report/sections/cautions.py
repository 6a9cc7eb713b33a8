"""What to beware of: what makes scores flatter, too few samples, classes without samples, samples unlike the others."""

from collections.abc import Iterator
from typing import Final

import pandas as pd

from aam.evaluation.intervals import FEWEST_GROUPS
from aam.report.blocks import Block, Part, Text, count
from aam.report.predicted import Predicted, best_of
from aam.report.runs import Run
from aam.training.run_folder import SIDES

FEW_SAMPLES: Final = 50
FEW_OF_CLASS: Final = 10
LEAST_SPREAD: Final = 0.5
"""Deviation of predictions, as a fraction of the truth's, below which extremes are lost."""


def cautions(run: Run) -> list[Part]:
    """Everything that a reader of the scores should know."""
    if run.kind in ("explanation", "tuning"):
        return []
    found = list(dict.fromkeys([*_of_folder(run), *_of_predictions(run)]))
    blocks: list[Block] = [Text(text, "warning") for text in found]
    return [Part(blocks or [Text("Nothing was found to beware of.")])]


def _of_folder(run: Run) -> Iterator[str]:
    """What the commands said themselves."""
    evaluation = run.document(run.folder.evaluation)
    if evaluation is not None:
        yield from (str(text) for text in (*evaluation.get("leakage", ()), *evaluation.get("notes", ())))
    leakage = run.document(run.folder.leakage)
    if leakage is not None:
        yield from (str(finding["text"]) for finding in leakage.get("findings", ()))
    for side in SIDES:
        metrics = run.document(run.folder.side_metrics(side))
        if metrics is not None and metrics.get("warning"):
            yield str(metrics["warning"])
    distances = run.document(run.folder.distances)
    if distances is not None:
        ratio = distances.get("std_ratio")
        if ratio is not None and ratio < LEAST_SPREAD:
            yield f"predicted distances have {ratio:.2f} of the spread of the true ones: they are nearly alike"


def _of_predictions(run: Run) -> Iterator[str]:
    """What the predictions show."""
    best = best_of(run)
    if best is None:
        return
    if len(best.ids) < FEW_SAMPLES:
        yield f"few samples: scores are of {len(best.ids)} {best.what}, and change a lot with a few of them"
    groups = len(set(best.groups))
    if best.grouped and groups < FEWEST_GROUPS:
        yield f"few groups: the samples are of {count(groups, 'group')}, which say little about new ones"
    yield from _lost_spread(best)
    yield from _few_of_class(best)
    yield from _unlike(run)


def _lost_spread(best: Predicted) -> Iterator[str]:
    if best.number is None:
        return
    spread = float(best.true.astype(float).std())
    ratio = float(best.number.std()) / spread if spread > 0 else 1.0
    if ratio < LEAST_SPREAD:
        yield (
            f"spread lost: predictions of {best.learner} have {ratio:.2f} of the spread of the true values, so that "
            "high values are predicted too low and low ones too high"
        )


def _few_of_class(best: Predicted) -> Iterator[str]:
    if best.probability is None:
        return
    sizes = pd.Series(best.true).value_counts()
    absent = [name for name in best.classes if name not in sizes]
    if absent:
        yield f"absent classes: no sample of {', '.join(absent)} was predicted, so that nothing is known of them"
    unknown = [str(name) for name in sizes.index if name not in best.classes]
    if unknown:
        yield f"classes without a training sample, whose samples count as wrong: {', '.join(unknown)}"
    few = [f"{name} ({size})" for name, size in sizes.items() if size < FEW_OF_CLASS]
    if few:
        yield f"few samples of some classes, whose recall is unsure: {', '.join(few)}"


def _unlike(run: Run) -> Iterator[str]:
    """Samples that are unlike the training data, where predictions say so."""
    for side in SIDES:
        table = run.table(run.folder.side_predictions(side), ("sample_id",))
        if table is not None and "unlike" in table:
            flagged = table["unlike"].fillna("").astype(str)
            flagged = flagged[~flagged.isin(["", "no", "False"])]
            if len(flagged):
                yield f"{count(len(flagged), 'sample is', 'samples are')} unlike the training data: {flagged.iloc[0]}"

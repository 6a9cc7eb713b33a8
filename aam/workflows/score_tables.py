"""Scores as short tables, for the end of the log and for `aam inspect`."""

from collections.abc import Mapping, Sequence
from typing import Final

from aam.evaluation.comparison import OutOfFold
from aam.evaluation.fold_fits import Variant
from aam.evaluation.variants import RANDOM
from aam.evaluation.verdict import shown_interval, spelled
from aam.training.metrics import Metrics
from aam.training.sinks.training_log import short
from aam.workflows.text_table import text_table

BESIDES: Final = {"r2": "mae", "balanced_accuracy": "auroc"}
"""The score that is shown beside the main one."""


def score_overview(out: OutOfFold, variant: Variant) -> str:
    """The learners of a comparison with their scores, the best first."""
    metrics = (out.main, BESIDES[out.main])
    rows = [[name, *(text for metric in metrics for text in _with_interval(out, name, metric))] for name in out.ranking]
    header = [text for metric in metrics for text in (spelled(metric), "interval")]
    reads = "all reads" if variant.depth is None else f"{variant.depth:,} reads of every sample"
    folds = "samples held out at random" if variant.name == RANDOM else "held-out samples"
    return f"{folds}, {reads}\n{text_table(['learner', *header], rows)}"


def _with_interval(out: OutOfFold, learner: str, metric: str) -> tuple[str, str]:
    return f"{out.scores[learner][metric]:.3f}", shown_interval(out.interval(learner, metric)) or "none"


def side_scores(sides: Mapping[str, Metrics]) -> str:
    """Metrics of the samples that validate and those of a test, side by side.

    Args:
        sides: metrics by the name of the side.
    """
    names: Sequence[str] = list(dict.fromkeys(name for metrics in sides.values() for name in metrics))
    rows = [[name, *(short(metrics.get(name)) for metrics in sides.values())] for name in names]
    return text_table(["score", *sides], rows)

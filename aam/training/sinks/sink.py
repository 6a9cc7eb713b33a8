"""What a sink is: the metrics of a run go to several, which know nothing of one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, float | None]
"""Metrics by plain names such as ``train/unifrac_loss`` and ``val/r2``; None where one is undefined."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """Samples as a model places them."""

    vectors: NDArray[np.float32]
    """[samples, D]."""
    labels: Mapping[str, Sequence[Any]]
    """What is known of each sample, by name, the sample ids first; [samples] each."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a run found in the end, by its best weights."""

    scores: Values = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    """Pictures by name, .png files."""
    files: Sequence[Path] = ()
    """Reports to keep beside the metrics; those that are not there are not kept."""
    embedded: Embedded | None = None
    """Validation samples."""


class Judged(NamedTuple):
    """A validation, and what it means for the run."""

    step: int
    epoch: int
    values: Values
    chosen_by: str
    """Name of the metric that chooses the best checkpoint."""
    is_best: bool
    """Whether it is the best so far."""


class Sink:
    """Takes what a run tells while it trains; each has those of these methods that it needs."""

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """Open what the others write to.

        Args:
            total_steps: optimizer steps of the whole run.
            resumed_step: the one that the run continues from: what was logged beyond it is void. None for a run from
                the beginning, which starts anew.
        """

    def advance(self) -> None:
        """Take note of one step of the optimizer; costs no transfer from the device."""

    def log_training(self, step: int, epoch: int, values: Values) -> None:
        """Take metrics of training."""
        self.log(step, epoch, values)

    def log_validation(self, step: int, epoch: int, values: Values) -> None:
        """Take metrics of one validation."""
        self.log(step, epoch, values)

    def judge(self, verdict: Judged) -> None:
        """Take note of a validation once it is known whether it is the best."""

    def log(self, step: int, epoch: int, values: Values) -> None:
        """Take metrics of either, where they are treated alike."""

    def conclude(self, step: int, results: Results) -> None:
        """Take what a finished run found."""

    def close(self) -> None:
        """Finish what was begun, at the end of the run or when it fails."""

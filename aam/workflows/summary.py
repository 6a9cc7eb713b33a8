"""What a run learns from: samples, groups, values, what is left out; a table at its start, and in its provenance."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from aam.config import PretrainConfig, TargetConfig, TrainConfig
from aam.data.files.metadata import categorical_column
from aam.data.labels.target_table import target_values
from aam.data.sampling.splits import Split
from aam.data.study import Study
from aam.training.machine.surroundings import Stored
from aam.training.provenance import Lock, note_data
from aam.training.run_folder import RunFolder
from aam.workflows.text_table import text_table

logger = logging.getLogger(__name__)

CLASSES_SHOWN: Final = 12
"""Classes that the table has a row for; the others are counted."""
ALL: Final = "all"

Rows = NDArray[np.int64]


class Values(Stored):
    """Values of a column to predict, in some samples."""

    known: int
    """Samples that have one."""
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    classes: dict[str, int] | None = None
    """Samples of each class; None where numbers are predicted."""

    @classmethod
    def of(cls, column: "pd.Series[Any]") -> "Values":
        """Count or measure them."""
        known = column.dropna()
        if known.dtype != np.float64:
            return cls(known=len(known), classes=known.astype(str).value_counts().sort_index().to_dict())
        if not len(known):
            return cls(known=0)
        numbers = known.to_numpy(np.float64)
        return cls(known=len(known), low=numbers.min(), high=numbers.max(), mean=numbers.mean())


class Side(Stored):
    """Some samples."""

    samples: int
    groups: int | None
    targets: dict[str, Values]


class Summary(Stored):
    """What a run learns from."""

    sides: dict[str, Side]
    """``all`` samples that are used, and ``training``, ``validation`` and ``test`` where those are fixed."""
    group_column: str | None
    asvs: int
    reads: tuple[int, int, int] = Field(description="Fewest, median and most of a sample.")
    left_out: dict[str, int]
    """Samples that cannot be used, by reason."""

    @classmethod
    def of(
        cls,
        study: Study,
        sides: Mapping[str, Rows],
        target: TargetConfig | None = None,
        group_column: str | None = None,
    ) -> "Summary":
        """Count.

        Args:
            study: the samples.
            sides: rows of those that train, validate and test, where that is fixed.
            target: the columns to predict, if there are any.
            group_column: column of what is independent, if there is one.
        """
        metadata, depth = study.metadata, study.table.depth
        values = pd.DataFrame() if target is None or metadata is None else target_values(metadata, target)
        groups = None if group_column is None or metadata is None else categorical_column(metadata, group_column)
        used = {ALL: np.arange(study.table.n_samples)} | {name: rows for name, rows in sides.items() if len(rows)}

        def side(rows: Rows) -> Side:
            own = {str(name): Values.of(values[name].iloc[rows]) for name in values}
            return Side(samples=len(rows), groups=None if groups is None else groups.iloc[rows].nunique(), targets=own)

        left_out = {} if study.left_out is None else study.left_out["reason"].value_counts(sort=False).to_dict()
        return cls(
            sides={name: side(rows) for name, rows in used.items()},
            group_column=None if groups is None else group_column,
            asvs=study.table.n_asvs,
            reads=(int(depth.min()), int(np.median(depth)), int(depth.max())),
            left_out=left_out,
        )

    @classmethod
    def of_split(cls, study: Study, split: Split, config: PretrainConfig | TrainConfig) -> "Summary":
        """What a run with sides learns from."""
        sides = {"training": split.train, "validation": split.val, "test": split.test}
        target = config.target if isinstance(config, TrainConfig) else None
        return cls.of(study, sides, target, config.split.group_column)

    def table(self) -> str:
        """The summary as text."""
        used = list(self.sides.values())
        rows = [["samples", *(f"{side.samples:,}" for side in used)]]
        if self.group_column is not None:
            rows.append([f"groups ({self.group_column})", *(f"{side.groups:,}" for side in used)])
        for name in self.sides[ALL].targets:
            rows += _target_rows(name, [side.targets[name] for side in used])
        few, middle, many = self.reads
        lines = [
            text_table(["", *self.sides], rows),
            f"ASVs: {self.asvs:,}; reads of a sample: {few:,} to {many:,}, median {middle:,}",
            *(f"left out: {count:,} samples, {reason}" for reason, count in self.left_out.items()),
        ]
        return "\n".join(lines)


def _target_rows(name: str, sides: list[Values]) -> list[list[str]]:
    classes = sides[0].classes
    if classes is None:
        ends = ["none" if side.mean is None else f"{side.low:.4g} to {side.high:.4g}" for side in sides]
        means = ["none" if side.mean is None else f"{side.mean:.4g}" for side in sides]
        return [[f"{name}, from and to", *ends], [f"{name}, mean", *means]]
    rows = [[f"{name}, classes", *(str(len(side.classes or {})) for side in sides)]]
    frequent = sorted(classes, key=lambda one: (-classes[one], one))
    for each in frequent[:CLASSES_SHOWN]:
        rows.append([f"  {each}", *(f"{(side.classes or {}).get(each, 0):,}" for side in sides)])
    others = frequent[CLASSES_SHOWN:]
    if others:
        counts = [sum((side.classes or {}).get(each, 0) for each in others) for side in sides]
        rows.append([f"  {len(others)} other classes", *(f"{count:,}" for count in counts)])
    return rows


def say(summary: Summary) -> None:
    """Show the table."""
    logger.info("%s", summary.table())


def keep(summary: Summary, folder: RunFolder, lock: Lock = nullcontext) -> None:
    """Keep the summary with the provenance of the run."""
    note_data(folder, summary.model_dump(mode="json"), lock)

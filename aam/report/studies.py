"""The study of a run, read anew from the input files that its options name, and checked to be the same."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic import ValidationError

from aam.config import InputConfig, PhylogenyConfig, SamplingConfig, UnifracConfig
from aam.config.base import Section
from aam.config.study import DistanceConfig, TargetInputConfig
from aam.data.files.metadata import categorical_column
from aam.data.study import Study, load_study, select_samples
from aam.errors import InputError, first_ids

INPUTS: Final[Mapping[str, type[PhylogenyConfig]]] = {
    "pretrain": InputConfig,
    "train": TargetInputConfig,
    "evaluate": PhylogenyConfig,
}


@dataclass(frozen=True)
class NoStudy:
    """That the study of a run cannot be read."""

    reason: str


def load_run_study(kind: str, config: Mapping[str, Mapping[str, Any]], ids: Sequence[str] | None) -> Study | NoStudy:
    """Read the samples of a run from its input files.

    Args:
        kind: of the run.
        config: its options by section.
        ids: its samples, to which the study is cut; None where it is not known which they are.
    """
    try:
        inputs = section_of(INPUTS[kind], config.get("inputs", {}))
        unifrac = section_of(DistanceConfig, config.get("unifrac", {})) if kind == "pretrain" else UnifracConfig()
    except ValidationError:
        return NoStudy("its options are those of another version of aam")
    missing = [str(path) for path in (*inputs.table, inputs.metadata, inputs.tree) if path and not path.exists()]
    if missing:
        return NoStudy(f"these files are not where the run found them: {first_ids(missing)}")
    try:
        with said_already():
            study = load_study(inputs, SamplingConfig(), unifrac)
            return study if ids is None else _cut(study, ids)
    except InputError as error:
        return NoStudy(f"the files have changed: {error}")


def section_of(kind: type[Section], options: Mapping[str, Any]) -> Any:
    """A section of the options that this version of aam knows.

    Raises:
        ValidationError: one has a value that it does not know.
    """
    return kind.model_validate({name: value for name, value in options.items() if name in kind.model_fields})


def _cut(study: Study, ids: Sequence[str]) -> Study:
    """The samples of a run, in the table's order.

    Raises:
        InputError: some of them are not there.
    """
    wanted = set(ids)
    lost = wanted.difference(study.table.sample_ids)
    if lost:
        raise InputError(f"{len(lost)} of its {len(wanted)} samples are not there: {first_ids(sorted(lost))}")
    rows = np.flatnonzero([name in wanted for name in study.table.sample_ids])
    return select_samples(study, rows, "not used by the run")


def differing(metadata: pd.DataFrame, column: str, true: "pd.Series[Any]") -> int:
    """Of how many samples a column is not what a run wrote of it; of all where there is no such column."""
    if column not in metadata:
        return len(true)
    if pd.api.types.is_numeric_dtype(true.dtype):
        now = pd.to_numeric(metadata[column], errors="coerce").reindex(true.index)
        return int((~np.isclose(now.to_numpy(np.float64), true.to_numpy(np.float64))).sum())
    return int((categorical_column(metadata, column).reindex(true.index) != true).sum())


@contextmanager
def said_already() -> Iterator[None]:
    """Keep quiet about what the run said when it read the same files."""
    logger = logging.getLogger("aam.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

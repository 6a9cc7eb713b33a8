"""What `aam train` says of samples on different sides that know of one another."""

import logging
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from aam.config import SplitConfig, TrainConfig
from aam.data.files.metadata import categorical_column
from aam.data.files.whole_files import write_json
from aam.data.leakage.group_columns import role_of
from aam.data.leakage.guard import Finding, find_leakage
from aam.data.study import Study
from aam.errors import first_ids
from aam.training.run_folder import RunFolder
from aam.workflows.columns import Columns

logger = logging.getLogger(__name__)


def warn_of_leakage(columns: Columns, config: TrainConfig) -> list[Finding]:
    """Find what makes a split flatter a model, and say it; nothing is refused, as the split was asked for."""
    ids, split = columns.study.table.sample_ids, columns.split
    sides = {"train": split.train, "val": split.val, "test": split.test}
    of_sample = pd.Series({ids[row]: side for side, rows in sides.items() for row in rows}, dtype=object)
    found = find_leakage(columns.study, columns.values, config.split.group_column, of_sample, config.runtime.seed)
    divided = _divided_groups(columns.study, of_sample, config.split)
    if divided is not None:  # with the names of the groups, and without advice that was followed already
        found = [divided, *(one for one in found if (one.kind, one.column) != (divided.kind, divided.column))]
    for finding in found:
        logger.warning("%s", finding.text)
    return found


def _divided_groups(study: Study, sides: "pd.Series[str]", split: SplitConfig) -> Finding | None:
    """The groups that a given split puts on several sides, although they are to be kept together."""
    column = split.group_column
    if column is None or split.split_column is None:
        return None
    group = categorical_column(study.require_metadata(), column).loc[sides.index]
    count = sides.groupby(group.to_numpy(dtype=str)).nunique()
    divided = sorted(count.index[count > 1])
    if not divided:
        return None
    text = (
        f"--split-column {split.split_column} puts {len(divided)} of {len(count)} groups of {column} on several sides, "
        f"so that scores of validation and test flatter for new ones: {first_ids(divided)}"
    )
    return Finding("group", column, role_of(column), text, refuses=False)


def write_leakage(found: Sequence[Finding], folder: RunFolder) -> None:
    """Keep the findings in the folder of the run."""
    write_json(folder.leakage, {"findings": [asdict(finding) for finding in found]})

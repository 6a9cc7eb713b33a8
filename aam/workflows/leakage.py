"""What `aam train` says of samples on different sides that know of one another."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from aam.config import TrainConfig
from aam.data.leakage import Finding, find_leakage
from aam.data.whole_files import write_json
from aam.workflows.columns import Columns

logger = logging.getLogger(__name__)

FILE = "leakage.json"


def warn_of_leakage(columns: Columns, config: TrainConfig) -> list[Finding]:
    """Find what makes a split flatter a model, and say it; nothing is refused, as the split was asked for."""
    ids, split = columns.study.table.sample_ids, columns.split
    sides = {"train": split.train, "val": split.val, "test": split.test}
    of_sample = pd.Series({ids[row]: side for side, rows in sides.items() for row in rows}, dtype=object)
    found = find_leakage(columns.study, columns.values, config.split.group_column, of_sample, config.runtime.seed)
    for finding in found:
        logger.warning("%s", finding.text)
    return found


def write_leakage(found: Sequence[Finding], folder: Path) -> None:
    """Keep the findings in the folder of the run."""
    write_json(folder / FILE, {"findings": [asdict(finding) for finding in found]})

"""The samples that are predicted worst, each with the most similar others."""

from typing import Any, Final

import numpy as np
import pandas as pd

from aam.config import UnifracConfig
from aam.report.blocks import Block, Cell, Part, Table, Text, cell, shown
from aam.report.ordination import Compared, compare
from aam.report.predicted import Predicted, best_of, target_of
from aam.report.runs import Run
from aam.report.sections.data import gone
from aam.report.studies import NoStudy

WORST: Final = 10
NEIGHBOURS: Final = 3


def worst(run: Run) -> list[Part]:
    """A row for each of the worst samples: truth, prediction, depth, and its nearest samples with their values."""
    best = best_of(run)
    if best is None:
        return []
    by = "error" if best.number is not None else "log_loss"
    order = best.errors[by].sort_values(ascending=False, kind="stable").index[:WORST]
    ids = [str(name) for name in order]
    study = run.study
    if isinstance(study, NoStudy):
        return [Part([_table(best, ids, None, {}), gone(study)])]
    place = {name: row for row, name in enumerate(study.table.sample_ids)}
    rows = np.array([place[name] for name in ids])
    distances = run.compared
    if distances is None or not set(rows.tolist()) <= set(distances.rows.tolist()):
        distances = compare(study, UnifracConfig(), rows)
    values = {str(name): value for name, value in target_of(run, study)[best.column].items()}
    found = {name: _neighbours(distances, place[name], study.table.sample_ids, values) for name in ids}
    depth = dict(zip(study.table.sample_ids, study.table.depth.tolist(), strict=True))
    told: list[Block] = [Text(_told(best, distances))]
    return [Part([*told, _table(best, ids, depth, found)])]


def _told(best: Predicted, distances: Compared) -> str:
    among = f", sought in {distances.told}" if distances.told else ""
    return (
        f"The worst predictions of {best.learner}, with the nearest other samples by {distances.name}{among}. Where "
        "these have the predicted value, look for a swapped label or a sample unlike the others of its kind."
    )


def _neighbours(distances: Compared, row: int, ids: tuple[str, ...], values: dict[str, Any]) -> str:
    """Nearest samples: id, value, distance."""
    own = int(np.flatnonzero(distances.rows == row)[0])
    order = [place for place in np.argsort(distances.matrix[own], kind="stable") if place != own][:NEIGHBOURS]
    named = [(ids[distances.rows[place]], distances.matrix[own, place]) for place in order]
    return "; ".join(f"{name}: {_value(values.get(name))} ({distance:.2f})" for name, distance in named)


def _value(value: Any) -> str:
    if value is None or pd.isna(value):
        return "no value"
    return shown(value) if isinstance(value, float) else str(value)


def _table(best: Predicted, ids: list[str], depth: dict[str, int] | None, found: dict[str, str]) -> Table:
    place = {name: row for row, name in enumerate(best.ids)}
    columns = ["sample", "true", "predicted"]
    columns += ["group"] if best.grouped else []
    columns += ["reads", "nearest samples: value (distance)"] if depth is not None else []
    rows = []
    for name in ids:
        row = place[name]
        cells = [Cell(name), cell(best.true[row]), cell(best.guess[row])]
        cells += [Cell(str(best.groups[row]))] if best.grouped else []
        rows.append([*cells, cell(depth[name]), Cell(found[name])] if depth is not None else cells)
    return Table(columns, rows, f"The {len(ids)} worst of {len(best.ids):,} samples")

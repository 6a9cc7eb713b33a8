"""Predictions of samples that were not learned from, as the sections of a report read them.

Shapes: n samples, C classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.data.files.metadata import categorical_column, numeric_column
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.error_analysis import class_errors, number_errors
from aam.evaluation.intervals import Floats
from aam.evaluation.variants import RAREFIED
from aam.evaluation.verdict import NO_MODEL
from aam.report.runs import Run
from aam.report.studies import NoStudy
from aam.training.run_folder import SIDES

PROBABILITY: Final = "probability_"
LEAST_SAMPLES: Final = 3
"""Samples below which nothing is drawn of predictions."""
SIDE_NAMES: Final = {"val": "validation samples", "test": "test samples"}


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of one column by one learner."""

    learner: str
    column: str
    what: str
    """Which samples these are."""
    ids: tuple[str, ...]
    true: NDArray[Any]
    """Numbers, or names of classes [n]."""
    number: Floats | None
    """Predicted numbers [n]; None of classes."""
    probability: pd.DataFrame | None
    """Of each class, by name [n, C]; None of numbers."""
    groups: NDArray[np.str_]
    """What is independent, of each sample [n]: a group or the sample itself."""
    grouped: bool
    """Whether groups are more than samples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are predicted; empty of numbers."""
        return () if self.probability is None else tuple(map(str, self.probability.columns))

    @cached_property
    def guess(self) -> NDArray[Any]:
        """The predicted number, or the likeliest class [n]."""
        if self.probability is None:
            assert self.number is not None
            return self.number
        likeliest: NDArray[Any] = np.array(self.classes, dtype=object)[self.probability.to_numpy().argmax(axis=1)]
        return likeliest

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Errors by sample id; see `number_errors` and `class_errors`. A class that is unknown to the fit is wrong."""
        if self.probability is None:
            assert self.number is not None
            errors = number_errors(self.true.astype(np.float64), self.number)
        else:
            # a column of zeros for true classes without a training sample
            padded = self.probability.assign(**dict.fromkeys(set(self.true) - set(self.classes), 0.0))
            places = padded.columns.get_indexer(pd.Index(self.true))
            errors = class_errors(places, padded.to_numpy(np.float64))
        return errors.set_axis(list(self.ids))


def predictions_of(run: Run) -> list[Predicted]:
    """Predictions of held-out samples: of each learner of an evaluation, or of each side and column of a training."""
    if run.kind == "evaluate":
        return list(_of_evaluation(run))
    return list(_of_training(run)) if run.kind == "train" else []


def best_of(run: Run) -> Predicted | None:
    """The predictions to look into: of the best learner that looks at ASVs, or of test samples before validation."""
    found = [one for one in predictions_of(run) if len(one.ids) >= LEAST_SAMPLES]
    if run.kind != "evaluate":
        return found[-1] if found else None
    document = run.document(run.folder.evaluation)
    assert document is not None
    by_name = {one.learner: one for one in found}
    order = [document.get("to_train"), document.get("best"), *ranking(run), *by_name]
    return next((by_name[name] for name in order if name in by_name and name not in NO_MODEL), None)


def ranking(run: Run) -> list[str]:
    """Learners of an evaluation from the best to the worst, by the main score of the predictions that are judged."""
    scores = run.table(run.folder.scores(judged(run)), ("learner", "metric"))
    if scores is None:
        return []
    main = scores[scores["metric"] == scores["metric"].iloc[0]]
    return list(main.sort_values("value", ascending=False, kind="stable")["learner"])


def judged(run: Run) -> str:
    """End of the names of the tables that the verdict is about: of rarefied counts, where depth misleads."""
    end = f"_{RAREFIED}"
    return end if run.folder.predictions(end).exists() else ""


def _of_evaluation(run: Run) -> Iterator[Predicted]:
    table = run.table(run.folder.predictions(judged(run)), _text_columns(run))
    folds = run.table(run.folder.fold_table, ("sample_id", "group"))
    if table is None or folds is None:
        raise InputError(f"{run.folder} lacks the predictions of its evaluation: continue it with --resume")
    groups = folds.drop_duplicates("sample_id").set_index("sample_id")
    what = f"samples that were held out{', with as many reads of each' if judged(run) else ''}"
    for learner, part in table.groupby("learner", sort=False):
        probabilities = [name for name in part if str(name).startswith(PROBABILITY)]
        means = part.groupby("sample_id")[probabilities or ["prediction"]].mean()
        true = part.drop_duplicates("sample_id").set_index("sample_id")["true"].loc[means.index]
        own = groups["group"].loc[means.index] if "group" in groups else pd.Series(means.index, index=means.index)
        own = own.where(own.notna(), pd.Series(means.index, index=means.index))
        yield _predicted(str(learner), run.columns[0], what, means, true, own)


def _of_training(run: Run) -> Iterator[Predicted]:
    learner = run.config["choice"].get("learner", "neural")
    columns = run.columns
    for column in columns:
        end = f"_{column}" if len(columns) > 1 else ""
        for side in SIDES:
            table = run.table(run.folder.side_predictions(side), _text_columns(run))
            if table is None:
                continue
            table = table.set_index("sample_id")
            table = table[table[f"true{end}"].notna()]
            probabilities = [name for name in table if str(name).startswith(PROBABILITY)]
            values = table[probabilities or [f"prediction{end}"]]
            groups = _groups(run, values.index)
            yield _predicted(learner, column, SIDE_NAMES[side], values, table[f"true{end}"], groups)


def _text_columns(run: Run) -> tuple[str, ...]:
    classes = bool(run.config["target"].get("classifier"))
    return ("sample_id", "learner", *(("true", "prediction") if classes else ()))


def _groups(run: Run, ids: "pd.Index[str]") -> "pd.Series[str]":
    """Groups of a training's samples, from its metadata; the samples themselves where these are not there."""
    names = pd.Series(ids, index=ids, dtype=object)
    if run.group_column is None or isinstance(run.study, NoStudy) or run.study.metadata is None:
        return names
    own = categorical_column(run.study.metadata, run.group_column).reindex(ids)
    return own.where(own.notna(), names)


def _predicted(
    learner: str, column: str, what: str, values: pd.DataFrame, true: "pd.Series[Any]", groups: "pd.Series[str]"
) -> Predicted:
    ids = tuple(map(str, values.index))
    is_classes = str(values.columns[0]).startswith(PROBABILITY)
    names = groups.to_numpy(dtype=np.str_)
    return Predicted(
        learner,
        column,
        what,
        ids,
        true.to_numpy(dtype=object) if is_classes else true.to_numpy(dtype=np.float64),
        None if is_classes else values.iloc[:, 0].to_numpy(dtype=np.float64),
        values.rename(columns=lambda name: str(name).removeprefix(PROBABILITY)) if is_classes else None,
        names,
        len(set(names)) < len(ids),
    )


def target_of(run: Run, study: Study) -> Mapping[str, "pd.Series[Any]"]:
    """Values of the columns that a run predicts, by sample id, without missing ones.

    Raises:
        InputError: the metadata have no such column any more.
    """
    assert study.metadata is not None
    read = categorical_column if run.config["target"].get("classifier") else numeric_column
    return {name: read(study.metadata, name).dropna() for name in run.columns}

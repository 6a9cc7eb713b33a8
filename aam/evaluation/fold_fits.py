"""The work of an evaluation: all learners fitted to the training samples of one fold, and what they predict.

Shapes: m held-out samples, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from aam.data.files.counts import Counts
from aam.data.study import Study
from aam.errors import InputError
from aam.evaluation.choice import Solved, solve_chosen
from aam.evaluation.schemes import Fold, Rows
from aam.learners.base import Fitted, Floats, Labels, Learner, Output, Predictions, Problem, Solution, pose
from aam.learners.rarefied import mean_output
from aam.learners.simple import NullLearner
from aam.learners.unseen import calibrate

OF_THE_SAMPLE = ("depth", "batch")
"""Learners on what is known of a sample besides its reads; they see all reads where the others see a rarefaction."""
Mask = NDArray[np.bool_]
OutputTable = dict[str, list[Any]]
"""Columns of a learner's predictions in a fold, as JSON: prediction, and spread or probability_CLASS, and low and high
or set, where there are such."""
NO_INTERVAL: Final[Mapping[str, float | str]] = {"low": np.nan, "high": np.nan, "set": ""}
"""Columns of intervals, and what they hold where there is none."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to look at the samples."""

    name: str
    """``main``, ``rarefied`` or ``random``: the end of the names of its files."""
    study: Study
    """All reads."""
    draws: tuple[Study, ...]
    """What learners see, rows as those of `study`: they are fitted to the first, and predictions are averaged."""
    labels: Labels
    folds: tuple[Fold, ...]
    seed: int
    drop_unseen: bool = False
    """Whether ASVs that no training sample holds are dropped from the held-out ones."""
    depth: int | None = None
    """Reads of every sample in the draws; None for all reads."""
    level: float | None = None
    """Probability that an interval is to hold the true value; None for no intervals."""


@dataclass(frozen=True)
class FoldResult:
    """Predictions of one fold."""

    variant: str
    repeat: int
    fold: int
    sample_id: list[str]
    learners: dict[str, OutputTable]
    empty: list[str]
    """Samples without a read of an ASV that training knows; their prediction is that of the null learner."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Which options a learner was fitted with, where there was a choice."""


def fit_fold(
    variant: Variant,
    fold: Fold,
    learners: Mapping[str, Learner],
    done: Callable[[str, Fitted], object] | None = None,
) -> FoldResult:
    """Fit all learners to the training samples of a fold, each with one thread, and predict the others.

    Args:
        variant: the samples.
        fold: which of them are held out; their values of the target are removed.
        learners: by name; those that combine others come after these.
        done: called for every learner that is done, with its name and what it has learned.

    Raises:
        InputError: a learner cannot learn from these samples.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return _fit_fold(variant, fold, learners, done or (lambda _name, _fitted: None))
    finally:
        torch.set_num_threads(before)


def _fit_fold(
    variant: Variant, fold: Fold, learners: Mapping[str, Learner], done: Callable[[str, Fitted], object]
) -> FoldResult:
    labels = without_values(variant.labels, fold.held_out)
    targets, (problem,) = pose(variant.draws[0], fold.train, labels, variant.seed + fold.repeat)
    held_out, empty = held_out_studies(variant, fold)
    metadata = held_out[0].metadata
    assert metadata is not None
    solved: dict[str, Solved] = {}
    tables: dict[str, OutputTable] = {}
    chosen: dict[str, str] = {}
    guess = NullLearner().solve(problem).value
    for name, learner in learners.items():
        of_sample = name in OF_THE_SAMPLE
        own = replace(problem, study=variant.study) if of_sample else problem
        found, options = _solve(name, learner, own, solved, fold)
        chosen |= options
        studies, without = (held_out[:1], np.zeros_like(empty)) if of_sample else (held_out[1:], empty)
        output = _predict(found.solution, studies, without, guess)
        if variant.level is not None:
            calibrate(found.learner, found.solution, own)
        if not of_sample:
            solved[name] = found
        predictions = Predictions(targets, (output,), (found.solution.conformity,))
        tables[name] = _columns(predictions.table(metadata, variant.level), without)
        done(name, Fitted(found.learner.name, targets, (found.solution,)))
    ids = [variant.study.table.sample_ids[row] for row in fold.held_out]
    guessed = [ids[at] for at in np.flatnonzero(empty)]
    return FoldResult(variant.name, fold.repeat, fold.number, ids, tables, guessed, chosen)


def sendable(variant: Variant, with_branches: bool) -> Variant:
    """The variant as other processes can receive it: counts that lie in nameless files are copied into memory.

    Args:
        variant: the samples.
        with_branches: whether proportions of branches are needed, to be computed once and not by every process.
    """
    copies: dict[int, Study] = {}
    for study in (variant.study, *variant.draws):
        if id(study) not in copies:
            copies[id(study)] = _in_memory(study)
    draws = tuple(copies[id(study)] for study in variant.draws)
    for study in draws if with_branches else ():
        _ = study.branch_proportions  # is kept, and goes with the study
    return replace(variant, study=copies[id(variant.study)], draws=draws)


def _in_memory(study: Study) -> Study:
    counts = study.table.counts
    if not _is_mapped(counts.data):
        return study
    parts = (np.array(counts.data), np.array(counts.indices), counts.indptr)
    copied: Counts = sparse.csr_array(parts, shape=counts.shape)
    copied.has_canonical_format = True
    return replace(study, table=replace(study.table, counts=copied))


def _is_mapped(array: object) -> bool:
    """Whether an array is a view of a mapped file, at however many removes."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def without_values(labels: Labels, rows: Rows) -> Labels:
    """The labels without the values of some samples."""
    values = labels.values.copy()
    values.iloc[rows] = None if labels.config.classifier else np.nan
    return replace(labels, values=values)


def _solve(
    name: str, learner: Learner, problem: Problem, solved: Mapping[str, Solved], fold: Fold
) -> tuple[Solved, dict[str, str]]:
    try:
        found, chosen = solve_chosen(learner, problem, solved)
    except InputError as error:
        raise InputError(f"{name} in fold {fold.name}: {error}") from None
    own = learner.name
    return found, {name if of == own else of: options for of, options in chosen.items()}


def held_out_studies(variant: Variant, fold: Fold) -> tuple[list[Study], Mask]:
    """The held-out samples alone: with all reads, then each draw; and which of them have no read in the first draw."""
    studies = [of_rows(variant.study, fold.held_out), *(of_rows(draw, fold.held_out) for draw in variant.draws)]
    if not variant.drop_unseen:
        return studies, np.zeros(len(fold.held_out), dtype=bool)
    seen = np.asarray(variant.draws[0].table.counts[fold.train].sum(axis=0)).ravel() > 0
    known = [studies[0], *(with_asvs(study, seen) for study in studies[1:])]
    return known, np.any([study.table.depth == 0 for study in known[1:]], axis=0)


def of_rows(study: Study, rows: Rows) -> Study:
    """Some samples of a study; ASVs and tree stay as they are, and so do proportions that were computed already."""
    metadata = None if study.metadata is None else study.metadata.iloc[rows]
    none = study.left_out.iloc[:0]
    part = replace(study, table=study.table.select_samples(rows), metadata=metadata, matrix=None, left_out=none)
    for name in ("branch_proportions", "asv_proportions"):
        if name in vars(study):
            vars(part)[name] = vars(study)[name][rows]
    return part


def with_asvs(study: Study, kept: Mask) -> Study:
    """The study without the reads of some ASVs, whose columns stay; proportions are of what is left."""
    counts: Counts = study.table.counts.copy()
    counts.data = np.where(kept[counts.indices], counts.data, 0)
    counts.eliminate_zeros()
    return replace(study, table=replace(study.table, counts=counts))


def _predict(solution: Solution, draws: Sequence[Study], empty: Mask, guess: Floats) -> Output:
    """The mean over draws, as of `mean_output`; empty samples get the guess, and no spread."""
    rows = np.flatnonzero(~empty)
    value = np.broadcast_to(guess, (len(empty), *guess.shape)).copy()
    if not len(rows):
        return Output(value)
    mean = mean_output([solution.predict(draw, rows) for draw in draws])
    value[rows] = mean.value
    if mean.spread is None:
        return Output(value)
    spread = np.full(len(empty), np.nan)
    spread[rows] = mean.spread
    return Output(value, spread)


def _columns(table: pd.DataFrame, empty: Mask) -> OutputTable:
    """The columns of a table; samples without a read that is known have no interval."""
    for name, nothing in NO_INTERVAL.items():
        if name in table:
            table.loc[empty, name] = nothing
    return {str(name): table[name].tolist() for name in table.columns}

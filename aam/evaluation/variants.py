"""The ways to look at the samples of an evaluation: all reads or rarefied ones, folds of groups or at random."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from aam.config.evaluate import EvaluateConfig, FoldsConfig
from aam.data.study import Study, select_samples
from aam.errors import InputError, first_ids
from aam.evaluation.fold_fits import Variant
from aam.evaluation.schemes import Fold, Samples, draw_folds, group_values, plan_folds
from aam.learners.base import Labels
from aam.learners.rarefied import Rarefaction, auto_depth

logger = logging.getLogger(__name__)

MAIN: Final = "main"
RAREFIED: Final = "rarefied"
RANDOM: Final = "random"


def samples_of(study: Study, labels: Labels) -> Samples:
    """What folds depend on."""
    (column,) = labels.values.columns
    classes = labels.values[column].to_numpy(dtype=np.str_) if labels.config.classifier else None
    return Samples(study.table.sample_ids, classes, labels.groups)


def deep_samples(study: Study, labels: Labels, depth: int) -> tuple[Study, Labels]:
    """Leave out samples with fewer reads than the sampling depth.

    Raises:
        InputError: that leaves fewer than two.
    """
    reads = study.table.depth
    rows = np.flatnonzero(reads >= depth)
    if len(rows) < 2:
        raise InputError(
            f"--rarefy-depth {depth}: {len(rows)} of {len(reads)} samples have so many reads (the deepest has "
            f"{reads.max()}, the median {int(np.median(reads))}); give less, or auto"
        )
    study = select_samples(study, rows, f"fewer reads than the sampling depth {depth}")
    groups = None if labels.groups is None else labels.groups[rows]
    weight = None if labels.weight is None else labels.weight[rows]
    return study, replace(labels, values=labels.values.iloc[rows], groups=groups, weight=weight)


def plan_main(study: Study, labels: Labels, config: EvaluateConfig) -> Variant:
    """The evaluation as the options ask for it.

    Raises:
        InputError: the samples cannot be divided so, or no sample is deep enough.
    """
    labels = _grouped(study, labels, config.folds.fold_column)
    depth = config.counts.rarefy_depth
    number = auto_depth(study.table.depth) if depth == "auto" else depth
    if number is not None:
        study, labels = deep_samples(study, labels, number)
    seed = config.comparison.seed
    metadata = study.metadata if study.metadata is not None else pd.DataFrame(index=list(study.table.sample_ids))
    folds = tuple(plan_folds(samples_of(study, labels), metadata, config.folds, seed))
    drop = config.counts.unseen_asvs == "drop"
    level = config.intervals.interval
    main = Variant(MAIN, study, (study,), labels, folds, seed, drop, level=level)
    return main if number is None else _drawn(main, number, config)


def _grouped(study: Study, labels: Labels, fold_column: str | None) -> Labels:
    """Labels whose groups are the folds that a column gives, where no others are named: studies, say."""
    if fold_column is None or labels.groups is not None or study.metadata is None:
        return labels
    return replace(labels, groups=group_values(study.metadata, fold_column, "--fold-column"))


def plan_random(main: Variant, config: EvaluateConfig) -> Variant:
    """As many folds of single samples, whatever their group."""
    per_repeat = max(fold.number for fold in main.folds)
    samples = samples_of(main.study, main.labels)
    few = samples.classes is not None and np.unique(samples.classes, return_counts=True)[1].min() < per_repeat
    alike = samples.classes is not None and not few
    drawn = FoldsConfig(folds=per_repeat, repeats=config.folds.rounds)
    folds = draw_folds(samples, "stratified" if alike else "kfold", drawn, main.seed)
    return replace(main, name=RANDOM, folds=_without_unseen_classes(folds, samples, "random split"))


def rarefied(main: Variant, config: EvaluateConfig) -> Variant:
    """The same folds, of the samples that have the automatic sampling depth, with as many reads of each."""
    depth = auto_depth(main.study.table.depth)
    kept = main.study.table.depth >= depth
    study, labels = deep_samples(main.study, main.labels, depth)
    folds = (fold.within(kept) for fold in main.folds)
    filled = _without_unseen_classes(folds, samples_of(study, labels), f"{depth} reads of every sample")
    return _drawn(replace(main, name=RAREFIED, study=study, labels=labels, folds=filled), depth, config)


def _without_unseen_classes(folds: Iterable[Fold], samples: Samples, what: str) -> tuple[Fold, ...]:
    """Folds without held-out samples of classes that no training sample has, saying so; none that is empty then."""
    kept = []
    left_out: set[int] = set()
    for fold in folds:
        known = np.ones(len(fold.held_out), dtype=bool)
        if samples.classes is not None:
            known = np.isin(samples.classes[fold.held_out], samples.classes[fold.train])
        left_out |= set(fold.held_out[~known].tolist())
        if len(fold.train) and known.any():
            kept.append(replace(fold, held_out=fold.held_out[known]))
    if left_out:
        logger.warning(
            "%s: %d samples are not predicted in folds whose training samples have none of their class: %s",
            *(what, len(left_out), first_ids(samples.ids[row] for row in sorted(left_out))),
        )
    return tuple(kept)


def _drawn(variant: Variant, depth: int, config: EvaluateConfig) -> Variant:
    """What learners see: several draws of so many reads of each sample, those that `aam train` would take."""
    drawn = Rarefaction(depth=depth, draws=config.counts.rarefy_draws, seed=variant.seed).drawn(variant.study)
    return replace(variant, draws=tuple(drawn), depth=depth)

"""What `aam train` learns of the metadata columns before any model: sides, scales, classes, categories, weights."""

import logging
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from aam.config import TrainConfig
from aam.data.arrays import Floats, Texts
from aam.data.categorical import CategoryEncoder
from aam.data.labels.loss_weights import CategoryWeights
from aam.data.labels.target_table import Targets, target_values
from aam.data.sampling.splits import Split, split_samples
from aam.data.study import Study, select_samples
from aam.errors import InputError

logger = logging.getLogger(__name__)

FEW_LEVELS: Final = 5
"""Different whole numbers in a column that may stand for classes."""


class Columns(NamedTuple):
    """What training samples say of the metadata columns of a run."""

    study: Study
    """The samples with a target."""
    values: pd.DataFrame
    """[samples, T]."""
    split: Split
    targets: Targets
    categories: CategoryEncoder | None
    weights: CategoryWeights | None

    def sample_weights(self, config: TrainConfig) -> Floats:
        """How much every sample counts, by its class and by its categories; 1 where neither is weighed [samples]."""
        weights = _class_weights(self.targets, self.values, self.split, config)
        return weights if self.weights is None else weights * self.weights.of(self.study.require_metadata())


def learn_columns(study: Study, config: TrainConfig) -> Columns:
    """Split the samples, and fit targets, categories and weights to those of training; takes no time.

    Raises:
        InputError: a column or the split cannot be used.
    """
    columns = config.target.metadata_column
    values = target_values(study.require_metadata(), config.target)
    known = np.flatnonzero(values.notna().any(axis=1).to_numpy())
    study = select_samples(study, known, f"no value of {' or '.join(columns)}")
    values, metadata = values.iloc[known], study.require_metadata()
    strata = _strata(values, config)
    split = split_samples(study.table.sample_ids, metadata, config.split, config.runtime.seed, strata)
    if not len(split.train) or (not len(split.val) and config.split.val_fraction > 0):
        raise InputError("the split leaves no samples to train on or none to validate; use another --val-fraction")
    targets = Targets.fit(values, metadata, split.train, config.target)
    targets.warn_of_others(metadata)
    _hint_at_kind(targets, values.iloc[split.train])
    categories = CategoryEncoder.fit(metadata, split.train, config.categories, columns)
    weights = CategoryWeights.fit(metadata, split.train, config.weights, columns)
    return Columns(study, values, split, targets, categories, weights)


def _hint_at_kind(targets: Targets, values: pd.DataFrame) -> None:
    """Say where classes look like numbers, or numbers like classes."""
    for column in targets.columns:
        levels = values[column.name].dropna().unique()
        if column.classes is None:
            if len(levels) <= FEW_LEVELS < len(values) and all(float(level).is_integer() for level in levels):
                text = "%s has %d whole numbers only: if they stand for classes, give --classifier"
                logger.info(text, column.name, len(levels))
        elif len(levels) > 2 and not pd.to_numeric(pd.Series(levels), errors="coerce").isna().any():
            text = "the %d classes of %s are all numbers: without --classifier their order counts too"
            logger.info(text, len(levels), column.name)


def _strata(values: pd.DataFrame, config: TrainConfig) -> list[str] | None:
    """The class of every sample, where the sides are to have the same fraction of each."""
    if config.split.stratify and not config.target.classifier:
        raise InputError("--stratify gives every side the same fraction of every class: it needs --classifier")
    if not config.target.classifier or config.split.stratify is False:
        return None
    return list(values[config.target.metadata_column[0]])


def _class_weights(targets: Targets, values: pd.DataFrame, split: Split, config: TrainConfig) -> Floats:
    """Weight of every sample by its class, 1 where classes are not weighed: [samples]."""
    weights, kind = np.ones(len(values)), config.weights.class_weights
    if kind == "none":
        return weights
    classes, labels = targets.only.require_classes(), values[targets.only.name]
    of_train = list(labels.iloc[split.train])
    if kind == "balanced":
        of_class = classes.balanced_weights(of_train)
    elif kind == "effective":
        of_class = classes.effective_weights(of_train, config.weights.effective_beta)
    else:
        of_class = classes.given_weights(kind)
    used = np.concatenate([split.train, split.val])
    weights[used] = of_class[classes.encode(list(labels.iloc[used]))]
    named = ", ".join(f"{name} {w:.3g}" for name, w in zip(classes.classes, of_class, strict=True))
    logger.info("class weights: %s", named)
    return weights


def groups_of(study: Study, column: str | None) -> Texts | None:
    """Group of each sample of a study by a column of its metadata, None where every sample is its own."""
    return None if column is None else study.require_metadata()[column].to_numpy(dtype=np.str_)

"""What `aam evaluate` checks before the work, and how it knows the same evaluation again."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import EvaluateConfig
from aam.data.files.metadata import categorical_column
from aam.data.leakage.guard import Finding, find_leakage
from aam.data.study import Study, digest
from aam.errors import InputError, first_ids
from aam.evaluation.fold_fits import Variant, without_values
from aam.evaluation.schemes import BY_SAMPLE, check_classes
from aam.evaluation.variants import samples_of
from aam.learners.base import Learner, pose
from aam.workflows.candidates import read_options


def check_plan(variants: Sequence[Variant], config: EvaluateConfig) -> None:
    """Refuse, before any work, what no fold can learn from.

    Raises:
        InputError: the target is constant, in all samples or in the training samples of a fold; or a batch column is
            the target by another name.
    """
    main = variants[0]
    pose(main.study, np.arange(main.study.table.n_samples), main.labels, main.seed)
    for variant in variants:
        check_folds(variant)
    for column in config.comparison.batch_column:
        _check_batch(main, column)


def check_folds(variant: Variant) -> None:
    """Refuse a fold from whose training samples nothing can be learned, or not what is held out.

    Raises:
        InputError: the target is constant in them, say, or they lack a class.
    """
    if not variant.folds:
        raise InputError("no fold has both training samples and samples to predict")
    samples = samples_of(variant.study, variant.labels)
    for fold in variant.folds:
        check_classes(fold, samples)
        try:
            pose(variant.study, fold.train, without_values(variant.labels, fold.held_out), variant.seed)
        except InputError as error:
            raise InputError(f"fold {fold.name} cannot be learned from its training samples: {error}") from None


def _check_batch(variant: Variant, column: str) -> None:
    values = categorical_column(variant.study.require_metadata(), column).fillna("")
    if values.nunique() < 2:
        raise InputError(
            f"--batch-column {column} has one value, '{values.iloc[0]}', which tells nothing: leave it out"
        )
    (target,) = variant.labels.values.columns
    truth = variant.labels.values[target].astype(str)
    pairs = pd.DataFrame({"batch": values.to_numpy(), "true": truth.to_numpy()}).drop_duplicates()
    if len(pairs) == pairs["batch"].nunique() == pairs["true"].nunique():
        raise InputError(
            f"--batch-column {column} is {target} by another name: every value of one has one of the other"
        )


def leakage(main: Variant, config: EvaluateConfig) -> list[Finding]:
    """What lies on both sides of a fold and makes learners look better than they are for new groups.

    Raises:
        InputError: the split is a random one over subjects, sites or studies that were sampled repeatedly.
    """
    labels, ids = main.labels, main.study.table.sample_ids
    sides = pd.Series({ids[row]: fold.name for fold in main.folds if fold.repeat == 1 for row in fold.held_out})
    if len(main.folds) == 1:
        sides = pd.concat([sides, pd.Series("train", index=[ids[row] for row in main.folds[0].train])])
    column = config.folds.group_column
    found = find_leakage(main.study, labels.values, column, sides, main.seed)
    folds = config.folds
    drawn = folds.fold_column is None and folds.test_column is None
    if folds.allow_random_split or not drawn:
        return found
    if folds.scheme(labels.config.classifier) in BY_SAMPLE:
        _refuse_divided(main, config)
        refused = next((finding for finding in found if finding.refuses), None)
        if refused is not None:
            raise InputError(f"{refused.text.rstrip('.')}, or give --allow-random-split and mistrust the scores")
    return found


def _refuse_divided(main: Variant, config: EvaluateConfig) -> None:
    """Refuse a random split over the groups that the user has named."""
    groups = main.labels.groups
    if groups is None:
        return
    names, sizes = np.unique(groups, return_counts=True)
    if (sizes > 1).any():
        raise InputError(
            f"--cv {config.folds.cv} would divide groups of several samples ({first_ids(names[sizes > 1])}), so that "
            "learners know them: leave it out to hold out whole groups, or give --allow-random-split"
        )


def check_inputs(learner: Learner, study: Study, target: str) -> None:
    """Refuse a learner that reads what it is to predict, or that cannot use a column that it reads.

    Raises:
        InputError: so it is.
    """
    if target in learner.metadata_columns:
        raise InputError(
            f"--categorical-hierarchy or --configs make {learner.name} read {target}: that is the column to predict, "
            "unknown of new samples; leave it out"
        )
    learner.check(study)


def fingerprint(
    variants: Sequence[Variant], config: EvaluateConfig, encoder: str = "", columns: Iterable[str] = ()
) -> str:
    """Hash of all that results depend on, to know the same evaluation again when it is resumed.

    Args:
        variants: the samples.
        config: the options.
        encoder: hash of the weights of a pretrained encoder.
        columns: of the metadata, from which learners learn.
    """
    places = {"pretrained_encoder", "embedding_cache"}
    options = config.model_dump_json(exclude={"inputs": True, "output": True, "tracking": True, "finetune": places})
    parts: list[str | NDArray[np.int64]] = [options, encoder, *map(str, map(read_options, config.comparison.configs))]
    for variant in variants:
        labels = variant.labels
        parts += [f"{key}={value}" for key, value in variant.study.fingerprint().items()]
        parts.append(labels.values.to_csv())
        parts.append("" if labels.groups is None else "\n".join(labels.groups.tolist()))
        parts += [part for fold in variant.folds for part in (fold.name, fold.train, fold.held_out)]
        for column in (*config.comparison.batch_column, *columns):
            parts.append(categorical_column(variant.study.require_metadata(), column).to_csv())
    return digest(parts)

"""An evaluation whose fitted folds were kept, read again to be explained: the same samples, folds and models."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from aam.config import EvaluateConfig, ExplainConfig, PhylogenyConfig, flag
from aam.data.labels.taxonomy import read_taxonomy
from aam.data.study import Study, with_taxonomy
from aam.errors import InputError, first_ids
from aam.evaluation.fold_fits import Variant
from aam.evaluation.fold_models import NOT_KEPT, FoldModels
from aam.evaluation.fold_store import FoldStore
from aam.interpret.kept_folds import KeptFold
from aam.learners.base import Fitted
from aam.training.checkpoints.store import read_checkpoint
from aam.training.run_folder import RunFolder
from aam.workflows.candidates import compared_learners
from aam.workflows.evaluate import load_labelled, planned_variants, print_of
from aam.workflows.makers import read_learner


@dataclass(frozen=True, eq=False)
class ExplainedEvaluation:
    """What `aam evaluate` left, and the study that it was of."""

    folder: RunFolder
    config: EvaluateConfig
    variant: Variant
    """The samples and folds of the main table."""
    study: Study
    """What learners saw of the samples, with the taxonomy where one is given."""

    @classmethod
    def open(cls, explained: ExplainConfig) -> Self:
        """Read the options of an evaluation and its study, in whose place others may be given.

        Raises:
            InputError: the folder is no evaluation, or the files are not those that it was of.
        """
        path = explained.trained.evaluation
        assert path is not None
        config = _read_config(path)
        config = config.model_copy(update={"inputs": _inputs(config.inputs, explained.inputs, path)})
        study, labels = load_labelled(config)
        variants = planned_variants(study, labels, config)
        folder = RunFolder(path)
        _check_same(folder, variants[0], print_of(variants, config, compared_learners(config, study)))
        seen = variants[0].draws[0]
        taxonomy = explained.importance.taxonomy
        return cls(
            folder, config, variants[0], seen if taxonomy is None else with_taxonomy(seen, read_taxonomy(taxonomy))
        )

    @property
    def column(self) -> str:
        """The column that is predicted."""
        return self.config.target.column

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Number of the group of each sample."""
        groups = self.variant.labels.groups
        if groups is None:
            return np.arange(self.study.table.n_samples)
        return np.unique(groups, return_inverse=True)[1].astype(np.int64)

    def folds_of(self, learner: str) -> list[KeptFold]:
        """The kept folds of a learner.

        Raises:
            InputError: it was not compared, or what it has learned was not kept.
        """
        names = [name for name in self.config.names if name not in NOT_KEPT]
        if learner not in names:
            why = "of which nothing is kept" if learner in self.config.names else "which was not compared"
            raise InputError(f"--learner {learner}, {why} in {self.folder}: give one of {', '.join(names)}")
        models = FoldModels.of(self.folder)
        folds = [fold.name for fold in self.variant.folds]
        missing = [name for name in folds if not models.path(self.variant.name, name, learner).exists()]
        if missing:
            raise InputError(
                f"--evaluation {self.folder} holds no model of {learner} for folds {first_ids(missing)}: continue it "
                "with aam evaluate --resume --keep-models"
            )
        return KeptFold.all_of(self.variant, lambda name: models.path(self.variant.name, name, learner))


def read_fitted(path: Path) -> Fitted:
    """What a learner of a fold has learned."""
    return read_learner(read_checkpoint(path)).fitted


def _read_config(path: Path) -> EvaluateConfig:
    folder = RunFolder(path)
    if not path.is_dir():
        raise InputError(f"--evaluation {path}: no such folder; give the output folder of aam evaluate --keep-models")
    try:
        config = EvaluateConfig.model_validate_json(folder.config.read_bytes())
    except (FileNotFoundError, ValidationError):
        raise InputError(
            f"--evaluation {path} is no output folder of aam evaluate, or of another version of aam "
            f"({folder.config.name} is missing or differs)"
        ) from None
    if not folder.models.is_dir():
        raise InputError(
            f"--evaluation {path} kept no models: continue it with the same options, --resume and --keep-models"
        )
    return config


def _inputs(stored: PhylogenyConfig, given: PhylogenyConfig, path: Path) -> PhylogenyConfig:
    """The files of the evaluation, but for those that are given.

    Raises:
        InputError: a file is not where it was, and no other is given.
    """
    changes = {name: value for name, value in given if value != type(given).model_fields[name].default}
    inputs = stored.model_copy(update=changes)
    for option, file in _files(inputs):
        if option not in changes and not file.exists():
            raise InputError(
                f"--evaluation {path} was of {flag(option)} {file}, which is not there (any more): say with "
                f"{flag(option)} where it is"
            )
    return inputs


def _files(inputs: PhylogenyConfig) -> Iterator[tuple[str, Path]]:
    yield from (("table", table) for table in inputs.table)
    for option in ("rep_seqs", "metadata", "tree"):
        file = getattr(inputs, option)
        if file is not None:
            yield option, file


def _check_same(folder: RunFolder, variant: Variant, fingerprint: str) -> None:
    """Refuse other samples, values, folds, tree or options than those of the evaluation."""
    store = FoldStore(folder.folds, fingerprint)
    for fold in variant.folds:
        path = store.path(variant.name, fold.name)
        if not path.exists():
            raise InputError(
                f"--evaluation {folder}: fold {fold.name} is not done; finish it with aam evaluate --resume"
            )
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged; delete it, and continue with aam evaluate --resume") from None
        if stored != fingerprint:
            raise InputError(
                f"--evaluation {folder} is of other data: table, tree, metadata or options have changed since; give "
                "the files that it was of, with --table, --tree and --metadata if they have moved"
            )

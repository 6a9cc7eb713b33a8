"""What the learners of a fold have learned, kept to be explained: a checkpoint for each."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aam.config.evaluate import OUTSIDE
from aam.evaluation.fold_fits import Variant
from aam.evaluation.schemes import Fold
from aam.learners.base import Fitted
from aam.learners.rarefied import Rarefaction
from aam.learners.reference import Reference
from aam.learners.storage import LearnerSpec, TrainedLearner, save_learner
from aam.training.run_folder import RunFolder

NOT_KEPT = ("null", "depth", "batch", *OUTSIDE)
"""Learners that know nothing of ASVs, and those of other packages."""


@dataclass(frozen=True)
class FoldModels:
    """The folder of an evaluation's fitted folds, as of ``--keep-models``."""

    folder: Path
    provenance: Mapping[str, Any] | None = None
    """Document of each checkpoint."""

    @classmethod
    def of(cls, folder: RunFolder) -> "FoldModels":
        """Those of an evaluation."""
        return cls(folder.models)

    def path(self, variant: str, fold: str, learner: str) -> Path:
        """Checkpoint of a learner, by the names of the variant and of the fold (``REPEAT.FOLD``)."""
        return self.folder / f"{variant}-{fold}" / learner

    def complete(self, variant: str, fold: str, learners: Collection[str]) -> bool:
        """Whether the checkpoints of all of these learners are there that are kept."""
        return all(self.path(variant, fold, name).exists() for name in learners if name not in NOT_KEPT)

    def keep(self, variant: Variant, fold: Fold, name: str, fitted: Fitted) -> None:
        """Keep what a learner has learned in a fold, in place of what was kept of it; nothing of `NOT_KEPT`."""
        if name in NOT_KEPT:
            return
        study = variant.draws[0]
        training = [study.table.sample_ids[row] for row in fold.train]
        rarefaction = Rarefaction(depth=variant.depth, draws=len(variant.draws), seed=variant.seed)
        spec = LearnerSpec(learner=fitted.learner, training=training, rarefaction=rarefaction)
        path = self.path(variant.name, fold.name, name)
        if path.exists():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_learner(TrainedLearner(spec, fitted, Reference.of(study), provenance=self.provenance), path)

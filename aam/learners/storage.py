"""Checkpoints of learners: the folder format of the network's, with arrays as safetensors and no pickle."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from aam.data.distances.phylogeny import Phylogeny
from aam.data.labels.target_table import Targets
from aam.data.study import Study, select_samples
from aam.errors import InputError
from aam.learners.base import Arrays, Fitted, Output, Solution, below, prefixed
from aam.learners.conformal import Conformity, assumption
from aam.learners.kernel_sources import metadata_of
from aam.learners.likeness import Likeness
from aam.learners.rarefied import Rarefaction, predict_averaged
from aam.learners.reference import Reference
from aam.learners.registry import SOLUTIONS, restore_solution
from aam.training.checkpoints.store import Checkpoint, read_checkpoint, write_checkpoint
from aam.training.provenance import DOCUMENT

logger = logging.getLogger(__name__)

FORMAT = 1
NOTHING_KNOWN = "no read of an ASV that the model knows"
"""Why a sample of ASVs that are all new is left out."""


class LearnerSpec(BaseModel):
    """What a checkpoint says of itself: small, so that options may change their names and it stays readable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["learner"] = "learner"
    format: int = FORMAT
    """Of the arrays and documents; an older one is migrated when it is read."""
    learner: str
    options: dict[str, Any] = {}
    """As given, for the reader: nothing depends on them."""
    training: list[str]
    """Ids of the training samples."""
    rarefaction: Rarefaction = Rarefaction()


class Drawn(NamedTuple):
    """A study as a learner reads it."""

    studies: list[Study]
    """The samples that can be predicted, once for each draw of reads."""
    fractions: dict[str, "pd.Series[Any]"]
    """Fractions of the samples' reads that are told with predictions, by name."""
    reference: Reference
    """Columns and tree of these studies."""


@dataclass(frozen=True, eq=False)
class TrainedLearner:
    """A fitted learner with all that predicting another study takes."""

    spec: LearnerSpec
    fitted: Fitted
    reference: Reference
    likeness: Likeness | None = None
    """What the training samples look like; None for what an older aam has trained, and for folds of an evaluation."""
    provenance: Mapping[str, Any] | None = None
    """Where it comes from; see `aam.training.provenance`. None where an earlier aam, or nobody, noted it."""

    @property
    def name(self) -> str:
        """Which learner it is."""
        return self.spec.learner

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata that new samples must have."""
        of_solutions = [name for solution in self.fitted.solutions for name in solution.metadata_columns]
        return tuple(dict.fromkeys([*of_solutions, *self.fitted.targets.metadata_columns]))

    def predict(
        self, study: Study, phylogeny: Phylogeny | None = None, level: float | None = None
    ) -> tuple[pd.DataFrame, Study]:
        """Predict the samples of any study, as `Predictions.table`, with ``reads_lost``, ``unlike`` and ``why``.

        The first is the fraction of a sample's reads of ASVs which the training study lacked; these are dropped. With a
        tree, ASVs that hang at branches of the training study's are not: they add to these branches, and the column
        ``reads_placed`` is the fraction of their reads. Features of ASVs do not know them, but a proportion is of all
        reads that are not lost: as in `aam evaluate`, where ASVs that only held-out samples hold lie in the tree. The
        others say which samples are unlike those of the training (`Likeness`).

        Args:
            study: the samples.
            phylogeny: a tree that holds the ASVs of the training study and those of the samples.
            level: of intervals or sets, which are columns then; what they rest on is logged.

        Returns:
            The predictions, and the study that was left for them: samples without other reads, or with fewer than the
            sampling depth, are left out of both.

        Raises:
            InputError: no sample can be predicted, metadata is needed and missing, or there are no intervals.
        """
        if level is not None:
            self._say_intervals(level)
        drawn = self.draws(study, phylogeny)
        rows = np.arange(drawn.studies[0].table.n_samples)
        table = predict_averaged(self.fitted, drawn.studies, rows, level)
        fractions = drawn.fractions
        if self.likeness is not None:
            fractions |= self.likeness.unlike(study.table, drawn.reference.align(study))
        columns = {name: fraction.loc[list(table.index)].to_numpy() for name, fraction in fractions.items()}
        return table.assign(**columns), drawn.studies[0]

    def draws(self, study: Study, phylogeny: Phylogeny | None = None) -> Drawn:
        """A study as the learner reads it.

        Args:
            study: the samples.
            phylogeny: see `predict`.

        Raises:
            InputError: no sample can be predicted, or metadata is needed and missing.
        """
        if self.metadata_columns:
            metadata_of(study, self.metadata_columns)
        for solution in self.fitted.solutions:
            solution.meet(study)
        reference = self.reference
        fractions: dict[str, pd.Series[Any]] = {}
        if phylogeny is not None:
            self.check_reads_branches()
            reference = self.reference.extended(study.table, phylogeny)
        fractions["reads_lost"] = reference.reads_lost(study)
        if phylogeny is not None:
            fractions["reads_placed"] = reference.fraction_of_new(study, self.reference)
        # in this order: reads are drawn from all, as they were when the learner was judged
        drawn = [reference.align(draw) for draw in self.spec.rarefaction.drawn(study)]
        known = np.flatnonzero(np.all([draw.table.depth > 0 for draw in drawn], axis=0))
        drawn = [select_samples(draw, known, NOTHING_KNOWN) for draw in drawn]
        return Drawn(drawn, fractions, reference)

    def _say_intervals(self, level: float) -> None:
        """Say what intervals rest on, and where groups are too few for them.

        Raises:
            InputError: the learner has none.
        """
        column = self.spec.options.get("group_column")
        for target, solution in zip(self.fitted.targets.columns, self.fitted.solutions, strict=True):
            if solution.conformity is None:
                raise InputError(no_intervals(self.name))
            said = assumption(solution.conformity, level, column, target.classes is not None)
            few = np.isinf(solution.conformity.distance(level))
            logger.log(logging.WARNING if few else logging.INFO, "%s: %s", target.name, said)

    def check_reads_branches(self) -> None:
        """Refuse a tree where the model would make nothing of it.

        Raises:
            InputError: no part of the model reads branches.
        """
        if not any(solution.reads_branches for solution in self.fitted.solutions):
            raise InputError(
                f"--tree puts new ASVs on branches that the model knows, and this one ({self.name}) reads ASVs alone: "
                "leave it out"
            )


def no_intervals(learner: str) -> str:
    """Why a learner gives no intervals."""
    if learner == "neural":
        return (
            "--interval is made of predictions for left-out groups, and the network keeps none: train another learner, "
            "such as --learner ensemble, or the network with --target-loss quantile, which predicts quantiles"
        )
    return "--interval: the model was trained by an aam that kept nothing to make intervals of: train it again"


def checkpoint_of(trained: TrainedLearner) -> Checkpoint:
    """Everything as JSON and tensors."""
    solutions = trained.fitted.solutions
    arrays = prefixed("tree", trained.reference.arrays())
    likeness = trained.likeness
    if likeness is not None:
        arrays |= prefixed("likeness", likeness.arrays())
    for place, solution in enumerate(solutions):
        own = solution.arrays() | prefixed("left_out", _left_out(solution))
        if solution.conformity is not None:
            own |= prefixed("conformity", solution.conformity.arrays())
        arrays |= prefixed(f"column{place}", own)
    documents: dict[str, Any] = {
        "targets": trained.fitted.targets.to_json(),
        "solutions": [solution.settings() for solution in solutions],
        "asvs": trained.reference.to_json(),
        **({} if likeness is None else {"likeness": likeness.limits.model_dump(mode="json")}),
    }
    if trained.provenance is not None:
        documents[DOCUMENT] = dict(trained.provenance)
    tensors = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}
    return Checkpoint("learner", trained.spec.model_dump(mode="json"), documents, tensors)


def save_learner(trained: TrainedLearner, folder: Path) -> None:
    """Write a checkpoint to a folder that does not exist yet.

    Raises:
        InputError: the folder exists.
    """
    write_checkpoint(checkpoint_of(trained), folder)


def load_learner(path: Path) -> TrainedLearner:
    """Read what `save_learner` or `aam train --learner` wrote.

    Raises:
        InputError: no whole checkpoint of a learner is there, or a newer aam wrote it.
    """
    return learner_of(read_checkpoint(path, kind="learner"))


def learner_of(checkpoint: Checkpoint) -> TrainedLearner:
    """Rebuild a learner from its checkpoint.

    Raises:
        InputError: a newer aam wrote it.
    """
    spec = spec_of(checkpoint)
    documents, arrays = checkpoint.documents, {name: tensor.numpy() for name, tensor in checkpoint.model.items()}
    solutions = tuple(
        _solution(spec.learner, settings, below(f"column{place}", arrays))
        for place, settings in enumerate(documents["solutions"])
    )
    fitted = Fitted(spec.learner, Targets.from_json(documents["targets"]), solutions)
    reference = Reference.restore(documents["asvs"], below("tree", arrays))
    likeness = None
    if "likeness" in documents:
        likeness = Likeness.restore(documents["likeness"], below("likeness", arrays), len(reference.asv_ids))
    return TrainedLearner(spec, fitted, reference, likeness, documents.get(DOCUMENT))


def _left_out(solution: Solution) -> Arrays:
    """Predictions of the training samples without their groups, where there are some."""
    output = solution.left_out
    if output is None:
        return {}
    return {"value": output.value} | ({} if output.spread is None else {"spread": output.spread})


def _solution(learner: str, settings: dict[str, Any], arrays: Arrays) -> Solution:
    solution, output = restore_solution(learner, settings, arrays), below("left_out", arrays)
    if output:
        solution.left_out = Output(output["value"], output.get("spread"))
    scores = below("conformity", arrays)
    if scores:
        solution.conformity = Conformity.restore(scores)
    return solution


def spec_of(checkpoint: Checkpoint) -> LearnerSpec:
    """What a checkpoint says of itself.

    Raises:
        InputError: a newer aam wrote it.
    """
    try:
        spec = LearnerSpec.model_validate(checkpoint.config)
    except ValidationError:
        spec = None
    if spec is None or spec.format > FORMAT or spec.learner not in SOLUTIONS:
        raise InputError("the checkpoint of a learner was written by another aam, perhaps a newer one: update aam")
    return spec

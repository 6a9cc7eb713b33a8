"""The network as one learner among others: for `aam evaluate` and as a member of an ensemble.

Every fit is a training of its own, on a part of the training samples; the rest, whole groups, chooses the checkpoint.

Shapes: n training samples.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, Self

import numpy as np
import pandas as pd

from aam.config import (
    SECTIONS_OF_NETWORK,
    EvaluateConfig,
    FinetuneConfig,
    OutputConfig,
    TargetConfig,
    TargetSplitConfig,
    TrainConfig,
    TrainingConfig,
)
from aam.data.arrays import Texts
from aam.data.sampling.splits import split_samples
from aam.data.study import Study, digest
from aam.errors import InputError, StoppedBySignalError
from aam.learners.base import Learner, Problem, Rows, Solution
from aam.learners.simple import NullLearner
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, read_checkpoint
from aam.training.distributed import World
from aam.training.machine.hardware import device_for
from aam.training.run_folder import RunFolder
from aam.workflows.fit import Run, check_best_metric
from aam.workflows.neural_solution import NeuralSolution, quiet
from aam.workflows.prepare import prepare_training
from aam.workflows.resolve import pretrained_model
from aam.workflows.restore import restored

TARGET, GROUP, SIDE = "target", "group", "side"
"""Columns of the metadata that a training is given."""
VAL_FRACTION: Final = TargetSplitConfig().val_fraction
"""Fraction of the training samples that chooses the checkpoint of a member, where the command holds out none."""
DRAWS: Final = 10
"""Divisions of the training samples that are tried."""
PLACE: Final = Path("run")
"""Stands for the temporary output folder in what is kept of the options."""


@dataclass(frozen=True)
class NeuralLearner(Learner):
    """Trains the network as `aam train` does."""

    options: TrainingConfig
    """Those of the network; what is predicted, and how samples are divided, is the problem's."""
    name: ClassVar[str] = "neural"

    @classmethod
    def of(cls, config: EvaluateConfig | TrainConfig) -> Self:
        """Take the options of the network from those of a command."""
        sections: dict[str, Any] = {section: getattr(config, section) for section in SECTIONS_OF_NETWORK}
        if isinstance(config, TrainConfig):
            sections["split"] = TargetSplitConfig(val_fraction=config.split.val_fraction or VAL_FRACTION)
            sections["runtime"] = config.runtime
        return cls(TrainingConfig(target=TargetConfig(metadata_column=(TARGET,)), **sections))

    def solve(self, problem: Problem) -> Solution:
        """Train on one column.

        Raises:
            InputError: there are too few samples, or options of the network do not fit each other.
        """
        if len(np.unique(problem.y)) < 2:  # in folds within folds alone, as `pose` refuses it
            return NullLearner().solve(problem)
        with TemporaryDirectory(prefix="aam-") as scratch, quiet():
            config = self._config(problem, Path(scratch) / "run")
            study = _study_of(problem, self.options.split.val_fraction)
            with World(device_for(config.runtime.device)) as world:
                run = prepare_training(study, config, world, problem.weight)
                _train(run, config.output.output_dir)
        runtime = run.config.runtime.model_copy(update={"device": "auto"})  # it may be read on another machine
        output = OutputConfig(output_dir=PLACE)
        kept = run.config.model_copy(update={"output": output, "runtime": runtime}).model_dump(mode="json")
        weights = {name: tensor.cpu() for name, tensor in run.model.state_dict().items()}
        return NeuralSolution(restored(Checkpoint("train", kept, run.documents, weights)), problem.classes)

    def _config(self, problem: Problem, folder: Path) -> TrainConfig:
        """Options of the training of one column."""
        given = {section: getattr(self.options, section) for section in self.options.sections()}
        target = TargetConfig(
            metadata_column=(TARGET,),
            classifier=problem.classes > 0,
            target_transform=None if problem.classes else "none",
        )
        changed = {
            "target": target,
            "split": TargetSplitConfig(split_column=SIDE),
            "output": OutputConfig(output_dir=folder),
            "runtime": self.options.runtime.model_copy(update={"seed": problem.seed % 2**63, "num_workers": 0}),
        }
        return TrainConfig(**given | changed)


def _train(run: Run, folder: Path) -> None:
    """Train silently, and leave the best weights in the model.

    Raises:
        StoppedBySignalError: a signal came; there is nothing to continue.
    """
    check_best_metric(run)
    trainer = run.trainer(CheckpointStore(RunFolder(folder).checkpoints))
    trainer.memory.settle()
    try:
        trainer.fit()
    except StoppedBySignalError:
        text = "stopped by a signal in a training of the network; what was done of it is lost"
        raise StoppedBySignalError(text) from None
    trainer.checkpoints.load_weights(folder, run.model)


def _study_of(problem: Problem, val_fraction: float) -> Study:
    """The training samples alone, with the ASVs that they hold; target and sides are columns of the metadata."""
    table = problem.study.table.select_samples(problem.rows)
    table = table.select_asvs(np.flatnonzero(table.asv_reads))
    values = [f"{code:06d}" for code in problem.codes] if problem.classes else problem.y
    index = pd.Index(table.sample_ids, name="sample_id", dtype=object)
    metadata = pd.DataFrame({TARGET: values, SIDE: sides_of(problem, val_fraction)}, index=index)
    return Study(table, metadata)


def sides_of(problem: Problem, val_fraction: float) -> Texts:
    """``train`` or ``val`` for each training sample [n]: whole groups, and no class is on the side of val alone.

    The first of `DRAWS` that leaves something to learn and something to judge by; where there is one group, or no draw
    of groups does, single samples are drawn.

    Raises:
        InputError: there are too few samples to divide.
    """
    groups = len(np.unique(problem.groups))
    by_group = [problem.groups] * DRAWS if 1 < groups < len(problem.rows) else []
    for number, units in enumerate([*by_group, *[None] * DRAWS]):
        sides = _sides(problem, units, val_fraction, (problem.seed + number) % 2**63)
        if (sides == "val").any() and len(np.unique(problem.y[sides == "train"])) > 1:
            return sides
    raise InputError(
        f"{len(problem.rows)} training samples are too few for the network: some of them must choose its checkpoint"
    )


def _sides(problem: Problem, groups: Rows | None, val_fraction: float, seed: int) -> Texts:
    ids = [problem.study.table.sample_ids[row] for row in problem.rows]
    named = pd.DataFrame({GROUP: [f"group {number}" for number in problem.groups]}, index=ids)
    config = TargetSplitConfig(val_fraction=val_fraction, group_column=None if groups is None else GROUP)
    strata = [str(code) for code in problem.codes] if problem.classes else None
    split = split_samples(ids, named, config, seed, strata)
    sides = np.full(len(ids), "train")
    sides[split.val] = "val"
    if problem.classes and groups is not None:
        unseen = ~np.isin(problem.codes, problem.codes[sides == "train"])
        sides[np.isin(groups, groups[unseen])] = "train"
    return sides


def check_encoder(finetune: FinetuneConfig, config: EvaluateConfig | TrainConfig) -> Checkpoint | None:
    """Read the encoder that learners start from or compare samples by, before any work; None where there is none.

    Raises:
        InputError: it is no pretrained encoder, or of another shape than the options ask for.
    """
    if finetune.pretrained_encoder is None:
        return None
    checkpoint = read_checkpoint(finetune.pretrained_encoder, kind="pretrain")
    pretrained_model(checkpoint, config.model, finetune)
    return checkpoint


def digest_of(encoder: Checkpoint) -> str:
    """Hash of the weights of an encoder."""
    return digest([encoder.model[name].numpy() for name in sorted(encoder.model)])

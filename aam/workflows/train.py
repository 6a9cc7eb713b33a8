"""`aam train`: learn to predict a metadata column."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from aam.config import TrainConfig
from aam.data.files.embedding_files import check_cache_folder
from aam.data.labels.target_table import Targets
from aam.data.sampling.dataset import FixedBatches
from aam.data.study import Study, load_study
from aam.errors import first_ids
from aam.evaluation.collapse import complaint
from aam.evaluation.predictions import write_prediction_report
from aam.training.distributed import World, setup_distributed
from aam.training.run_folder import RunFolder, Side
from aam.training.sinks.training_log import early_records
from aam.training.tasks.targets import TargetTask
from aam.workflows.baselines import check_tree, compare_with_learners
from aam.workflows.columns import learn_columns
from aam.workflows.fit import Run, fit
from aam.workflows.folder import settle_folder
from aam.workflows.leakage import warn_of_leakage, write_leakage
from aam.workflows.prepare import prepare_training
from aam.workflows.report import report_run
from aam.workflows.train_learner import train_learner

logger = logging.getLogger(__name__)


@early_records()
def train(config: TrainConfig) -> None:
    """Fine-tune on the files that the config names and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    if config.choice.learner != "neural":
        train_learner(config)
        return
    with setup_distributed(config.runtime.device, config.distribution) as world:
        config = world.on_main(lambda: settle_folder(config))
        world.on_main(lambda: check_cache_folder(config.finetune.embedding_cache))
        study = load_study(config.inputs, config.sampling, needs=("metadata",))
        columns = learn_columns(study, config)
        found = world.on_main(lambda: warn_of_leakage(columns, config))
        world.on_main(lambda: check_tree(config))
        _, path = train_study(columns.study, config, world)
        is_main = world.is_main
    if is_main:  # the others need not wait for it
        folder = RunFolder(path)
        write_leakage(found, folder)
        if config.choice.baselines:
            compare_with_learners(columns, config, folder)
        if config.output.report:
            report_run(folder)


def train_study(study: Study, config: TrainConfig, world: World | None = None) -> tuple[Run, Path]:
    """Fine-tune on a study that is loaded already; returns the run, with its best weights, and the output folder."""
    run = prepare_training(study, config, world)
    return run, fit(run, config, lambda folder: _report(run, folder))


def _report(run: Run, folder: RunFolder) -> None:
    """Predict validation samples, and those of a test, which the run has not seen before; every rank calls this."""
    task, split = run.objective.task(TargetTask), run.material.split
    sides: dict[Side, FixedBatches] = {"val": run.objective.held_out}
    if split.test.size:
        sides["test"] = run.material.batches(split.test, run.config)
    for side, batches in sides.items():
        outputs = run.objective.outputs(task, batches).cpu().numpy()
        if run.world.is_main:
            truth, predicted = task.truth(batches), task.decode(outputs, batches)
            _say_unseen(task.targets, truth)
            wrong = complaint(task.targets, predicted, truth) if side == "val" else None
            metrics = write_prediction_report(task.targets, predicted, truth, folder, side, wrong)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if value is not None)
            logger.info("%s (%d samples): %s", _MEANING[side], len(batches.samples), shown)
            if wrong is not None:
                logger.warning("%s", wrong)


def _say_unseen(targets: Targets, true: pd.DataFrame) -> None:
    """Name the classes of test samples that no training sample has; validation samples have none such."""
    if not targets.is_classes:
        return
    labels = true[targets.only.name]
    assert targets.only.classes is not None
    unseen = labels[~labels.isin(targets.only.classes.classes)]
    if len(unseen):
        names, samples = first_ids(sorted(set(unseen))), first_ids(unseen.index)
        logger.warning(
            "%d test samples are of classes without a training sample, and count as wrong: %s (samples %s)",
            len(unseen),
            names,
            samples,
        )


_MEANING: Final[Mapping[Side, str]] = {
    "val": "validation, which chose the checkpoint",
    "test": "test, held out from training and from the choice of the checkpoint",
}

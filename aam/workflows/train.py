"""`aam train`: learn to predict a metadata column."""

import logging
from collections.abc import Mapping
from dataclasses import replace
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
from aam.evaluation.predictions import NAMES, write_prediction_report
from aam.learners.likeness import Likeness
from aam.training.distributed import World, setup_distributed
from aam.training.metrics import Metrics
from aam.training.run_folder import RunFolder, Side
from aam.training.sinks.sink import Results
from aam.training.sinks.tracker import check_tracker
from aam.training.sinks.training_log import early_records
from aam.training.tasks.targets import TargetTask
from aam.workflows.baselines import check_tree, compare_with_learners
from aam.workflows.columns import groups_of, learn_columns
from aam.workflows.fit import Run, embedded_samples, fit
from aam.workflows.folder import settle_folder
from aam.workflows.leakage import warn_of_leakage, write_leakage
from aam.workflows.prepare import prepare_training
from aam.workflows.score_tables import side_scores
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
        world.on_main(lambda: check_tracker(config.tracking))
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


def train_study(study: Study, config: TrainConfig, world: World | None = None) -> tuple[Run, Path]:
    """Fine-tune on a study that is loaded already; returns the run, with its best weights, and the output folder."""
    run = prepare_training(study, config, world)
    run = replace(run, documents=run.documents | {"likeness": _likeness(run).to_json()})
    return run, fit(run, config, lambda folder: _report(run, folder))


def _likeness(run: Run) -> Likeness:
    """What the training samples look like; the network compares no other samples with them."""
    study, config = run.material.study, run.config
    assert isinstance(config, TrainConfig)
    groups = groups_of(study, config.split.group_column)
    return Likeness.of(study, run.material.split.train, groups, config.runtime.seed, landmarks=False)


def _report(run: Run, folder: RunFolder) -> Results:
    """Predict validation samples, and those of a test, which the run has not seen before.

    Every rank calls this; the pictures and scores are those of rank 0.
    """
    task, split = run.objective.task(TargetTask), run.material.split
    sides: dict[Side, FixedBatches] = {"val": run.objective.held_out}
    if split.test.size:
        sides["test"] = run.material.batches(split.test, run.config)
    scores: dict[str, float | None] = {}
    figures = {}
    found: dict[str, Metrics] = {}
    for side, batches in sides.items():
        outputs = run.objective.outputs(task, batches).cpu().numpy()
        if run.world.is_main:
            truth, predicted = task.truth(batches), task.decode(outputs, batches)
            _say_unseen(task.targets, truth)
            wrong = complaint(task.targets, predicted, truth) if side == "val" else None
            metrics = write_prediction_report(task.targets, predicted, truth, folder, side, wrong)
            found[f"{NAMES[side]} ({len(batches.samples)})"] = metrics
            logger.info("%s (%d samples)", _MEANING[side], len(batches.samples))
            if wrong is not None:
                logger.warning("%s", wrong)
            scores |= {f"{side}/{name}": value for name, value in metrics.items()}
            figures[f"{side}_predictions"] = folder.side_plot(side)
    if run.world.is_main:
        logger.info("%s", side_scores(found))
    return Results(scores, figures, embedded=embedded_samples(run))


def _say_unseen(targets: Targets, true: pd.DataFrame) -> None:
    """Name the classes of test samples that no training sample has; validation samples have none such."""
    if not targets.is_classes:
        return
    labels = true[targets.only.name]
    unseen = labels[~labels.isin(targets.only.require_classes().classes)]
    if len(unseen):
        logger.warning(
            "%d test samples are of classes without a training sample, and count as wrong: %s (samples %s)",
            *(len(unseen), first_ids(sorted(set(unseen))), first_ids(unseen.index)),
        )


_MEANING: Final[Mapping[Side, str]] = {
    "val": "validation, which chose the checkpoint",
    "test": "test, held out from training and from the choice of the checkpoint",
}

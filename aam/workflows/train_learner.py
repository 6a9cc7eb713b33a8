"""`aam train --learner`: fit a learner other than the network, in one go and in one process."""

import logging
from dataclasses import replace

import pandas as pd

from aam.config import (
    LearnerName,
    TargetConfig,
    TargetSamplingConfig,
    TrainConfig,
    UnifracConfig,
)
from aam.config.launch import launched_world_size
from aam.config.training import READ_BY_ALL, options_read
from aam.data.sampling.splits import Split
from aam.data.study import Study, load_study
from aam.errors import InputError
from aam.evaluation.predictions import NAMES, write_prediction_report
from aam.learners.base import Labels, Rows
from aam.learners.likeness import Likeness
from aam.learners.rarefied import Rarefaction, predict_averaged
from aam.learners.reference import Reference
from aam.learners.registry import make_learner
from aam.learners.storage import LearnerSpec, TrainedLearner, checkpoint_of
from aam.learners.unseen import fit_calibrated
from aam.training.checkpoints.store import CheckpointStore
from aam.training.metrics import Metrics
from aam.training.provenance import checkpoint_document
from aam.training.run_folder import RunFolder, Side
from aam.training.sinks.sink import Results
from aam.training.sinks.tracker import check_tracker
from aam.training.tasks.target_metrics import score
from aam.workflows.columns import Columns, groups_of, learn_columns
from aam.workflows.fit import write_samples
from aam.workflows.folder import check_folder, open_folder
from aam.workflows.leakage import warn_of_leakage, write_leakage
from aam.workflows.makers import makers
from aam.workflows.neural_learner import check_encoder
from aam.workflows.resolve import resolve_depth
from aam.workflows.restore import seen_by
from aam.workflows.score_tables import side_scores
from aam.workflows.summary import Summary, keep, say
from aam.workflows.tracking import track_results

logger = logging.getLogger(__name__)


def train_learner(config: TrainConfig) -> None:
    """Fit the learner that the config names on the files that it names, and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    begin_learner(config)

    def load(sampling: TargetSamplingConfig) -> Study:
        return load_study(config.inputs, sampling, UnifracConfig(), needs=("metadata",))

    train_learner_study(*resolve_depth(config, load))


def begin_learner(config: TrainConfig) -> None:
    """Check what can be checked before the files of a study are read.

    Raises:
        InputError: several processes were started, or the output folder cannot be used.
    """
    if launched_world_size() > 1:
        raise InputError(f"--learner {config.choice.learner} is fitted by one process: start it without torchrun")
    check_tracker(config.tracking)
    check_folder(config, config.output)


def train_learner_study(study: Study, config: TrainConfig) -> tuple[TrainedLearner, Columns]:
    """Fit a learner to a study that is loaded already, and write the output folder.

    Raises:
        InputError: a column or an option is wrong; nothing has been written then.
    """
    name = config.choice.learner
    columns = learn_columns(study, config)
    found = warn_of_leakage(columns, config)
    _say_seen(columns, config)
    summary = Summary.of_split(columns.study, columns.split, config)
    say(summary)
    trained = fit_learner(name, columns, config)
    with open_folder(config, config.output) as folder:
        keep(summary, folder)
        trained = replace(trained, provenance=checkpoint_document(folder))
        write_samples(columns.study, columns.split, folder)
        write_leakage(found, folder)
        CheckpointStore(folder.checkpoints).write(checkpoint_of(trained), step=0, best=True)
        sides = held_out_rows(columns.split).items()
        scores = {f"{NAMES[side]} ({len(rows)})": _report(trained, columns, side, rows, folder) for side, rows in sides}
        if scores:
            logger.info("%s, on samples that it has not seen\n%s", name, side_scores(scores))
        told = {
            f"{side}/{key}": value
            for (side, _), own in zip(sides, scores.values(), strict=True)
            for key, value in own.items()
        }
        track_results(
            config, folder, Results(told, {f"{side}_predictions": folder.side_plot(side) for side, _ in sides})
        )
        logger.info("wrote %s", folder)
    return trained, columns


def fit_learner(name: LearnerName, columns: Columns, config: TrainConfig) -> TrainedLearner:
    """Fit to the training samples of a split.

    Raises:
        InputError: a column cannot be learned this way, or the learner needs a tree and there is none.
    """
    has_tree = columns.study.tree is not None
    learner = make_learner(name, config.learners, has_tree, makers(config))
    learner.check(columns.study)
    rarefaction = Rarefaction(depth=config.sampling.depth, draws=config.choice.rarefy_draws, seed=config.runtime.seed)
    study, rows = columns.study, columns.split.train
    logger.info("fitting %s to %d samples", name, len(rows))
    labels, seed = labels_of(columns, config), config.runtime.seed
    fitted = fit_calibrated(learner, rarefaction.drawn(study)[0], rows, labels, seed)
    spec = LearnerSpec(
        learner=name,
        options=_options(name, config),
        training=[study.table.sample_ids[row] for row in rows],
        rarefaction=rarefaction,
    )
    return TrainedLearner(spec, fitted, Reference.of(study), Likeness.of(study, rows, labels.groups, seed))


def labels_of(columns: Columns, config: TrainConfig) -> Labels:
    """What is to be predicted, with the groups of the split and the weights of the samples."""
    groups = groups_of(columns.study, config.split.group_column)
    read = config.target.model_dump(include=set(READ_BY_ALL["target"]))  # the network's losses and ranges are its own
    return Labels(columns.values, TargetConfig.model_validate(read), groups, columns.sample_weights(config))


def held_out_rows(split: Split) -> dict[Side, Rows]:
    """Rows of the sides that do not train."""
    sides: dict[Side, Rows] = {"val": split.val, "test": split.test}
    return {side: rows for side, rows in sides.items() if len(rows)}


def predict_side(trained: TrainedLearner, columns: Columns, rows: Rows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted and true values of some samples of the training study."""
    table = predict_averaged(trained.fitted, trained.spec.rarefaction.drawn(columns.study), rows)
    return table, columns.values.iloc[rows]


def score_side(trained: TrainedLearner, columns: Columns, rows: Rows) -> Metrics:
    """Metrics of some samples of the training study."""
    return score(trained.fitted.targets, *predict_side(trained, columns, rows))


def _say_seen(columns: Columns, config: TrainConfig) -> None:
    """Warn of held-out samples that a pretrained encoder has seen.

    Raises:
        InputError: it is no pretrained encoder, or of another shape than the options ask for.
    """
    encoder = check_encoder(config.finetune, config)
    ids = columns.study.table.sample_ids
    held_out = [ids[row] for rows in held_out_rows(columns.split).values() for row in rows]
    warning = None if encoder is None else seen_by(encoder, held_out)
    if warning is not None:
        logger.warning("%s", warning)


def _report(trained: TrainedLearner, columns: Columns, side: Side, rows: Rows, folder: RunFolder) -> Metrics:
    return write_prediction_report(trained.fitted.targets, *predict_side(trained, columns, rows), folder, side)


SAID_ELSEWHERE = frozenset({"track", "track_project", "metadata_column", "classifier", "learner", "rarefy_draws"})
"""Options that a checkpoint of a learner has a place of its own for."""


def _options(name: LearnerName, config: TrainConfig) -> dict[str, object]:
    """Options of a learner that are not left at their defaults, but for those of files and the machine."""
    read = {section: READ_BY_ALL[section] - SAID_ELSEWHERE for section in ("target", "choice", "weights", "split")}
    for section, kind in config.sections().items():
        if section not in READ_BY_ALL:
            read[section] = options_read(name, section, kind, config.ensemble.ensemble_members)
    return {
        option: value
        for section, options in read.items()
        for option, value in getattr(config, section)
        if option in options and value != type(getattr(config, section)).model_fields[option].default
    }

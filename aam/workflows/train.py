"""`aam train`: learn to predict a metadata column."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from aam.config import TrainConfig
from aam.data.dataset import StepDataset
from aam.data.splits import Split, split_samples
from aam.data.study import Study, load_study, select_samples
from aam.data.target_column import TargetColumn, target_values
from aam.errors import InputError
from aam.evaluation.predictions import write_prediction_report
from aam.training.checkpoint import Checkpoint, read_checkpoint
from aam.training.compute import Compute
from aam.training.distributed import setup_distributed
from aam.training.target_objective import TargetObjective, TargetTable, predict_outputs
from aam.workflows.fit import Run, fit, gather_material
from aam.workflows.folder import check_folder
from aam.workflows.restore import build_predictor, load_pretrained, pretrained_model

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> None:
    """Fine-tune on the files that the config names and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    check_folder(config, config.output)
    if config.inputs.tree is not None:
        logger.info("--tree is not needed to predict a column, and is not read")
    study = load_study(config.inputs, config.sampling, needs=("metadata",))
    train_study(study, config)


def train_study(study: Study, config: TrainConfig) -> tuple[Run, Path]:
    """Fine-tune on a study that is loaded already; returns the run, with its best weights, and the output folder."""
    run = prepare_training(study, config)
    folder = fit(run, config)
    objective = run.objective
    assert isinstance(objective, TargetObjective)
    held_out = objective.held_out
    outputs = predict_outputs(objective.model, objective.nucleotides, held_out, objective.compute)
    assert run.material.study.metadata is not None
    true = target_values(run.material.study.metadata, config.target).iloc[held_out.samples]
    write_prediction_report(objective.targets.column, outputs, true, folder)
    return run, folder


def prepare_training(study: Study, config: TrainConfig) -> Run:
    """Split the samples, fit the target's scale, and build model, data and objective; nothing is written.

    Raises:
        InputError: the target column or the split cannot be used, or the pretrained encoder does not fit.
    """
    assert study.metadata is not None
    values = target_values(study.metadata, config.target)
    known = np.flatnonzero(values.notna().to_numpy())
    study = select_samples(study, known, f"no value of {config.target.metadata_column}")
    values = values.iloc[known]
    strata = _strata(values, config)
    split = split_samples(study.table.sample_ids, study.metadata, config.split, config.runtime.seed, strata)
    if not len(split.train) or not len(split.val):
        raise InputError("the split leaves no samples to train on or none to validate; use another --test-size")
    column = TargetColumn.fit(values.iloc[split.train], config.target)
    checkpoint = _read_pretrained(config)
    if checkpoint is not None:
        model_config = pretrained_model(checkpoint, config.model, config.finetune)
        config = config.model_copy(update={"model": model_config})
    compute = Compute.of(setup_distributed(config.runtime.device).device, config.runtime)
    material = gather_material(study, split, config, compute)
    if config.model.max_bp is None:
        model_config = config.model.model_copy(update={"max_bp": material.nucleotides.shape[1]})
        config = config.model_copy(update={"model": model_config})
    model = build_predictor(config, column.outputs)
    if checkpoint is not None:
        load_pretrained(model, checkpoint)
    model.encoder.requires_grad_(not config.finetune.freeze_base)
    model.to(compute.device)
    targets = TargetTable(
        column,
        torch.from_numpy(_encode(column, values, split)).to(compute.device),
        torch.from_numpy(_weights(column, values, split, config)).to(compute.device),
    )
    held_out = material.held_out(config.optim.batch_size)
    objective = TargetObjective(model, material.nucleotides, targets, config, compute, held_out)
    documents = {"target": column.to_json()}
    return Run("train", config, material, model, objective, StepDataset(material.draws), documents)


def _read_pretrained(config: TrainConfig) -> Checkpoint | None:
    path = config.finetune.pretrained_encoder
    return read_checkpoint(path, kind="pretrain") if path is not None else None


def _strata(values: "pd.Series[str]", config: TrainConfig) -> list[str] | None:
    if not config.split.stratify:
        return None
    if not config.target.classifier:
        raise InputError("--stratify holds out the same share of every class: it needs --classifier")
    return list(values)


def _encode(column: TargetColumn, values: "pd.Series[str]", split: Split) -> NDArray[np.generic]:
    """Encode the targets of samples on either side of the split; others keep zero and are never read."""
    used = np.concatenate([split.train, split.val])
    encoded = column.encode(values.iloc[used])
    if column.classes is None:
        encoded = encoded.astype(np.float32)
    table = np.zeros(len(values), dtype=encoded.dtype)
    table[used] = encoded
    return table


def _weights(column: TargetColumn, values: "pd.Series[str]", split: Split, config: TrainConfig) -> NDArray[np.float32]:
    """Weight of every sample in the loss: by its class where classes are balanced, else 1."""
    weights = np.ones(len(values), dtype=np.float32)
    if config.target.class_weights == "balanced":
        assert column.classes is not None
        of_class = column.classes.balanced_weights(list(values.iloc[split.train]))
        used = np.concatenate([split.train, split.val])
        weights[used] = of_class[column.encode(values.iloc[used])]
        named = ", ".join(f"{name} {w:.3g}" for name, w in zip(column.classes.classes, of_class, strict=True))
        logger.info("class weights: %s", named)
    return weights

"""From a study and the options of `aam train` to a run of the network that is ready for its first step."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from aam.config import ModelConfig, TargetOptimConfig, TrainConfig
from aam.data.arrays import Floats, Ints
from aam.data.categorical import CategoryEncoder
from aam.data.labels.target_table import Targets
from aam.data.sampling.augmentation import Mixing
from aam.data.sampling.dataset import PooledStepDataset, StepDataset
from aam.data.sampling.rarefaction import mean_log_abundance
from aam.data.sampling.seeded import derived_seed
from aam.data.sampling.splits import Split
from aam.data.study import Study, digest
from aam.errors import InputError, first_ids
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import PredictorOutput
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.training.distributed import World
from aam.training.distributed.strategies import give_weights, parallelize
from aam.training.inference.standardize import fit_head_inputs
from aam.training.inputs import PooledInputs, inputs_of
from aam.training.objective import Objective
from aam.training.tasks.abundances import TargetAbundances
from aam.training.tasks.base import Task
from aam.training.tasks.targets import TargetTable, TargetTask
from aam.workflows.columns import Columns, learn_columns
from aam.workflows.fit import Material, Run, begin_compute, gather_material, resolved_model
from aam.workflows.restore import build_predictor, load_pretrained, pretrained_model, resumed_model, samples_seen

logger = logging.getLogger(__name__)

STANDARDIZED: Final = 1024
"""Training samples that say how widely those differ that the head reads."""


def prepare_training(
    study: Study, config: TrainConfig, world: World | None = None, weight: Floats | None = None
) -> Run:
    """Split the samples, fit the target's scale, and build model, data and objective; nothing is written.

    Args:
        study: the samples.
        config: the options.
        world: the processes that train together; by default this one takes its place among them as the config says.
        weight: how much each sample counts, besides what the config says, where every sample has a target [samples].

    Raises:
        InputError: the target column or the split cannot be used, or the pretrained encoder does not fit.
    """
    learned = learn_columns(study, config)
    study, values, split, targets = learned.study, learned.values, learned.split, learned.targets
    assert study.metadata is not None
    checkpoint = _read_pretrained(config)
    if checkpoint is not None:
        ids = study.table.sample_ids
        _warn_of_seen(
            checkpoint, {"validation": [ids[row] for row in split.val], "test": [ids[row] for row in split.test]}
        )
    config, compute = begin_compute(_settled(config, checkpoint, len(split.train)), world)
    material = gather_material(study, split, config, compute, _mixing(study, values, split, config))
    config = config.model_copy(update={"model": resolved_model(config.model, material)})
    categories = learned.categories
    model = _build_model(config, (targets, categories), material, checkpoint)
    codes = None if categories is None else torch.from_numpy(categories.encode(study.metadata)).to(compute.device)
    inputs = inputs_of(model, material.nucleotides, material.draws, config, compute, codes)
    parallel = parallelize(model, config.distribution, compute)
    held_out = material.batches(split.val, config)
    table = _target_table(learned, material, config, weight)
    tasks: list[Task[PredictorOutput]] = [TargetTask(table, config, held_out)]
    if config.target.count_weight > 0:
        tasks.append(TargetAbundances.build(inputs, config))
    objective = Objective(parallel, inputs, tasks, held_out)
    if resumed_model(config.output) is None:
        some = material.batches(_some(split.train, study, config), config)
        fit_head_inputs(model, inputs, some, standardize=config.target.standardize_samples)
    documents = objective.documents() | _documents(learned)
    fingerprint = {"target": digest([table.value.cpu().numpy(), table.weight.cpu().numpy(), json.dumps(documents)])}
    if codes is not None:
        fingerprint["categories"] = digest([codes.cpu().numpy()])
    datasets = PooledStepDataset if isinstance(inputs, PooledInputs) else StepDataset
    dataset = datasets(material.draws, rank=compute.world.rank, ranks=compute.world.size)
    return Run("train", config, material, model, objective, dataset, documents, fingerprint)


def _settled(config: TrainConfig, pretrained: Checkpoint | None, samples: int) -> TrainConfig:
    """Settle what the options leave open, by the pretrained encoder and the number of training samples."""
    config = config.model_copy(update={"model": _model_config(config, pretrained)}).settled()
    config = config.model_copy(update={"optim": _settled_optim(config, samples)})
    _check_heads(config)
    return config


def _documents(learned: Columns) -> dict[str, Any]:
    """What a checkpoint keeps of the columns besides the targets."""
    kept = {"loss_weights": learned.weights, "categories": learned.categories}
    return {name: document.to_json() for name, document in kept.items() if document is not None}


def _settled_optim(config: TrainConfig, samples: int) -> TargetOptimConfig:
    """Settle the learning rate and the number of epochs, and say them."""
    settled = config.optim.settled(config.model.embedding_dim + (config.target.asv_features or 0), samples)
    assert settled.lr is not None
    encoder = f"{settled.lr * settled.encoder_lr_ratio:.3g} for the encoder"
    if config.finetune.freeze_base:
        encoder = "the encoder stays as it is"
    logger.info(
        "learning rate %.3g, %s; %d epochs of %d steps; %d random features of ASVs",
        settled.lr,
        encoder,
        settled.epochs,
        math.ceil(samples / settled.step_samples),
        config.target.asv_features or 0,
    )
    return settled


def _some(rows: Ints, study: Study, config: TrainConfig) -> Ints:
    """At most `STANDARDIZED` samples, drawn by their ids, in the order of the table."""
    ids, seed = study.table.sample_ids, config.runtime.seed
    order = sorted(rows.tolist(), key=lambda row: derived_seed(seed, "standardize", ids[row]))
    return np.array(sorted(order[:STANDARDIZED]), dtype=np.int64)


def _read_pretrained(config: TrainConfig) -> Checkpoint | None:
    """Read the encoder to start from; None where there is none, or a run goes on from its own checkpoint."""
    path = config.finetune.pretrained_encoder
    return None if path is None or resumed_model(config.output) is not None else read_checkpoint(path, kind="pretrain")


def _model_config(config: TrainConfig, pretrained: Checkpoint | None) -> ModelConfig:
    """The model section, its shape that of the run to resume or of the pretrained encoder, if there is one."""
    if pretrained is not None:
        return pretrained_model(pretrained, config.model, config.finetune)
    return resumed_model(config.output) or config.model


def _check_heads(config: TrainConfig) -> None:
    """Refuse heads that do not divide the width, which a pretrained encoder may have set."""
    width, heads = config.model.embedding_dim, config.categories.cross_attn_heads
    if config.categories.categorical_fusion in ("cross_attention", "perceiver") and width % heads:
        raise InputError(f"--embedding-dim {width} is not a multiple of --cross-attn-heads {heads}")


def _build_model(
    config: TrainConfig,
    learned: tuple[Targets, CategoryEncoder | None],
    material: Material,
    pretrained: Checkpoint | None,
) -> SequencePredictor:
    """Build the model with the weights of its first step."""
    model = build_predictor(config, *learned)
    if config.finetune.freeze_base:
        model.freeze()
    give_weights(model, config.distribution, material.compute, config.runtime.seed)
    if pretrained is not None:
        load_pretrained(model, pretrained)
    if model.count_head is not None:
        model.count_head.start_at(mean_log_abundance(material.study.table, material.split.train))
    return model


def _warn_of_seen(pretrained: Checkpoint, sides: Mapping[str, list[str]]) -> None:
    """Say how many samples of a side the encoder knows: without their labels, but not as it meets new samples."""
    for side, samples in sides.items():
        seen = samples_seen(pretrained, samples)
        if seen:
            logger.warning(
                "the encoder has been trained, without labels, on %d of the %d %s samples: %s; they may look easier "
                "to predict than new samples",
                len(seen),
                len(samples),
                side,
                first_ids(seen),
            )


def _mixing(study: Study, values: pd.DataFrame, split: Split, config: TrainConfig) -> Mixing | None:
    """Which training samples are mixed: those of the same class."""
    probability = config.augmentation.mix_samples
    if probability == 0:
        return None
    labels, ids = list(values[config.target.metadata_column[0]]), study.table.sample_ids
    mixing = Mixing.of(probability, split.train, labels, ids)
    alone = [ids[row] for row, peers in mixing.peers.items() if len(peers) == 1]
    if alone:
        logger.warning("--mix-samples: the only training samples of their class stay unmixed: %s", first_ids(alone))
    return mixing


def _target_table(learned: Columns, material: Material, config: TrainConfig, weight: Floats | None) -> TargetTable:
    """Encode the targets of samples that train or validate; others keep zeros, which no loss and no choice reads."""
    targets, values, split = learned.targets, learned.values, learned.split
    metadata, device = material.study.metadata, material.compute.device
    assert metadata is not None
    used = np.concatenate([split.train, split.val])
    encoded = np.full(values.shape, np.nan)
    encoded[used] = targets.encode(values.iloc[used], metadata)
    known = ~np.isnan(encoded)
    value = np.where(known, encoded, 0.0).astype(np.int64 if targets.is_classes else np.float32)
    counts = learned.sample_weights(config) * (1.0 if weight is None else weight)
    weight_of = torch.from_numpy((known * counts[:, None]).astype(np.float32)).to(device)
    return TargetTable(targets, torch.from_numpy(value).to(device), weight_of, values, metadata)

"""From a study and the options of `aam train` to a run of the network that is ready for its first step."""

import json
import logging

import numpy as np
import torch

from aam.config import TrainConfig
from aam.data.arrays import Floats
from aam.data.sampling.augmentation import Mixing
from aam.data.sampling.dataset import PooledStepDataset, StepDataset
from aam.data.sampling.rarefaction import mean_log_abundance
from aam.data.study import Study, digest
from aam.errors import first_ids
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import PredictorOutput
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.training.distributed import World, setup_distributed
from aam.training.distributed.strategies import give_weights, parallelize
from aam.training.inference.standardize import fit_head_inputs
from aam.training.inputs import PooledInputs, inputs_of
from aam.training.machine.compute import Compute
from aam.training.objective import Objective
from aam.training.tasks.abundances import TargetAbundances
from aam.training.tasks.base import Task
from aam.training.tasks.targets import TargetTable, TargetTask
from aam.workflows.columns import Columns, learn_columns
from aam.workflows.fit import Material, Run, gather_material
from aam.workflows.resolve import resolve_training
from aam.workflows.restore import build_predictor, load_pretrained, resumed_config, seen_by

logger = logging.getLogger(__name__)


def prepare_training(study: Study, asked: TrainConfig, world: World | None = None, weight: Floats | None = None) -> Run:
    """Split the samples, fit the target's scale, and build model, data and objective; nothing is written.

    Args:
        study: the samples.
        asked: the options.
        world: the processes that train together; by default this one takes its place among them as the config says.
        weight: how much each sample counts, besides what the config says, where every sample has a target [samples].

    Raises:
        InputError: the target column or the split cannot be used, or the pretrained encoder does not fit.
    """
    learned = learn_columns(study, asked)
    study, split, categories = learned.study, learned.split, learned.categories
    world = world or setup_distributed(asked.runtime.device, asked.distribution)
    resumed = world.on_main(lambda: resumed_config(asked))
    start = asked.finetune.pretrained_encoder
    pretrained = None if start is None or resumed is not None else read_checkpoint(start, kind="pretrain")
    if pretrained is not None:
        ids, sides = study.table.sample_ids, {"validation": split.val, "test": split.test}
        for side, rows in sides.items():
            if (warning := seen_by(pretrained, [ids[row] for row in rows], side)) is not None:
                logger.warning("%s", warning)
    config = resolve_training(asked, study, len(split.train), world, resumed, pretrained)
    compute = Compute.of(world, config.runtime)
    material = gather_material(study, split, config, compute, _mixing(learned, config))
    model = _build_model(config, learned, material, pretrained)
    codes = None
    if categories is not None:
        codes = torch.from_numpy(categories.encode(study.require_metadata())).to(compute.device)
    inputs = inputs_of(model, material.nucleotides, material.draws, config, compute, codes)
    parallel = parallelize(model, config.distribution, compute)
    held_out = material.batches(split.val, config)
    table = _target_table(learned, material, config, weight)
    tasks: list[Task[PredictorOutput]] = [TargetTask(table, config, held_out)]
    if config.target.count_weight > 0:
        tasks.append(TargetAbundances(inputs, config))
    objective = Objective(parallel, inputs, tasks, held_out)
    if resumed is None:
        some, standardize = material.some_training(config), config.target.standardize_samples
        fit_head_inputs(model, inputs, some, standardize=standardize, new_encoder=pretrained is None)
    kept = {"loss_weights": learned.weights, "categories": categories}
    documents = objective.documents() | {name: each.to_json() for name, each in kept.items() if each is not None}
    fingerprint = {"target": digest([table.value.cpu().numpy(), table.weight.cpu().numpy(), json.dumps(documents)])}
    if codes is not None:
        fingerprint["categories"] = digest([codes.cpu().numpy()])
    datasets = PooledStepDataset if isinstance(inputs, PooledInputs) else StepDataset
    dataset = datasets(material.draws, rank=compute.world.rank, ranks=compute.world.size)
    return Run("train", config, material, model, objective, dataset, documents, fingerprint)


def _build_model(
    config: TrainConfig, learned: Columns, material: Material, pretrained: Checkpoint | None
) -> SequencePredictor:
    """Build the model with the weights of its first step."""
    model = build_predictor(config, learned.targets, learned.categories)
    if config.finetune.freeze_base:
        model.freeze()
    give_weights(model, config.distribution, material.compute, config.runtime.seed)
    if pretrained is not None:
        load_pretrained(model, pretrained)
    if model.count_head is not None:
        model.count_head.start_at(mean_log_abundance(material.study.table, material.split.train))
    return model


def _mixing(learned: Columns, config: TrainConfig) -> Mixing | None:
    """Which training samples are mixed: those of the same class."""
    probability = config.augmentation.mix_samples
    if probability == 0:
        return None
    labels, ids = list(learned.values[config.target.metadata_column[0]]), learned.study.table.sample_ids
    mixing = Mixing.of(probability, learned.split.train, labels, ids)
    alone = [ids[row] for row, peers in mixing.peers.items() if len(peers) == 1]
    if alone:
        logger.warning("--mix-samples: the only training samples of their class stay unmixed: %s", first_ids(alone))
    return mixing


def _target_table(learned: Columns, material: Material, config: TrainConfig, weight: Floats | None) -> TargetTable:
    """Encode the targets of samples that train or validate; others keep zeros, which no loss and no choice reads."""
    targets, values, split = learned.targets, learned.values, learned.split
    metadata, device = material.study.require_metadata(), material.compute.device
    used = np.concatenate([split.train, split.val])
    encoded = np.full(values.shape, np.nan)
    encoded[used] = targets.encode(values.iloc[used], metadata)
    known = ~np.isnan(encoded)
    value = np.where(known, encoded, 0.0).astype(np.int64 if targets.is_classes else np.float32)
    counts = learned.sample_weights(config) * (1.0 if weight is None else weight)
    weight_of = torch.from_numpy((known * counts[:, None]).astype(np.float32)).to(device)
    return TargetTable(targets, torch.from_numpy(value).to(device), weight_of, values, metadata)

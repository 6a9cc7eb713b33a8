"""The part that pretraining and fine-tuning share: from a prepared run to a trained output folder."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from aam.config import PretrainConfig, TrainConfig
from aam.data.arrays import Ints
from aam.data.files.whole_files import whole_file
from aam.data.sampling.augmentation import Augmentation, Mixing
from aam.data.sampling.dataset import FixedBatches, StepDataset, StepSampler
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.seeded import derived_seed
from aam.data.sampling.splits import Split, write_split
from aam.data.study import Study, digest
from aam.errors import InputError
from aam.models.transformer import check_attention, compile_blocks
from aam.training.checkpoints.run import Identity, RunCheckpoints
from aam.training.checkpoints.store import CheckpointStore, Kind
from aam.training.distributed import World
from aam.training.distributed.strategies import check_compiler
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import Build, compile_obstacle, describe
from aam.training.memory.budget import judged_at_once
from aam.training.memory.profile import MemoryProfile
from aam.training.memory.step_memory import StepMemory
from aam.training.monitor import Monitor, sinks_of
from aam.training.objective import Objective
from aam.training.provenance import DOCUMENT, checkpoint_document
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Embedded, Results
from aam.training.trainer import Trainer
from aam.workflows.folder import open_folder
from aam.workflows.summary import Summary, keep, say
from aam.workflows.tables import write_table

logger = logging.getLogger(__name__)


STANDARDIZED: Final = 1024
"""Training samples that say how widely those, and their ASVs, differ."""


@dataclass(frozen=True, eq=False)
class Material:
    """A study as tensors: what any objective of a run is made of."""

    study: Study
    split: Split
    nucleotides: Tensor
    """uint8 [ASVs, L], on the device."""
    draws: SampleDraws
    compute: Compute

    def held_out(self, batch_size: int) -> FixedBatches:
        """The validation samples, in order."""
        return FixedBatches(self.draws, self.split.val, batch_size)

    def batches(self, samples: Ints, config: PretrainConfig | TrainConfig) -> FixedBatches:
        """Some samples to judge, in order, as many in a batch as in training, or fewer that surely fit into a budget.

        Every rank calls this.
        """
        return FixedBatches(self.draws, samples, judged_at_once(config, self.draws, samples, self.compute.world))

    def some_training(self, config: PretrainConfig | TrainConfig) -> FixedBatches:
        """At most `STANDARDIZED` training samples, drawn by their ids, in the order of the table; see `batches`."""
        ids, seed = self.study.table.sample_ids, config.runtime.seed
        order = sorted(self.split.train.tolist(), key=lambda row: derived_seed(seed, "standardize", ids[row]))
        return self.batches(np.array(sorted(order[:STANDARDIZED]), dtype=np.int64), config)

    def sampler(self, config: PretrainConfig | TrainConfig, epochs: int | None = None) -> StepSampler:
        """Plan the steps of the whole run, or of so many epochs, over the training samples."""
        optim, ids = config.optim, self.study.table.sample_ids
        # shuffled from the order of their ids, so that the order of the table does not matter
        samples = np.array(sorted(self.split.train.tolist(), key=ids.__getitem__), dtype=np.int64)
        batches = optim.step_samples // optim.batch_samples
        return StepSampler(samples, optim.batch_samples, batches, epochs or optim.epochs, config.runtime.seed)


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is ready for its first step; nothing is written yet."""

    kind: Kind
    config: PretrainConfig | TrainConfig
    """Resolved; see `aam.workflows.resolve`."""
    material: Material
    model: nn.Module
    objective: Objective[Any]
    dataset: StepDataset
    documents: dict[str, Any]
    """What a checkpoint needs besides config and weights."""
    fingerprint: dict[str, str]
    """Hashes of what is learned from besides the study and its split."""

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.material.compute.world

    def trainer(self, store: CheckpointStore) -> Trainer:
        """Make the trainer of this run, silent until it is given a monitor."""
        split, distribution = self.material.split, self.config.distribution
        fingerprint = self.material.study.fingerprint() | {"split": digest([split.train, split.val, split.test])}
        identity = Identity(
            self.kind, self.config.model_dump(mode="json"), self.documents, fingerprint | self.fingerprint
        )
        checkpoints = RunCheckpoints(
            store, identity, self.world, distribution.fsdp_sharded_checkpoint, distribution.async_checkpoint
        )
        sampler = self.material.sampler(self.config)
        memory = StepMemory(self.objective, self.dataset, split.train, self.config)
        return Trainer(self.objective, sampler, memory, self.config, checkpoints)


def gather_material(
    study: Study,
    split: Split,
    config: PretrainConfig | TrainConfig,
    compute: Compute,
    mixing: Mixing | None = None,
) -> Material:
    """Bring a study to the device; training samples are mixed if it is said which.

    Raises:
        InputError: the device does not have the attention kernel that was asked for.
    """
    check_attention(config.model.attn_implementation, compute.device, config.runtime.mixed_precision)
    if config.runtime.compile_model and compile_obstacle(compute.device) is None:
        check_compiler(compute.device)
    tokens = study.nucleotides(config.model.max_bp)
    augmentation = None
    if config.augmentation.varies_reads or mixing is not None:
        keys = torch.from_numpy(study.asv_keys)
        augmentation = Augmentation(config.augmentation, config.runtime.seed, study.table.sample_ids, keys, mixing)
    draws = SampleDraws(study.table, config.sampling, config.runtime.seed, augmentation)
    if config.optim.batch_samples < compute.world.size:
        logger.warning(
            "--batch-size %d counts the samples of all %d processes: some of them have none",
            config.optim.batch_samples,
            compute.world.size,
        )
    logger.info("computing on %s", describe(Build.of_torch(), compute.device))
    return Material(study, split, torch.from_numpy(tokens).to(compute.device), draws, compute)


def fit(run: Run, asked: PretrainConfig | TrainConfig, report: Callable[[RunFolder], Results]) -> Path:
    """Train, or continue a run, leave the model with its best weights, and report on it.

    Args:
        run: what to train.
        asked: the options as the user gave them, which the output folder keeps.
        report: writes what the best weights give to the output folder, held against other runs, and returns it.

    Every rank calls this; rank 0 writes.

    Returns:
        The output folder.

    Raises:
        InputError: there is no metric of the name ``best_metric``, another run is in the folder, or the checkpoint to
            resume from is damaged or of another study; nothing has been written then.
    """
    check_best_metric(run)
    output, world = asked.output, run.world
    trainer = run.trainer(CheckpointStore(RunFolder(output.output_dir).checkpoints, output.keep_checkpoints))
    _compile(run)
    if not output.resume:
        trainer.memory.settle()
    with ExitStack() as stack:
        folder = world.on_main(lambda: stack.enter_context(open_folder(asked, output)))
        if not folder.path.exists():
            raise InputError(f"--output-dir {folder} cannot be seen from process {world.rank}: name a shared folder")
        # the trainer's checkpoints have these documents
        run.documents[DOCUMENT] = world.on_main(lambda: checkpoint_document(folder))
        last = world.on_main(trainer.checkpoints.store.last) if output.resume else None
        if last is not None:
            trainer.load_checkpoint(last)
        if output.resume:
            trainer.memory.settle()
        if world.is_main:
            write_samples(run.material.study, run.material.split, folder)
        sinks, begun = sinks_of(folder, run.config, world.rank), None if last is None else trainer.progress.step
        trainer.monitor = stack.enter_context(Monitor(len(trainer.train_sampler), sinks, begun))
        if run.config.runtime.memory_profile and world.is_main:
            trainer.profile = stack.enter_context(MemoryProfile(run.model, world.device, folder))
        if world.is_main:
            _say_data(run, folder)
        if last is not None:
            logger.info("resumed at step %d", trainer.progress.step)
        trainer.fit()
        best = trainer.progress
        logger.info("best %s: %s at step %s", trainer.best_metric, best.best, best.best_step)
        trainer.checkpoints.load_weights(folder.path, run.model)
        trainer.checkpoints.publish(run.model)
        trainer.monitor.conclude(trainer.progress.step, report(folder))
        world.barrier()
        logger.info("wrote %s", folder)
    return folder.path


def _compile(run: Run) -> None:
    """Compile the blocks of the model where that is asked for and possible."""
    if not run.config.runtime.compile_model:
        return
    obstacle = compile_obstacle(run.world.device)
    if obstacle is None:
        compile_blocks(run.model)
    else:
        logger.warning("%s", obstacle)


def _say_data(run: Run, folder: RunFolder) -> None:
    """Tell what the run learns from, and keep it in the folder."""
    summary = Summary.of_split(run.material.study, run.material.split, run.config)
    keep(summary, folder)
    say(summary)


def embedded_samples(run: Run) -> Embedded:
    """The validation samples as the model places them, with their metadata; every rank calls this."""
    study, batches = run.material.study, run.objective.held_out
    vectors = run.objective.embeddings(batches).float().cpu().numpy()
    ids = [study.table.sample_ids[row] for row in batches.samples]
    labels: dict[str, list[Any]] = {"sample_id": ids}
    if study.metadata is not None:
        own = study.metadata.iloc[batches.samples]
        labels |= {str(name): own[name].tolist() for name in own}
    return Embedded(vectors, labels)


def write_samples(study: Study, split: Split, folder: RunFolder) -> None:
    """Write which samples train, validate and test, and which are left out."""
    with whole_file(folder.split) as draft:
        write_split(draft, split, study.table.sample_ids)
    write_table(study.left_out.set_index("sample_id"), folder.left_out)


def check_best_metric(run: Run) -> None:
    """Refuse a metric to choose the best checkpoint that the run does not have.

    Raises:
        InputError: there is no such metric.
    """
    name = run.config.optim.best_metric
    known = {metric for metric, better in run.objective.metrics.items() if better is not None}
    if name is not None and name not in known:
        raise InputError(f"--best-metric {name} is not a metric of this run; these are: {', '.join(sorted(known))}")

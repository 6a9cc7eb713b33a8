"""The part that pretraining and fine-tuning share: from a prepared run to a trained output folder."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aam.config import PretrainConfig, TrainConfig
from aam.data.dataset import AddressedSampler, FixedBatches, StepDataset
from aam.data.rarefaction import SampleDraws
from aam.data.splits import Split, write_split
from aam.data.study import Study, digest
from aam.data.whole_files import whole_file
from aam.errors import InputError
from aam.models.transformer import check_attention
from aam.training.checkpoint import CheckpointStore, Kind, read_checkpoint
from aam.training.compute import Compute
from aam.training.monitor import Monitor, NullMonitor
from aam.training.objective import Objective
from aam.training.trainer import Identity, Trainer
from aam.workflows.folder import open_folder
from aam.workflows.tables import write_table

logger = logging.getLogger(__name__)


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

    def sampler(self, config: PretrainConfig | TrainConfig) -> AddressedSampler:
        """Plan the steps of the whole run over the training samples."""
        optim, ids = config.optim, self.study.table.sample_ids
        # shuffled from the order of their ids, so that the order of the table does not matter
        samples = np.array(sorted(self.split.train.tolist(), key=ids.__getitem__), dtype=np.int64)
        return AddressedSampler(samples, optim.batch_size, optim.accumulation_steps, optim.epochs, config.runtime.seed)


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is ready for its first step; nothing is written yet."""

    kind: Kind
    config: PretrainConfig | TrainConfig
    """As given, but for the model's shape, which is resolved."""
    material: Material
    model: nn.Module
    objective: Objective
    dataset: StepDataset
    documents: dict[str, Any]
    """What a checkpoint needs besides config and weights."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Hashes of what is learned from besides the study and its split."""

    def trainer(self, store: CheckpointStore) -> Trainer:
        """Make the trainer of this run, silent until it is given a monitor."""
        split = self.material.split
        fingerprint = self.material.study.fingerprint() | {"split": digest([split.train, split.val])}
        identity = Identity(
            self.kind, self.config.model_dump(mode="json"), self.documents, fingerprint | self.fingerprint
        )
        data = (self.material.sampler(self.config), self.dataset)
        store_as = (store, identity)
        return Trainer(self.model, self.objective, data, self.config, self.material.compute, store_as, NullMonitor())


def gather_material(study: Study, split: Split, config: PretrainConfig | TrainConfig, compute: Compute) -> Material:
    """Bring a study to the device.

    Raises:
        InputError: the device does not have the attention kernel that was asked for.
    """
    check_attention(config.model.attn_implementation, compute.device, config.runtime.mixed_precision)
    tokens = study.nucleotides(config.model.max_bp)
    draws = SampleDraws(study.table, config.sampling, config.runtime.seed)
    return Material(study, split, torch.from_numpy(tokens).to(compute.device), draws, compute)


def fit(run: Run, asked: PretrainConfig | TrainConfig, report: Callable[[Path], object]) -> Path:
    """Train, or continue a run, leave the model with its best weights, and report on it.

    Args:
        run: what to train.
        asked: the options as the user gave them, which the output folder keeps.
        report: writes what the best weights give to the output folder, which no other run can enter meanwhile.

    Returns:
        The output folder.

    Raises:
        InputError: there is no metric of the name ``best_metric``, another run is in the folder, or the checkpoint to
            resume from is damaged or of another study; nothing has been written then.
    """
    _check_best_metric(run)
    store = CheckpointStore(asked.output.output_dir / "checkpoints")
    trainer = run.trainer(store)
    with open_folder(asked, asked.output) as folder:
        last = store.last() if asked.output.resume else None
        if last is not None:
            trainer.load_checkpoint(last)
        if run.config.runtime.compile_model:
            # in place, so that weights keep their names; dynamic, since every batch has other sizes
            run.objective.compiled.compile(dynamic=True)
        _write_samples(run.material, folder)
        resumed = trainer.progress.step if last is not None else None
        with Monitor(len(trainer.train_sampler), folder, resumed) as trainer.monitor:
            if last is not None:
                logger.info("resumed at step %d", trainer.progress.step)
            trainer.fit()
            best = trainer.progress
            logger.info("best %s: %s at step %s", trainer.best_metric, best.best, best.best_step)
            run.model.load_state_dict(read_checkpoint(folder).model)
            report(folder)
            logger.info("wrote %s", folder)
    return folder


def _write_samples(material: Material, folder: Path) -> None:
    """Write which samples train, which validate, and which are left out."""
    study = material.study
    assert study.left_out is not None
    with whole_file(folder / "split.tsv") as draft:
        write_split(draft, material.split, study.table.sample_ids)
    write_table(study.left_out.set_index("sample_id"), folder / "left_out.tsv")


def _check_best_metric(run: Run) -> None:
    name, known = run.config.optim.best_metric, run.objective.metric_names()
    if name is not None and name not in known:
        raise InputError(f"--best-metric {name} is not a metric of this run; these are: {', '.join(sorted(known))}")

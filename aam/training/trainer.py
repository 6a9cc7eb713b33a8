"""The training loop."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from aam.config import PretrainConfig, TrainConfig
from aam.data.dataset import AddressedSampler, StepBatch, StepDataset
from aam.errors import InputError, TrainingDivergedError
from aam.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Kind,
    flatten_optimizer,
    load_optimizer,
    read_checkpoint,
)
from aam.training.compute import Compute
from aam.training.metrics import higher_is_better
from aam.training.monitor import NullMonitor
from aam.training.objective import Objective
from aam.training.optim import make_optimizer, make_schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Identity:
    """What a checkpoint says of itself besides weights and state."""

    kind: Kind
    """``pretrain`` or ``train``."""
    config: dict[str, Any]
    documents: dict[str, Any]
    fingerprint: dict[str, str]
    """Hashes of what is learned from, by name, so that a run is resumed on the data that it began with."""


@dataclass
class Progress:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0
    """Steps of the optimizer that are done."""
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Validations since the best one."""


class Trainer:
    """Runs an objective over the steps of a sampler, validates after every epoch, and keeps checkpoints.

    Args:
        model: the bare model; its parameters that require a gradient are learned.
        objective: adds the gradient of a step, and validates.
        train_sampler: plans the steps of the whole run.
        dataset: turns a plan into tensors.
        config: the run's options (`optim`, `runtime` and `output` are read).
        store: where checkpoints go, and what they say of themselves.
        monitor: metrics, logs and the progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        data: tuple[AddressedSampler, StepDataset],
        config: PretrainConfig | TrainConfig,
        compute: Compute,
        store: tuple[CheckpointStore, Identity],
        monitor: NullMonitor,
    ) -> None:
        self.model = model
        self.objective = objective
        self.train_sampler, self.dataset = data
        self.config = config
        self.compute = compute
        self.store, self.identity = store
        self.monitor = monitor
        self.optimizer = make_optimizer(model, config.optim)
        self.schedule = make_schedule(self.optimizer, config.optim, len(self.train_sampler))
        self.scaler = compute.scaler()
        self.progress = Progress()
        self.finite = torch.ones((), dtype=torch.bool, device=compute.device)

    def fit(self) -> None:
        """Train to the last step of the sampler, or until validation has not improved for `patience` epochs."""
        sampler = replace(self.train_sampler, start=self.progress.step)
        self.model.train()
        for step in self._loader(sampler):
            if self._is_exhausted():
                logger.info("no better %s in %d validations: stopped early", self.best_metric, self.progress.stale)
                break
            rate = self.schedule.lr
            self._log_losses(step, self.train_step(step), rate)
            if step.plan.closes_epoch:
                self.save_checkpoint(best=self.validate(step.plan.epoch))
            elif self._is_due(self.config.output.checkpoint_every):
                self.save_checkpoint(best=False)

    def train_step(self, step: StepBatch) -> Mapping[str, Tensor]:
        """Make one step of the optimizer; returns the losses, still on the device."""
        losses = self.objective.backward(step.to(self.compute.device, non_blocking=True), self.scaler.scale)
        self.finite &= losses["loss"].isfinite()
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.progress.step += 1
        self.monitor.advance()
        return losses

    def validate(self, epoch: int) -> bool:
        """Judge the model on the held-out samples; returns whether it is the best so far."""
        self._check_finite(f"epoch {epoch}")
        metrics = self.objective.validate()
        self.monitor.log_validation(self.progress.step, epoch, metrics)
        value = metrics[self.best_metric]
        if value is not None and not math.isfinite(value):  # such as the inverse of a log transform, overflowing
            value = None
        sign = -1.0 if higher_is_better(self.best_metric) else 1.0
        if value is not None:
            self.schedule.plateau(sign * value)
        progress = self.progress
        if value is not None and (progress.best is None or sign * value < sign * progress.best):
            progress.best, progress.best_step, progress.stale = value, progress.step, 0
            return True
        progress.stale += 1
        return False

    @property
    def best_metric(self) -> str:
        """Name of the metric that chooses the best checkpoint."""
        return self.config.optim.best_metric or "val/loss"

    def save_checkpoint(self, best: bool) -> None:
        """Write weights and everything that resuming needs."""
        self._check_finite(f"step {self.progress.step}")
        optimizer, groups = flatten_optimizer(self.optimizer, self.model)
        state = {
            "progress": asdict(self.progress),
            "groups": groups,
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "study": self.identity.fingerprint,
        }
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        checkpoint = Checkpoint(
            self.identity.kind, self.identity.config, self.identity.documents, weights, optimizer, state
        )
        self.store.write(checkpoint, self.progress.step, best)

    def load_checkpoint(self, path: Path) -> None:
        """Continue where a checkpoint of this run was written.

        Raises:
            InputError: the checkpoint is damaged, or was written on another study.
        """
        checkpoint = read_checkpoint(path, with_state=True, kind=self.identity.kind)
        assert checkpoint.state is not None
        assert checkpoint.optimizer is not None
        state = checkpoint.state
        begun, here = state["study"], self.identity.fingerprint
        changed = sorted(name for name in begun.keys() | here.keys() if begun.get(name) != here.get(name))
        if changed:
            raise InputError(
                f"--resume: {path} was trained on other data than these files hold (changed: {', '.join(changed)}): "
                "give the files of the first run, or start a new one"
            )
        self.model.load_state_dict(checkpoint.model)
        load_optimizer(self.optimizer, self.model, checkpoint.optimizer, state["groups"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])

    def _loader(self, sampler: AddressedSampler) -> DataLoader[StepBatch]:
        return DataLoader(
            self.dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.config.runtime.num_workers,
            pin_memory=self.compute.device.type == "cuda",
        )

    def _log_losses(self, step: StepBatch, losses: Mapping[str, Tensor], rate: float) -> None:
        if step.plan.closes_epoch or self._is_due(self.config.output.log_every):
            values = {f"train/{name}": float(value) for name, value in losses.items()}
            self.monitor.log_training(self.progress.step, step.plan.epoch, values | {"train/learning_rate": rate})

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _is_exhausted(self) -> bool:
        patience = self.config.optim.patience
        return patience is not None and self.progress.stale >= patience

    def _check_finite(self, when: str) -> None:
        """Fail before weights that are not numbers are judged or written; rarely called, since it waits for a GPU."""
        # a gradient can overflow where the loss does not
        finite = torch.stack([self.finite, *(weight.isfinite().all() for weight in self.model.parameters())]).all()
        if not bool(finite):
            raise TrainingDivergedError(
                f"loss or weights became NaN or infinite before {when}; the last checkpoint is from before. Try a "
                "lower --lr, or --mixed-precision none"
            )

"""The training loop."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from aam.config import PretrainConfig, TargetOptimConfig, TrainConfig
from aam.data.sampling.dataset import StepBatch, StepPlan, StepSampler
from aam.errors import InputError, StoppedBySignalError, TrainingDivergedError, first_ids
from aam.training.checkpoints.alike import check_alike
from aam.training.checkpoints.run import RunCheckpoints
from aam.training.distributed.agreement import Agreement, Verdict
from aam.training.distributed.sharding import own_part
from aam.training.loading import step_loader
from aam.training.machine.signals import stop_signals
from aam.training.memory.profile import BETWEEN, OPTIMIZER, VALIDATION, NullProfile
from aam.training.memory.step_memory import StepMemory
from aam.training.monitor import Monitor
from aam.training.objective import Objective
from aam.training.optim import Schedule, make_optimizer, own_rates
from aam.training.sinks.sink import Judged

logger = logging.getLogger(__name__)

REMEDY: Final = "Try a lower --lr, or --mixed-precision none"


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

    Every rank runs one; all of them stop, save and fail at the same step.

    Args:
        objective: adds the gradient of a step to the parameters of its model that require one, and validates.
        train_sampler: plans the steps of the whole run, so that nobody has to announce an epoch; the same plan, of the
            samples of all ranks, whatever their number.
        memory: turns a plan into this rank's tensors, cut into batches that fit.
        config: the run's options (`optim`, `runtime` and `output` are read).
        checkpoints: where checkpoints go, and what they say of themselves.
    """

    def __init__(
        self,
        objective: Objective[Any],
        train_sampler: StepSampler,
        memory: StepMemory,
        config: PretrainConfig | TrainConfig,
        checkpoints: RunCheckpoints,
    ) -> None:
        self.objective, self.model = objective, objective.model
        self.train_sampler, self.memory = train_sampler, memory
        self.config = config
        self.compute = objective.parallel.compute
        self.world = self.compute.world
        self.checkpoints = checkpoints
        self.monitor = Monitor()
        self.optimizer = make_optimizer(self.model, config.optim, own_rates(config))
        self.schedule = Schedule(self.optimizer, config.optim, len(self.train_sampler))
        self.scaler = self.compute.scaler()
        self.profile = NullProfile()
        self.progress = Progress()
        self.agreement = Agreement(self.world)

    def fit(self) -> None:
        """Train to the last step of the sampler, or until validation has not improved for `patience` epochs.

        Raises:
            TrainingDivergedError: the loss is no longer a number.
            StoppedBySignalError: SIGTERM, SIGUSR1 or SIGHUP came to some rank; a checkpoint has been written.
        """
        self.model.train()
        self.memory.begin(self.optimizer)
        settles = self.objective.parallel.settles
        with stop_signals() as request:
            for step in self._steps():
                if self._is_exhausted():
                    logger.info("no better %s in %d validations: stopped early", self.best_metric, self.progress.stale)
                    break
                rate = self.schedule.lr
                self.world.where(f"step {step.plan.step + 1} ({self._samples(step.plan, self.world.rank)})")
                if settles:
                    # DDP orders its buckets of gradients, so that a resumed run adds up as an undisturbed one would
                    self.objective.backward(step.to(self.compute.device), lambda loss: loss)
                    self.optimizer.zero_grad(set_to_none=True)
                    settles = False
                losses = self.train_step(step)
                stop, written = request.name is not None, self.checkpoints.finished()
                exceeded, finite = self.memory.watch.is_exceeded(), losses["loss"].isfinite()
                self.agreement.report(step.plan, self.objective.is_finite, finite, stop, written, exceeded)
                self._log_losses(step, losses, rate)
                due = self._is_judged(step.plan) or self._is_due(self.config.output.checkpoint_every)
                stops = self._check(self.agreement.verdicts(wait=due))
                if due:
                    self.save_checkpoint(best=self._is_judged(step.plan) and self.validate(step.plan.epoch))
                    self.memory.watch.forget()
                if stops:
                    self._stop(saved=due)
            self._check(self.agreement.verdicts(wait=True))
        self.checkpoints.close()

    def train_step(self, step: StepBatch) -> Mapping[str, Tensor]:
        """Make one step of the optimizer; returns this rank's parts of the losses, still on the device."""
        losses = self.memory.backward(step, self.profile.watched(self.scaler.scale))
        self.profile.enter(OPTIMIZER)
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.progress.step += 1
        self.monitor.advance()
        self.profile.step_done()
        return losses

    def _check(self, verdicts: list[Verdict]) -> bool:
        """Fail on every rank where one has failed to compute a number; returns whether to stop."""
        for verdict in verdicts:
            if verdict.broken is not None:
                self.checkpoints.close()
                rank = f"rank {verdict.broken}, " if self.world.size > 1 else ""
                raise TrainingDivergedError(
                    f"{rank}step {verdict.plan.step + 1}: the loss became NaN or infinite "
                    f"({self._samples(verdict.plan, verdict.broken)}); the last checkpoint is from before. {REMEDY}"
                )
            if verdict.written:
                self.checkpoints.finish()
            if verdict.exceeded:
                self.memory.shrink(verdict.plan)
        return any(verdict.stop for verdict in verdicts)

    def _stop(self, saved: bool) -> NoReturn:
        if not saved:
            self.save_checkpoint(best=False)
        self.checkpoints.close()
        raise StoppedBySignalError(
            f"stopped by a signal after step {self.progress.step}, which is saved: continue with --resume"
        )

    def _samples(self, plan: StepPlan, rank: int) -> str:
        rows = np.concatenate(plan.parts_of(self.world.size)[rank])
        ids = self.memory.dataset.draws.table.sample_ids
        return f"samples {first_ids(ids[row] for row in rows)}" if len(rows) else "no samples"

    def validate(self, epoch: int) -> bool:
        """Judge the model on the validation samples; returns whether it is the best so far."""
        self._check_finite(f"epoch {epoch}")
        self.profile.enter(VALIDATION)
        judged = self.objective.validate()
        self.profile.enter(BETWEEN)
        # of one rank, should others round differently: all take the same decisions
        metrics = self.world.on_main(lambda: judged)
        self.monitor.log_validation(self.progress.step, epoch, metrics)
        is_best = self._is_best(metrics[self.best_metric])
        self.monitor.judge(Judged(self.progress.step, epoch, metrics, self.best_metric, is_best))
        return is_best

    def _is_best(self, value: float | None) -> bool:
        """Take note of the metric that chooses the checkpoint, and say whether it was never better."""
        if value is not None and not math.isfinite(value):  # such as the inverse of a log transform, overflowing
            value = None
        sign = -1.0 if self.objective.metrics[self.best_metric] else 1.0
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
        self.checkpoints.save(self.model, self.optimizer, self._state(), self.progress.step, best)

    def _state(self) -> dict[str, Any]:
        return self.memory.state_dict() | {
            "progress": asdict(self.progress),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_checkpoint(self, path: Path) -> None:
        """Continue where a checkpoint of this run was written, by whatever number of ranks and with any strategy.

        Raises:
            InputError: the checkpoint is damaged, or was written on another study.
        """
        own = self._state()
        state = self.checkpoints.load(path, self.model, self.optimizer)
        own["memory"] = state.get("memory")  # which a budget says of itself below
        check_alike({name: value for name, value in state.items() if name not in {"study", "groups"}}, own, "state")
        step = state["progress"]["step"]
        if not isinstance(step, int) or not 0 <= step <= len(self.train_sampler):
            raise InputError(f"{path} says that {step} steps are done, of a run of {len(self.train_sampler)}")
        self.memory.load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])

    def _steps(self) -> Iterator[StepBatch]:
        """All steps that are left; made anew from where it has changed into which batches they are cut."""
        dataset = None
        while dataset is not self.memory.dataset:
            dataset = self.memory.dataset
            sampler = replace(self.train_sampler, start=self.progress.step)
            for step in step_loader(dataset, sampler, self.config.runtime, self.compute.device):
                yield step
                if self.memory.dataset is not dataset:
                    break

    def _log_losses(self, step: StepBatch, losses: Mapping[str, Tensor], rate: float) -> None:
        if step.plan.closes_epoch or self._is_due(self.config.output.log_every):
            total = self.world.sum(torch.stack([value.double() for value in losses.values()])).tolist()
            values = {f"train/{name}": value for name, value in zip(losses, total, strict=True)}
            self.monitor.log_training(self.progress.step, step.plan.epoch, values | {"train/learning_rate": rate})

    def _is_judged(self, plan: StepPlan) -> bool:
        """Whether the model is validated after a step."""
        done, optim = plan.epoch + 1, self.config.optim
        return plan.closes_epoch and (done % optim.validate_every == 0 or done == optim.epochs)

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _is_exhausted(self) -> bool:
        optim = self.config.optim
        least = optim.min_steps if isinstance(optim, TargetOptimConfig) else 0
        return optim.patience is not None and self.progress.stale >= optim.patience and self.progress.step >= least

    def _check_finite(self, when: str) -> None:
        """Fail before weights that are not numbers are judged or written; rarely called, since it waits for a GPU."""
        # a gradient can overflow where the loss does not
        weights = [own_part(weight).isfinite().all().to(self.world.device) for weight in self.model.parameters()]
        broken = self.world.sum((~torch.stack(weights).all()).double())
        if broken.item():
            raise TrainingDivergedError(
                f"loss or weights became NaN or infinite before {when}; the last checkpoint is from before. {REMEDY}"
            )

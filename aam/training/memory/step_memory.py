"""Keeps the steps of a run within the memory: all that the training loop and the data need to know of it.

A step keeps its samples, whatever the batches it is cut into, and so its result.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from aam.config import PretrainConfig, TrainConfig
from aam.data.sampling.dataset import PooledStepDataset, StepBatch, StepDataset, StepPlan
from aam.data.sampling.packing import AS_PLANNED, MemoryBudget, Rows
from aam.errors import InputError
from aam.training.distributed.sharding import own_part
from aam.training.memory.allocator import keep_freed_memory, return_freed_memory
from aam.training.memory.budget import GB, KEPT_FREE, Trial, cost_of_run, is_limited, lowered, memory_limit
from aam.training.memory.meters import NullWatch, Watch, meter_of
from aam.training.objective import Objective, Scale

logger = logging.getLogger(__name__)


class StepMemory:
    """Into which batches steps are cut: as planned, or so that they fit where the run's options limit the memory.

    Where a GPU's memory does not suffice, there are more of them from then on, whatever the options.

    Args:
        objective: adds the gradient of a step.
        dataset: makes its tensors; `StepMemory.dataset` is the one to ask, which is another when batches get smaller.
        samples: rows of the training samples.
        config: the run's options.
    """

    def __init__(
        self, objective: Objective[Any], dataset: StepDataset, samples: Rows, config: PretrainConfig | TrainConfig
    ) -> None:
        self.objective, self.dataset = objective, dataset
        self.samples, self.config = samples, config
        self.world = objective.parallel.world
        self.watch = NullWatch()
        self._has_exceeded = False

    @property
    def budget(self) -> MemoryBudget | None:
        """What a batch may take; None: nobody has said."""
        return self.dataset.cutting.budget

    def settle(self) -> None:
        """Choose how steps are cut, unless a checkpoint has said it; every rank calls this before the first step.

        Raises:
            InputError: a sample does not fit by itself, or the system does not tell how much memory is taken.
        """
        # of embedded samples any number fits
        if is_limited(self.config) and not isinstance(self.dataset, PooledStepDataset):
            budget = self.budget or self.measured()
            self._cut(budget=budget)
            tight = self._trial().is_tight(budget)
            if self.world.device.type == "cpu":
                # keeping it is faster, but leaves holes between tensors
                (return_freed_memory if tight else keep_freed_memory)()

    def measured(self) -> MemoryBudget:
        """Measure what batches take, and so how many samples may share one; see `settle`."""
        limit = memory_limit(self.config, self.world)
        if self.world.device.type == "cpu":
            return_freed_memory()
        cost = cost_of_run(self.config, self.objective.parallel.compute)
        return self._trial().fit(MemoryBudget((1 - KEPT_FREE) * limit, cost, ceiling=limit))

    def _trial(self) -> Trial:
        planned = replace(self.dataset, cutting=AS_PLANNED)
        return Trial.of(self.objective, planned, self.samples, self.config.optim.step_samples)

    def begin(self, optimizer: Optimizer) -> None:
        """Watch what steps take from now on: on a CPU, which unlike a GPU gives more than a process may take."""
        ceiling = None if self.budget is None else self.budget.ceiling
        if self.world.device.type == "cpu" and ceiling is not None:
            # of a resumed run the optimizer is there already
            states = optimizer.state_dict()["state"].values()
            held = sum(own_part(part).nbytes for state in states for part in state.values() if isinstance(part, Tensor))
            self.watch = Watch(meter_of(self.world.device), ceiling - held)

    def backward(self, step: StepBatch, scale: Scale) -> Mapping[str, Tensor]:
        """Add the gradient of a step; from when a GPU's memory does not suffice, in batches half as large.

        Returns:
            What `Objective.backward` does.

        Raises:
            InputError: a sample does not fit by itself, or there are other processes, which wait within the step.
        """
        while True:
            if step.cutting != self.dataset.cutting:  # made before batches got smaller
                step = self.dataset[step.plan]
            try:
                return self.objective.backward(step.to(self.world.device, non_blocking=True), scale)
            except torch.OutOfMemoryError as error:
                self._halve(step, error)

    def shrink(self, plan: StepPlan) -> None:
        """Let batches be smaller from now on, since a step took more than some process may; every rank calls this."""
        assert self.budget is not None
        assert self.budget.ceiling is not None
        self._cut(budget=lowered(self.budget))
        return_freed_memory()
        if not self._has_exceeded:
            self._has_exceeded = True
            logger.warning(
                "step %d took more than the %.2f GB that may be used: batches are smaller from now on, %s",
                plan.step + 1,
                self.budget.ceiling / GB,
                self._same_result,
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"memory": asdict(self.budget) if self.budget else None, "pieces": self.dataset.cutting.pieces}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut steps as the run did that wrote a checkpoint: by what it has measured."""
        self._cut(pieces=state["pieces"])
        if state["memory"] is not None:
            self._cut(budget=MemoryBudget.from_json(state["memory"]))

    def _cut(self, **changes: Any) -> None:
        self.dataset = replace(self.dataset, cutting=replace(self.dataset.cutting, **changes))

    def _halve(self, step: StepBatch, error: torch.OutOfMemoryError) -> None:
        """Cut batches in two from now on, and drop what there is of the step's gradient; see `backward`."""
        largest = max(len(batch.sample) for batch in step.micro)
        where = f"rank {self.world.rank}, step {step.plan.step + 1}: a batch of {largest} samples does not fit"
        if self.world.size > 1 or largest == 1:
            raise InputError(
                f"{where} into the memory of {self.world.device}: give --max-memory-gb, which cuts steps into "
                "smaller batches with the same result; or --gradient-checkpointing or a lower --max-asvs"
            ) from error
        self.objective.model.zero_grad(set_to_none=True)
        self._cut(pieces=2 * self.dataset.cutting.pieces)
        logger.warning("%s into the memory: batches are half as large from now on, %s", where, self._same_result)

    @property
    def _same_result(self) -> str:
        """What other batches change of a step; dropout is drawn by batch."""
        return "with the same result" + (" but for what dropout draws" if self.objective.draws_dropout else "")

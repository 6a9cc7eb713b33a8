"""What is learned, all together: the gradient of an optimizer step, and the metrics on validation samples.

Shapes: B samples of a batch, R samples of this rank in a step, D width, k columns of a task.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from aam.data.sampling.dataset import FixedBatches, StepBatch
from aam.data.sampling.samples import SampleBatch, Samples
from aam.data.sampling.seeded import derived_seed
from aam.training.distributed import gather_embeddings_for_unifrac
from aam.training.distributed.strategies import Parallel
from aam.training.inputs import Inputs
from aam.training.losses import MultiTaskLoss
from aam.training.machine.compute import draws_dropout, seeded
from aam.training.metrics import Better
from aam.training.tasks.base import VALIDATION, Comparison, Microbatch, OfStep, Output, Task

Scale = Callable[[Tensor], Tensor]
"""Multiplies the loss before the backward pass (a gradient scaler's, for fp16)."""
AnyTask = TypeVar("AnyTask", bound=Task[Any])


class Objective(Generic[Output]):
    """Adds up the losses of tasks, each with a name of its own."""

    def __init__(
        self, parallel: Parallel, inputs: Inputs, tasks: Sequence[Task[Output]], held_out: FixedBatches
    ) -> None:
        self.model: nn.Module = inputs.model
        self.parallel = parallel
        self.compute = parallel.compute
        self.inputs = inputs
        self.tasks: tuple[Task[Output], ...] = tuple(tasks)
        self.held_out = held_out
        self.seed = inputs.config.runtime.seed
        self.draws_dropout = draws_dropout(self.model)
        self.is_finite = torch.ones((), dtype=torch.bool, device=self.compute.device)
        """Whether what this rank computed in the last step without the others is a number: bool scalar."""
        self.total = MultiTaskLoss({_loss(task): task.weight for task in tasks})

    def task(self, kind: type[AnyTask]) -> AnyTask:
        """The task of a kind.

        Raises:
            KeyError: nothing of the kind is learned.
        """
        for task in self.tasks:
            if isinstance(task, kind):
                return task
        raise KeyError(kind.__name__)

    def backward(self, step: StepBatch, scale: Scale) -> dict[str, Tensor]:
        """Add the gradient of one optimizer step to the parameters.

        Where gradients are averaged over ranks, theirs is that of one process with all samples of the step.

        Pairs of samples are compared on embeddings without a graph first, which gives the gradient at each embedding;
        it goes through the model afterwards. Where the step has several batches, their embeddings are computed once for
        the comparison and again for the gradient (gradient cache: Gao et al. 2021, Scaling deep contrastive learning
        batch size under memory limited setup).

        Returns:
            This rank's parts of the losses, detached: the loss of the step is their sum over ranks.
        """
        self.is_finite = torch.ones_like(self.is_finite)
        batches = self._batches(step)
        totals = self._totals(batches)
        first = self._call(batches[0]) if len(batches) == 1 else None
        comparisons = self._compare(step, batches, first)
        sums: dict[str, Tensor] = {}
        for micro in batches:
            with self.parallel.no_sync() if micro.number < len(batches) - 1 else nullcontext():
                output = first or self._call(micro)
                parts = {
                    _loss(task): task.loss(output, micro, OfStep(totals[task.name], comparisons.get(task.name)))
                    for task in self.tasks
                }
                # strategies take the mean over ranks, while every part is this rank's part of a sum
                scale(self.parallel.world.size * self.total(parts)).backward()  # type: ignore[no-untyped-call]
            for name, part in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
        for task in self.tasks:
            if not task.compares:  # a comparison is no number either where another rank's embeddings are none
                self.is_finite = self.is_finite & sums[_loss(task)].isfinite()
        return {"loss": self.total(sums)} | sums

    def _batches(self, step: StepBatch) -> list[Microbatch]:
        """What the model reads of the batches of a step."""
        batches = []
        for number, batch in enumerate(step.micro):
            samples = self.inputs.of_step(batch, step.plan.step)
            for task in self.tasks:
                samples = task.mask(samples, batch, step.plan.step)
            batches.append(Microbatch(step, number, samples))
        return batches

    def _totals(self, batches: Sequence[Microbatch]) -> dict[str, Tensor]:
        """Weights of the whole step, of each task [k]."""
        own = {}
        for task in self.tasks:
            weights = [weight for micro in batches if (weight := task.weigh(micro)) is not None]
            own[task.name] = torch.stack(weights).double().sum(0) if weights else self.is_finite.new_zeros(0).double()
        summed = self.parallel.world.sum(torch.cat(list(own.values())))
        return dict(zip(own, torch.split(summed, [len(part) for part in own.values()]), strict=True))

    def _compare(self, step: StepBatch, batches: Sequence[Microbatch], first: Output | None) -> dict[str, Comparison]:
        """Compare all samples of the step, for the tasks that do."""
        comparing = [task for task in self.tasks if task.compares]
        if not comparing:
            return {}
        own: dict[str, list[Tensor]] = {task.name: [] for task in comparing}
        with torch.no_grad():
            for micro in batches:
                output = first or self._call(micro, masked=False)
                for task in comparing:  # nothing else of an output is kept
                    own[task.name].append(task.compared(output)[micro.batch.real])
        comparisons = {}
        for task in comparing:
            rows = torch.cat(own[task.name])
            self.is_finite = self.is_finite & rows.isfinite().all()
            everyone = gather_embeddings_for_unifrac(self.parallel.world, rows, step.sizes)
            comparisons[task.name] = task.compare(step, rows, everyone)
        return comparisons

    def _call(self, micro: Microbatch, masked: bool = True) -> Any:
        # dropout is the one draw of torch's own generator: seeded, so that a batch can be run again
        number = micro.number * self.parallel.world.size + self.parallel.world.rank
        seed = derived_seed(self.seed, "dropout", micro.step.plan.step, number)
        samples = micro.samples if masked else micro.samples._replace(masked_nucleotides=None)
        with seeded(seed, self.compute.device) if self.draws_dropout else nullcontext(), self.compute.autocast():
            return self.parallel.call(samples)

    @torch.no_grad()
    def validate(self) -> dict[str, float | None]:
        """Metrics over all validation samples, the same on every rank, as ``val/loss``; None where undefined."""
        self.model.eval()
        rows = self._judge(self.tasks, self.held_out)
        none = torch.empty(0, device=self.compute.device)
        judged = {task: task.validate(rows.get(task.name, none)) for task in self.tasks}
        self.model.train()
        total = sum(task.weight * each.loss for task, each in judged.items())
        losses = {f"val/{_loss(task)}": each.loss for task, each in judged.items()}
        metrics = {f"val/{name}": value for each in judged.values() for name, value in each.metrics.items()}
        return {"val/loss": total} | losses | metrics

    @torch.no_grad()
    def outputs(self, task: Task[Output], batches: FixedBatches) -> Tensor:
        """What a task that judges samples reads of the model's output for some: [samples, k]; every rank calls this."""
        self.model.eval()
        rows = self._judge([task], batches)[task.name]
        self.model.train()
        return rows

    @torch.no_grad()
    def embeddings(self, batches: FixedBatches) -> Tensor:
        """How the model places samples: [samples, D]; every rank calls this."""
        self.model.eval()
        rows = self.inputs.over(lambda samples, _: self.model(samples).sample_embedding, batches)
        self.model.train()
        return rows

    def _judge(self, tasks: Sequence[Task[Output]], batches: FixedBatches) -> dict[str, Tensor]:
        """What tasks read of the model's output for some samples, by name: [samples, k]; those that read some."""
        judging = [task for task in tasks if type(task).judge is not Task.judge]
        if not judging:
            return {}
        widths: list[int] = []

        def work(samples: Samples, batch: SampleBatch) -> Tensor:
            given = [task.mask(samples, batch, VALIDATION) for task in judging]
            plain: Any = self.model(samples) if any(each is samples for each in given) else None
            parts = [
                task.judge(plain if each is samples else self.model(each), batch, each)
                for task, each in zip(judging, given, strict=True)
            ]
            widths[:] = [part.shape[1] for part in parts]
            return torch.cat(parts, dim=1)

        columns = torch.split(self.inputs.over(work, batches), widths, dim=1)
        return {task.name: part for task, part in zip(judging, columns, strict=True)}

    @property
    def metrics(self) -> Better:
        """The metrics that `validate` gives."""
        names: dict[str, bool | None] = {"val/loss": False}
        for task in self.tasks:
            names |= {f"val/{_loss(task)}": False} | {f"val/{name}": better for name, better in task.metrics.items()}
        return names

    def documents(self) -> dict[str, Any]:
        """What a checkpoint keeps of the tasks."""
        return {name: document for task in self.tasks for name, document in task.documents().items()}

    def fingerprint(self) -> dict[str, str]:
        """Hashes of what is learned from besides the study and its split."""
        return {name: digest for task in self.tasks for name, digest in task.fingerprint().items()}


def _loss(task: Task[Any]) -> str:
    return f"{task.name}_loss"

"""What a task is.

Shapes: B samples of a batch, R samples of this rank in a step, G samples of the whole step, D width, k weights or
columns of a task.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from aam.data.sampling.dataset import StepBatch
from aam.data.sampling.samples import SampleBatch, Samples
from aam.training.metrics import Better, Metrics

Output = TypeVar("Output")
"""What the model returns: `EncoderOutput` or `PredictorOutput`."""

VALIDATION = "validation"
"""In the place of the step, for masks that stay the same."""


@dataclass(frozen=True, eq=False)
class Microbatch:
    """One batch of an optimizer step, on one rank."""

    step: StepBatch
    number: int
    """Which of the step's batches it is."""
    samples: Samples
    """What the model reads of it."""

    @property
    def batch(self) -> SampleBatch:
        """Its samples."""
        return self.step.micro[self.number]

    @cached_property
    def own(self) -> slice:
        """Where its samples are among this rank's samples of the step."""
        start = sum(other.real.stop for other in self.step.micro[: self.number])
        return slice(start, start + self.batch.real.stop)


class Comparison(NamedTuple):
    """What comparing all samples of a step gives this rank."""

    loss: Tensor
    """Its part of the loss, a scalar."""
    gradient: Tensor
    """Of the loss of the step at its embeddings [R, D]."""


class OfStep(NamedTuple):
    """What a task knows of the whole step, over all batches and ranks."""

    total: Tensor
    """Sum of `Task.weigh` [k]."""
    comparison: Comparison | None = None
    """Where the task compares samples."""


class Judged(NamedTuple):
    """What the model is worth on validation samples."""

    loss: float
    metrics: Metrics
    """By name, such as ``unifrac_r2``."""


class Task(ABC, Generic[Output]):
    """Something that is learned.

    Its loss is a mean over the whole optimizer step: a batch's part is divided by the total weight of the step, so that
    parts add up, whatever the batches and ranks.
    """

    name: ClassVar[str]
    """Its loss is ``NAME_loss`` in metrics, and its weight the option ``--NAME-weight``."""
    compares: ClassVar[bool] = False
    """Whether the loss is of pairs of samples of the step; see `compare`."""
    weight: float
    """Of its loss."""

    def mask(self, samples: Samples, batch: SampleBatch, step: int | str) -> Samples:
        """Mask what the model is to predict; a function of (seed, step) and of each sample or ASV."""
        return samples

    def weigh(self, micro: Microbatch) -> Tensor | None:
        """Weights of a batch that the step's loss is a mean over, float64 [k]; None where the step knows them."""
        return None

    def compared(self, output: Output) -> Tensor:
        """What `compare` reads of the output for a batch, [B, D]; of tasks that compare."""
        raise NotImplementedError

    def compare(self, step: StepBatch, z: Tensor, everyone: Tensor) -> Comparison:
        """Compare this rank's samples, `compared` [R, D], with all of the step [G, D]; of tasks that compare."""
        raise NotImplementedError

    @abstractmethod
    def loss(self, output: Output, micro: Microbatch, of_step: OfStep) -> Tensor:
        """A batch's part of the step's loss: a scalar whose sum over batches and ranks is the mean over the step."""

    def judge(self, output: Output, batch: SampleBatch, samples: Samples) -> Tensor:
        """What `validate` reads of the output for a batch of validation samples: [B, k].

        Tasks that judge samples define it.
        """
        raise NotImplementedError

    @abstractmethod
    def validate(self, rows: Tensor) -> Judged:
        """Judge the predictions for all validation samples; every rank calls this, and gets the same.

        Args:
            rows: what `judge` gave, in the order of the samples [samples, k]; of a task that does not define it empty.
        """

    @property
    @abstractmethod
    def metrics(self) -> Better:
        """The metrics of `validate`."""

    def documents(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task, as JSON by name."""
        return {}

    def fingerprint(self) -> dict[str, str]:
        """Hashes by name of what is learned from besides the study and its split; a resumed run must have the same."""
        return {}

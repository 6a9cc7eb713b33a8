"""Section about the kernel learner."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from aam.config.base import Names, Positive, Section


class KernelConfig(Section):
    """Gaussian processes on UniFrac and other kernels, whose weights are chosen for groups that were not seen."""

    panel: ClassVar[str] = "Kernels"

    kernel_exact_samples: Positive = 4000
    """Up to so many training samples all of them are compared with each other; beyond, with landmarks."""
    kernel_landmarks: Positive = 2000
    """Training samples, drawn evenly from the groups, with which samples are compared where there are too many."""
    kernel_weight_samples: Annotated[int, Field(ge=10)] = 1000
    """At most so many training samples, drawn evenly from the groups, choose the weights of the kernels."""
    kernel_steps: Positive = 20
    """Most steps in which the weights are chosen."""
    numeric_columns: Names = ()
    """Columns of numbers such as age,bmi that the prediction may depend on, each a kernel of its own; new samples need
    them too (empty: taken for the mean of the training samples)."""

    @model_validator(mode="after")
    def _columns_are_named_once(self) -> Self:
        twice = [name for name in self.numeric_columns if self.numeric_columns.count(name) > 1]
        if twice:
            raise ValueError(f"--numeric-columns names {twice[0]} twice")
        return self

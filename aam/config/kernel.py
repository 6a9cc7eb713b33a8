"""Section about the kernel learner."""

from typing import Annotated, ClassVar

from pydantic import Field

from aam.config.base import Positive, Section


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

"""Search spaces of `aam tune`: which options of a learner are tried, and within which limits."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TunedLearner = Literal["linear", "forest", "clades", "kernel", "ensemble", "neural"]
Value = bool | int | float | str


class Range(BaseModel):
    """Numbers between two ends, which belong to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
    form: ClassVar[str] = "low and high"

    low: int | float
    high: int | float
    log: bool = False
    """Whether each order of magnitude is tried as often as another."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs a low above 0, and it is {self.low}")
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that stand for all of it when options are checked."""
        return self.low, self.high


class Choices(BaseModel):
    """Some values, of which any may be taken; a list such as members of an ensemble is one text with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
    form: ClassVar[str] = "choices"

    choices: Annotated[tuple[Value, ...], Field(min_length=2, strict=False)]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len({repr(value) for value in self.choices}) < len(self.choices):
            raise ValueError("choices name a value twice")
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them."""
        return self.choices


Space = Mapping[str, Range | Choices]
"""By option."""

_TREES: Final = Range(low=100, high=1000, log=True)
_PREVALENCE: Final = Range(low=0.005, high=0.2, log=True)
_PENALTY: Final = Choices(choices=("l2", "l1", "elasticnet"))
_KERNEL_STEPS: Final = Range(low=5, high=80, log=True)

SPACES: Final[Mapping[TunedLearner, Space]] = {
    "linear": {"linear_penalty": _PENALTY, "min_prevalence": _PREVALENCE},
    "forest": {"trees": _TREES, "min_prevalence": _PREVALENCE},
    "clades": {"trees": _TREES, "min_prevalence": _PREVALENCE},
    "kernel": {"kernel_steps": _KERNEL_STEPS, "kernel_weight_samples": Range(low=100, high=2000, log=True)},
    "ensemble": {
        "ensemble_members": Choices(
            choices=("clades,kernel,linear", "clades,kernel", "clades,linear", "kernel,linear", "clades,forest,kernel")
        ),
        "ensemble_weights": Choices(choices=("stack", "mean")),
        "trees": _TREES,
        "min_prevalence": _PREVALENCE,
        "linear_penalty": Choices(choices=("l2", "elasticnet")),
        "kernel_steps": _KERNEL_STEPS,
    },
    "neural": {
        "lr": Range(low=3e-4, high=1e-2, log=True),
        "weight_decay": Range(low=1e-4, high=1e-1, log=True),
        "batch_size": Choices(choices=(8, 16, 32)),
        "embedding_dim": Choices(choices=(32, 64, 128)),
        "count_embedding": Choices(choices=("add", "concat", "film", "none")),
    },
}
"""What is tried of each learner unless ``--space`` names a file."""

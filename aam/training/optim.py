"""The optimizer and the course of its learning rate."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from aam.config import OptimConfig, PretrainConfig, TrainConfig
from aam.errors import InputError

RESTART_CYCLES = 3
"""Cycles of ``cosine_restarts``, each twice as long as the one before: 1/7, 2/7 and 4/7 of the steps."""
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 3
"""``plateau`` halves the learning rate after more than this many validations in a row without a better value."""

NO_RATES: Final[Mapping[str, float]] = MappingProxyType({})
CATEGORICAL: Final = ("conditioning.", "target_head.category_scaling.")
"""How the names of parameters begin that depend on categories."""
ENCODER: Final = "encoder."


def own_rates(config: PretrainConfig | TrainConfig) -> Mapping[str, float]:
    """Learning rates of parameters that have their own, as `make_optimizer` takes them; ``lr`` is settled."""
    if not isinstance(config, TrainConfig):
        return NO_RATES
    rates, optim = {}, config.optim
    assert optim.lr is not None
    if optim.encoder_lr_ratio != 1:
        rates[ENCODER] = optim.encoder_lr_ratio * optim.lr
    if config.categories.categorical_lr is not None:
        rates |= dict.fromkeys(CATEGORICAL, config.categories.categorical_lr)
    return rates


def make_optimizer(model: nn.Module, config: OptimConfig, rates: Mapping[str, float] = NO_RATES) -> AdamW:
    """Build AdamW over the trainable parameters of a model, in the order of `named_parameters`.

    Weight decay acts on the weight matrices of layers only: not on biases, norms and other vectors, nor on embedding
    tables, positions and learned queries, whose size is not a measure of complexity (Loshchilov & Hutter 2019 decay
    all; leaving these out is common practice for transformers).

    Args:
        model: the finished model, on its device; parameters that do not require gradients are left out.
        config: gives `lr` and `weight_decay`.
        rates: highest learning rate of parameters by how their names begin, in place of `lr`; they form groups of their
            own, after all others.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    grouped: dict[tuple[str, bool], list[nn.Parameter]] = {
        (prefix, decays): [] for prefix in ("", *rates) for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = name.endswith("weight") and parameter.ndim >= 2 and id(parameter) not in tables
            prefix = next((prefix for prefix in rates if name.startswith(prefix)), "")
            grouped[prefix, is_matrix].append(parameter)
    groups = [
        {"params": parameters, "weight_decay": config.weight_decay * decays, "lr": rates.get(prefix, config.lr)}
        for (prefix, decays), parameters in grouped.items()
        if parameters
    ]
    # one pass over the memory of a parameter in place of a dozen; its state is that of the plain one
    return AdamW(groups, lr=config.lr, fused=True)


class Schedule:
    """Linear warm-up, then the course that `--scheduler` names.

    Step t (from 0) of the w warm-up steps has (t + 1) / (w + 1) of the highest rate, so that the first step learns too
    and step w has all of it. ``onecycle`` (Smith & Topin 2019) brings its own warm-up over the same fraction of
    the run, from 1/25 of the highest rate and two steps long at least. Every group of parameters has its own rate.
    """

    def __init__(self, optimizer: Optimizer, config: OptimConfig, total_steps: int) -> None:
        self._optimizer = optimizer
        self._kind = config.scheduler
        self._total_steps = total_steps
        own_warmup = config.scheduler == "onecycle"
        self._warmup_steps = 0 if own_warmup else round(config.warmup_fraction * total_steps)
        self._steps = 0
        self._main = _main_course(optimizer, config, total_steps, self._warmup_steps)
        # Built last: each scheduler sets the rate when it is built, and the run starts with the warm-up's.
        rise = self._warmup_steps + 1
        self._warmup = None if own_warmup else LambdaLR(optimizer, lambda step: (step + 1) / rise)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of parameters that have no rate of their own."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """Move on; to be called after every step of the optimizer."""
        self._steps += 1
        if self._warmup is not None and self._steps <= self._warmup_steps:
            self._warmup.step()
        elif not isinstance(self._main, ReduceLROnPlateau):
            self._main.step()

    def plateau(self, value: float) -> None:
        """Report a validation, which matters to ``plateau`` alone.

        Args:
            value: the metric that chooses the best checkpoint, negated where higher is better. Values during the
                warm-up are ignored.
        """
        if isinstance(self._main, ReduceLROnPlateau) and self._steps >= self._warmup_steps:
            self._main.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Position in the schedule as plain JSON-able values, exact."""
        return {
            "kind": self._kind,
            "total_steps": self._total_steps,
            "steps": self._steps,
            "lr": [float(group["lr"]) for group in self._optimizer.param_groups],
            "main": _finite(self._main.state_dict()),
            "warmup": None if self._warmup is None else self._warmup.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; sets the learning rate of the optimizer as well.

        Raises:
            InputError: the state is of a schedule of another kind or length.
        """
        saved, here = (state["kind"], state["total_steps"]), (self._kind, self._total_steps)
        if saved != here:
            raise InputError(
                f"the checkpoint is of a run with --scheduler {saved[0]} over {saved[1]} steps, this one has {here[0]} "
                f"over {here[1]}: resume with the same samples and options (--epochs, --batch-size, ...)"
            )
        self._steps = state["steps"]
        self._main.load_state_dict(state["main"])
        if self._warmup is not None:
            self._warmup.load_state_dict(state["warmup"])
        for group, lr in zip(self._optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = lr


def _main_course(optimizer: Optimizer, config: OptimConfig, total_steps: int, warmup_steps: int) -> LRScheduler:
    after = max(1, total_steps - warmup_steps)
    match config.scheduler:
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=after)
        case "cosine_restarts":
            first = math.ceil(after / (2**RESTART_CYCLES - 1))
            return CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=2)
        case "plateau":
            # An absolute threshold: a relative one calls an equal value better when values are negative.
            return ReduceLROnPlateau(
                optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE, threshold=0.0, threshold_mode="abs"
            )
        case "onecycle":
            # torch divides by the length of each phase: no phase may have length 0, also in the shortest run.
            steps = max(total_steps + 1, 4)
            start = max(config.warmup_fraction, 2 / steps)
            highest = [float(group["lr"]) for group in optimizer.param_groups]
            return OneCycleLR(optimizer, highest, total_steps=steps, pct_start=start, cycle_momentum=False)
        case "constant":
            return LambdaLR(optimizer, lambda _: 1.0)


def _finite(state: dict[str, Any]) -> dict[str, Any]:
    """Drop infinite entries (``plateau`` before its first value), which a new scheduler has anyway: JSON has none."""
    return {key: value for key, value in state.items() if not (isinstance(value, float) and math.isinf(value))}

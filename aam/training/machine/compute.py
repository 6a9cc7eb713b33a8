"""Where and how precisely the model computes."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from aam.config import MachineConfig, MixedPrecision
from aam.errors import InputError
from aam.training.distributed import World
from aam.training.machine.hardware import advise_precision, processor_flags
from aam.training.memory.allocator import kept_memory

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device and precision of a run."""

    world: World
    """The processes that share the work, and this one's device."""
    dtype: torch.dtype | None = None
    """Type of autocast; None computes in float32."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.world.device

    @classmethod
    def of(cls, world: World, config: MachineConfig) -> "Compute":
        """Take the precision from the config, and set PyTorch and the allocator for as long as the world is entered.

        Raises:
            InputError: fp16 on a CPU, where small gradients are lost and nothing is gained.
        """
        precision = settled_precision(config.mixed_precision, world)
        if precision == "fp16" and world.device.type == "cpu":
            raise InputError("--mixed-precision fp16 needs a GPU; on a CPU use bf16 or none")
        world.settings.enter_context(_tf32(config.tf32))
        if world.device.type == "cpu":
            world.settings.enter_context(kept_memory())
        return cls(world, _DTYPES.get(precision))

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the model's forward pass runs."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Scaler of the loss, which does something for fp16 alone."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let products of matrices be rounded to TF32 on GPUs that have it, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def settled_precision(asked: MixedPrecision, world: World) -> MixedPrecision:
    """The precision to compute in: as asked, or for ``auto`` what suits the hardware of rank 0, on every rank."""
    if asked != "auto":
        return asked
    precision, reason = world.on_main(lambda: advise_precision(world.device, processor_flags()))
    logger.info("--mixed-precision auto: %s, since %s", precision, reason)
    return precision


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's own generator for what is drawn in this context; afterwards it goes on as if nothing had been."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield


def draws_dropout(model: nn.Module) -> bool:
    """Whether a model draws random numbers in training."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())

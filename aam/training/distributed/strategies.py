"""How a step calls the model: bare, or through one of the strategies for many GPUs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.parallel import DistributedDataParallel

from aam.config import DistributedConfig
from aam.data.sampling.samples import Samples
from aam.errors import InputError
from aam.models.initial import initialize
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.training.distributed import World, wrap_model_fsdp
from aam.training.distributed.data_parallel import SampleParallel, check_data_parallel
from aam.training.distributed.sharding import fill
from aam.training.machine.compute import Compute
from aam.training.memory.meters import check_fits

_SMALLER: Final = "lower --embedding-dim, --attention-layers or --feedforward-ratio, or widths of hidden layers"


@dataclass(frozen=True, eq=False)
class Parallel:
    """How a step calls the model, and where; the bare model keeps its attributes, its weights and their names."""

    call: Callable[[Samples], Any]
    """The model's forward pass."""
    compute: Compute
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext
    """Context for all but the last batch of a step: gradients are added up here and summed over ranks later."""
    settles: bool = False
    """Whether the first backward pass settles in which order gradients are summed over ranks, which rounds them."""

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self.compute.world


def give_weights(
    model: SequenceEncoder | SequencePredictor, config: DistributedConfig, compute: Compute, seed: int
) -> None:
    """Give a model on the meta device its first weights; with ``--fsdp`` each rank only ever holds its part.

    What is frozen is frozen already. The weights depend on the seed and not on the strategy.

    Raises:
        InputError: the strategy does not go with the precision, or the model does not fit into the memory.
    """
    in_main_memory = config.fsdp and config.fsdp_cpu_offload
    place = torch.device("cpu") if in_main_memory else compute.device
    _check_memory(model, place, compute.world.size if config.fsdp else 1)
    if config.fsdp and compute.dtype is torch.float16:
        raise InputError(
            "--fsdp with --mixed-precision fp16: an overflow of fp16 would have to be looked for in the gradients of "
            "all processes, each of which has a part: use --mixed-precision bf16 or --fsdp-mixed-precision, or "
            "--distributed in place of --fsdp"
        )
    if config.fsdp:
        wrap_model_fsdp(model, compute.world, config)
    model.to_empty(device=place)
    initialize(model, seed, fill)


def _check_memory(model: SequenceEncoder | SequencePredictor, place: torch.device, parts: int) -> None:
    """Refuse a model that this process has no memory for: its weights, gradients and AdamW's two moments.

    Raises:
        InputError: it has not.
    """
    weights = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    numbers = sum(count * (4 if learns else 1) for count, learns in weights)
    total = sum(count for count, _ in weights)
    check_fits(4.0 * numbers / parts, place, f"a network of {total:,} weights", _SMALLER)


def parallelize(model: SequenceEncoder | SequencePredictor, config: DistributedConfig, compute: Compute) -> Parallel:
    """Choose how a step calls a finished model, sharded among the ranks already with ``--fsdp``.

    Raises:
        InputError: the strategy does not fit the device.
    """
    if config.distributed:
        gpu = [compute.device] if compute.device.type == "cuda" else None
        wrapped = DistributedDataParallel(model, gpu, gradient_as_bucket_view=True)
        return Parallel(wrapped, compute, wrapped.no_sync, settles=compute.world.size > 1)
    if config.data_parallel:
        encoder = model.encoder if isinstance(model, SequencePredictor) else model
        kernel = encoder.config.attn_implementation
        devices = check_data_parallel(compute.world.size, compute.device, implementation=kernel)
        return Parallel(SampleParallel(model, devices), compute)
    return Parallel(model, compute)


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is noticed before training and not at its first step.

    Raises:
        InputError: torch.compile does not work for this device.
    """
    compiled = torch.compile(lambda x: x * 2, dynamic=True)
    try:
        compiled(torch.ones(2, device=device))
    except RuntimeError as error:  # of torch._dynamo, which has several for the compilers that it may lack
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile-model: torch.compile does not work here ({reason}): leave the option out, or install a C++ "
            "compiler such as g++ (for GPUs Triton too, which needs it and a GPU that is not too old)"
        ) from None

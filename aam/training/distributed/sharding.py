"""Models that are sharded among ranks (FSDP2), and tensors that may be: DTensors, or plain ones, alike."""

from __future__ import annotations  # FSDP and its tensors take long to import: only a model that is sharded needs them

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from aam.config import DistributedConfig
from aam.errors import first_ids
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.transformer import Block
from aam.training.distributed.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def wrap_model_fsdp(model: SequenceEncoder | SequencePredictor, world: World, config: DistributedConfig) -> None:
    """Shard a bare model among the ranks, in place: each block, and each level that is called by itself (FSDP2).

    A model on the meta device stays there until it is allocated: then each rank only ever holds its part.

    Args:
        model: bare; its parameters become DTensors, and modules gather what they need and free it again.
        world: the ranks.
        config: copies of the sharded model, precision of the blocks, and whether to keep weights in main memory.
    """
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard  # noqa: PLC0415

    replicas, kind = config.fsdp_replicate, world.device.type
    if replicas == 1:
        mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(kind, (replicas, world.size // replicas), mesh_dim_names=("replicate", "shard"))
    offload: OffloadPolicy = OffloadPolicy()
    if config.fsdp_cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
    # the rest stays in float32: samples differ by little of their embeddings
    half = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
    of_blocks = half if config.fsdp_mixed_precision else MixedPrecisionPolicy()
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=of_blocks, offload_policy=offload)
    # each is called by itself, and freed after each use: weights that change in between, such as those of the best
    # checkpoint, are gathered anew
    for unit in model.sharding_units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, offload_policy=offload)


@torch.no_grad()
def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded among ranks, each taking its part; nothing is communicated."""
    if _is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

        whole = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(whole)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy whole weights by name into a model that may be sharded among ranks.

    Raises:
        KeyError: the names are not those of the model.
    """
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise KeyError(f"weights of another model: {first_ids(sorted(own.keys() ^ weights.keys()))}")
    for name, value in weights.items():
        fill(own[name], value)


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded among ranks."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def gather_whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Gather tensors one after the other, to the main memory of the ranks that keep them; every rank calls this."""
    whole: dict[str, Tensor] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if _is_sharded(tensor):
            # parameters in main memory (--fsdp-cpu-offload) are gathered by the GPUs all the same
            tensor = _onto(tensor, tensor.device_mesh.device_type).full_tensor()
        if keep:
            whole[name] = tensor.cpu()
    return whole


def _onto(tensor: DTensor, device: str) -> DTensor:
    moved = tensor.to(device)
    assert _is_sharded(moved)
    return moved


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    return isinstance(tensor, DTensor)

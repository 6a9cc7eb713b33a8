"""Tensors that may be divided among ranks: FSDP2's DTensors, or plain ones, alike."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from aam.errors import first_ids


@torch.no_grad()
def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be divided among ranks, each taking its part; nothing is communicated."""
    if isinstance(tensor, DTensor):
        whole = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(whole)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy whole weights by name into a model that may be divided among ranks.

    Raises:
        KeyError: the names are not those of the model.
    """
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise KeyError(f"weights of another model: {first_ids(sorted(own.keys() ^ weights.keys()))}")
    for name, value in weights.items():
        fill(own[name], value)


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided among ranks."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Gather tensors one after the other, to the main memory of the ranks that keep them; every rank calls this.

    Args:
        tensors: of the same names on every rank.
        keep: False drops every tensor as soon as it is whole.
    """
    whole: dict[str, Tensor] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if isinstance(tensor, DTensor):
            # parameters in main memory (--fsdp-cpu-offload) are gathered by the GPUs all the same
            tensor = _onto(tensor, tensor.device_mesh.device_type).full_tensor()
        if keep:
            whole[name] = tensor.cpu()
    return whole


def _onto(tensor: DTensor, device: str) -> DTensor:
    moved = tensor.to(device)
    assert isinstance(moved, DTensor)
    return moved

"""The state of an optimizer by the names of its parameters, the same for every way of sharing them among ranks."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aam.errors import InputError, first_ids

_OF_THE_MACHINE = {"params", "foreach", "fused", "capturable", "differentiable"}


def reshard(model: nn.Module) -> None:
    """Leave FSDP's modules with the parameters that the optimizer knows: forward passes may have put whole ones."""
    from torch.distributed.fsdp import FSDPModule  # noqa: PLC0415  # takes long, and what is trained predicts without

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def flatten_optimizer(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Give the state of an optimizer by parameter name, so that it does not depend on how ranks share parameters.

    Returns:
        Tensors as ``exp_avg/encoder.weight`` (DTensors where the parameter is one), and the param groups as JSON with
        names for parameters. Choices of the machine (fused, foreach, ...) are left out.
    """
    names = _names(model)
    tensors = {
        f"{key}/{names[parameter]}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }
    groups = [
        {key: value for key, value in group.items() if key not in _OF_THE_MACHINE}
        | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return tensors, groups


def load_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restore what `flatten_optimizer` gave, bit for bit, into an optimizer that was built as the saved one was.

    Tensors are DTensors where the parameters of the model are; `blank_state` makes them.

    Raises:
        InputError: the parameters are not the same.
    """
    order = check_groups(optimizer, model, groups)
    number = {name: index for index, name in enumerate(chain(*order))}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, name = full_name.split("/", 1)
        state.setdefault(number[name], {})[key] = tensor
    numbered = []
    for current, group in zip(optimizer.param_groups, groups, strict=True):
        # JSON's one change to a param group: the pair of betas comes back as a list
        saved = {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
        numbered.append(current | saved | {"params": [number[name] for name in group["params"]]})
    optimizer.load_state_dict({"state": state, "param_groups": numbered})


def check_groups(optimizer: Optimizer, model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    """Compare the param groups of a checkpoint with those of an optimizer, and give the latter's names.

    Raises:
        InputError: the parameters are not the same.
    """
    names = _names(model)
    order = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    saved = [group["params"] for group in groups]
    if saved != order:
        differing = set(chain(*saved)) ^ set(chain(*order))
        raise InputError(
            "the optimizer in the checkpoint is of another model or freezes other parameters "
            f"(differing: {first_ids(sorted(differing))}): resume with the options of the first run"
        )
    return order


def blank_state(model: nn.Module, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make room for tensors of `flatten_optimizer`, by names, shapes and types, shared as the parameters of a model."""
    parameters, blank = dict(model.named_parameters()), {}
    for name, tensor in saved.items():
        parameter = parameters[name.split("/", 1)[1]].detach()
        # counts of steps are whole on every rank; all else is shared as the parameter
        whole = name.startswith("step/") or tensor.shape != parameter.shape
        like = torch.zeros(tensor.shape) if whole else parameter
        blank[name] = torch.zeros_like(like, dtype=tensor.dtype)
    return blank


def _names(model: nn.Module) -> dict[Tensor, str]:
    reshard(model)
    return {parameter: name for name, parameter in model.named_parameters()}

"""Initial weights: a function of the seed and of where a module stands in the model, and of nothing else.

Neither the order of construction, nor the device, nor whether the model is sharded changes them: every module that owns
parameters draws them on the CPU from a generator of its own, from their shapes alone.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from aam.data.sampling.seeded import derived_seed

Model = TypeVar("Model", bound=nn.Module)
Assign = Callable[[nn.Parameter, Tensor], object]
"""Gives a parameter its value, a tensor of its whole shape on the CPU."""


class SeededModule(nn.Module):
    """A module that owns parameters; what its children own is theirs to draw."""

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """The values of the module's own parameters by name, on the CPU, drawn from a generator or the global one.

        They are computed from shapes, which a sharded parameter has too.
        """
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the module's own parameters anew from torch's global generator; on meta there is nothing to fill."""
        own = dict(self.named_parameters(recurse=False))
        if not any(parameter.is_meta for parameter in own.values()):
            for name, value in self.initial_values(None).items():
                own[name].copy_(value)


class Linear(SeededModule, nn.Linear):
    """A linear map with normally distributed weights and no bias at first."""

    def __init__(self, inputs: int, outputs: int, std: float | None = None, bias: bool = True) -> None:
        """Build the map.

        Args:
            inputs: width of the input.
            outputs: width of the output.
            std: standard deviation of the weights; None for torch's uniform weights and biases.
            bias: whether it has one.
        """
        # before torch's constructor, which resets the parameters
        self.std = std
        super().__init__(inputs, outputs, bias)

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw weight and bias; see `SeededModule`."""
        shapes = {name: parameter.shape for name, parameter in self.named_parameters(recurse=False)}
        if self.std is None:
            uniform = {name: torch.rand(shape, generator=generator, device="cpu") for name, shape in shapes.items()}
            return {name: (2 * drawn - 1) * self.in_features**-0.5 for name, drawn in uniform.items()}
        values = {"weight": normal(shapes["weight"], self.std, generator)}
        return values | ({"bias": torch.zeros(shapes["bias"], device="cpu")} if "bias" in shapes else {})


def normal(shape: torch.Size, std: float, generator: Generator | None) -> Tensor:
    """Draw normally distributed numbers around zero, on the CPU wherever the default device is."""
    return torch.randn(shape, generator=generator, device="cpu") * std


def initial_parameters(module: nn.Module, name: str, seed: int) -> dict[str, Tensor]:
    """Draw the parameters that one module owns itself, by its name in the model and the seed of the run.

    They are on the CPU and of the whole shape; the module may be sharded.

    Raises:
        TypeError: it owns parameters and does not say how they are drawn.
    """
    if isinstance(module, SeededModule):
        return module.initial_values(Generator().manual_seed(derived_seed(seed, "weights", name)))
    if isinstance(module, nn.LayerNorm):
        fill = {"weight": 1.0, "bias": 0.0}
        own = module.named_parameters(recurse=False)
        return {part: torch.full(parameter.shape, fill[part], device="cpu") for part, parameter in own}
    raise TypeError(f"{name}: {type(module).__name__} owns parameters and does not say how they are drawn")


@torch.no_grad()
def initialize(model: nn.Module, seed: int, assign: Assign = Tensor.copy_) -> None:
    """Give a model the weights of its first step, module by module.

    Args:
        model: bare, so that its modules have their own names; its parameters exist on their devices.
        seed: of the run.
        assign: how a parameter is given its value; a sharded one takes its part.
    """
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        values = initial_parameters(module, name, seed) if own else {}
        for part, parameter in own.items():
            assign(parameter, values[part])


def allocate(model: Model, device: torch.device) -> Model:
    """Give the parameters of a model that was built on meta their memory, in place; what is in it is arbitrary."""
    return model.to_empty(device=device)

"""Random features of the ASVs of a sample, which stay as they are drawn: enough for a linear head on few samples.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, F features.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.data.sampling.samples import Samples
from aam.models.initial import SeededModule, normal

FREQUENCY: Final = 4.0
"""Deviation of the angle of a wave over ASVs: the higher, the closer ASVs must be related to count as alike."""
LEAST_SPREAD: Final = 1e-3
"""Of a dimension in which ASVs differ less no more is made: that would be noise."""


class AsvFeatures(SeededModule):
    """Cosines of random projections of each ASV (Rahimi and Recht 2007), summed over a sample by log(1 + reads).

    A mean of ASV embeddings is nearly the same for all samples. A sum of waves keeps apart which ASVs a sample has, and
    related ones count as alike: the scalar product of two samples is a kernel over their ASVs.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, width), requires_grad=False)
        self.phase = nn.Parameter(torch.empty(features), requires_grad=False)
        self.center = nn.Parameter(torch.empty(features), requires_grad=False)
        self.shift = nn.Parameter(torch.empty(width), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(width), requires_grad=False)
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw directions and phases of the waves; see `SeededModule`."""
        features, width = self.weight.shape
        return {
            "weight": normal(self.weight.shape, FREQUENCY * width**-0.5, generator),
            "phase": 2 * math.pi * torch.rand(features, generator=generator, device="cpu"),
            "center": torch.zeros(features, device="cpu"),
            "shift": torch.zeros(width, device="cpu"),
            "scale": torch.ones(width, device="cpu"),
        }

    def forward(self, samples: Samples) -> Tensor:
        """Features of samples whose ASVs are embedded, each with mean 0 and deviation 1: -> [B, F]."""
        own = dict(self.named_parameters())
        rows = waves(samples.asvs, own) - self.center
        with torch.autocast(rows.device.type, enabled=False):
            # padding adds zero to whatever ASV it names
            reads = samples.counts.to(rows.dtype).log1p()
            weight = rows.new_zeros(samples.asv_index.shape[0], rows.shape[0]).scatter_add(1, samples.asv_index, reads)
            features: Tensor = functional.layer_norm(weight @ rows, rows.shape[1:])
        return features


def waves(asv_embedding: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Cosines of random projections of ASVs, in full precision under autocast too: [U, D] -> [U, F], not centred.

    The parameters are those of `AsvFeatures`, whole, by name.
    """
    weight, phase = parameters["weight"], parameters["phase"]
    with torch.autocast(asv_embedding.device.type, enabled=False):
        standard = (asv_embedding.to(weight.dtype) - parameters["shift"]) * parameters["scale"]
        return functional.linear(standard, weight, phase).cos()


def standardizing(asv_embedding: Tensor) -> dict[str, Tensor]:
    """The parameters that bring embeddings of ASVs to mean 0 and deviation 1 in every dimension: [U, D] -> by name."""
    rows = asv_embedding.double()
    scale = rows.std(dim=0, unbiased=False).clamp_min(LEAST_SPREAD).reciprocal()
    return {"shift": rows.mean(dim=0).float(), "scale": scale.float()}

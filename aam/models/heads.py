"""Heads that predict from sample embeddings, from ASV embeddings, and from the ASVs of a sample.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, K outputs, C classes of all ranks together.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from aam.config import TargetConfig
from aam.models.initial import Linear


class TargetHead(nn.Module):
    """Predicts a metadata column from the sample embedding: a linear map, after hidden layers if asked for."""

    def __init__(self, width: int, outputs: int, config: TargetConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        widths = (width, *config.regressor_hidden_dims)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Linear(before, after), nn.GELU()]
        if config.regressor_dropout:
            layers.append(nn.Dropout(config.regressor_dropout))
        self.hidden = nn.Sequential(*layers)
        # first predictions near zero: the mean of a standardized target, equal odds of all classes
        self.output = Linear(widths[-1], outputs, std=0.1 * widths[-1] ** -0.5)

    def forward(self, sample_embedding: Tensor) -> Tensor:
        """Predict, in full precision under autocast too: [B, D] -> [B, K]."""
        with torch.autocast(sample_embedding.device.type, enabled=False):
            prediction: Tensor = self.output(self.hidden(self.norm(sample_embedding)))
        return prediction


class CountHead(nn.Module):
    """Predicts the log relative abundance of each ASV from its context in the sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = Linear(width, 1, std=0.1 * width**-0.5)

    @torch.no_grad()
    def start_at(self, log_abundance: float) -> None:
        """Let the first predictions be near a mean, from which it would take the bias long to get there by steps."""
        self.output.bias.fill_(log_abundance)

    def forward(self, asv_context: Tensor) -> Tensor:
        """Predict: [B, S, D] -> [B, S]."""
        # no view: FSDP, which hooks what a model returns, warns of them
        log_abundance: Tensor = self.output(asv_context).squeeze(-1).clone()
        return log_abundance


class TaxonomyHead(nn.Module):
    """Predicts the taxonomic ranks of an ASV from its embedding: a linear map for each rank."""

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        """Build the heads.

        Args:
            width: of the embedding.
            classes: number of classes by rank.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # first predictions near equal odds of all classes
        std = 0.1 * width**-0.5
        self.ranks = nn.ModuleDict({rank: Linear(width, count, std=std) for rank, count in classes.items()})

    def forward(self, asv_embedding: Tensor) -> Tensor:
        """Predict, in full precision under autocast too: [U, D] -> logits [U, C], one rank after the other."""
        with torch.autocast(asv_embedding.device.type, enabled=False):
            normal = self.norm(asv_embedding.to(self.norm.weight.dtype))
            return torch.cat([head(normal) for head in self.ranks.values()], dim=1)

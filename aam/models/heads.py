"""Heads that predict from sample embeddings, from ASV embeddings, and from the ASVs of a sample.

Shapes: B samples, S ASVs in a sample, U unique ASVs, D width, T targets (columns to predict), K outputs over all
targets, C classes of all taxonomic ranks together.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import ClassVar, Final, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import TargetConfig
from aam.models.initial import Linear, SeededModule

Range = Literal["none", "relu", "softplus", "exp", "sigmoid"]


class TargetSpec(NamedTuple):
    """What a target head gives for each of T targets."""

    outputs: tuple[int, ...]
    """Numbers of each target: its classes, its quantiles, or one."""
    quantiles: tuple[tuple[float, ...], ...]
    """Rising levels of each target; empty where no quantiles are predicted."""
    start: tuple[float, ...]
    """Prediction of each target at the start, where its range is limited."""


class OutputScaling(SeededModule):
    """A learned scale and offset of the predictions, for each category; identity at the start.

    The scale is an exponential, so that it is positive and the order of quantiles stays.
    """

    def __init__(self, categories: int, spec: TargetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.log_scale = nn.Parameter(torch.empty(categories, len(spec.outputs)))
        self.offset = nn.Parameter(torch.empty(categories, len(spec.outputs)))
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """The identity, which is no draw; see `SeededModule`."""
        return {name: torch.zeros(parameter.shape, device="cpu") for name, parameter in self.named_parameters()}

    def forward(self, prediction: Tensor, category: Tensor | None) -> Tensor:
        """Scale predictions [B, K] by the category of each sample, int64 [B]; by the only one where it is None."""
        rows = torch.zeros_like(prediction[:, 0], dtype=torch.int64) if category is None else category
        repeats = prediction.new_tensor(self.spec.outputs, dtype=torch.int64)
        scale, offset = (
            functional.embedding(rows, part).repeat_interleave(repeats, dim=1, output_size=prediction.shape[1])
            for part in (self.log_scale.exp(), self.offset)
        )
        return prediction * scale + offset


LEAST_SPREAD: Final = 0.01
"""Of a dimension in which samples differ less no more is made: that would be noise."""


class TargetHead(nn.Module):
    """Predicts metadata columns from a vector of the sample: a linear map, after hidden layers if asked for.

    Quantiles are the lowest one and steps above it that cannot be negative, so they never cross. A limited range is
    kept by a monotone function of the sum of a learned number and a constant, at which predictions start.
    """

    def __init__(self, width: int, spec: TargetSpec, config: TargetConfig, categories: int = 0) -> None:
        """Build the head.

        Args:
            width: of the vector.
            spec: what is predicted.
            config: hidden layers, range and scale.
            categories: that have a scale and an offset of their own; 0 for none.
        """
        super().__init__()
        self.spec = spec
        self.range: Range = "sigmoid" if config.bounded_targets else config.output_activation
        self.norm = nn.LayerNorm(width)
        widths = (width, *config.regressor_hidden_dims)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Linear(before, after), nn.GELU()]
        if config.regressor_dropout:
            layers.append(nn.Dropout(config.regressor_dropout))
        self.hidden = nn.Sequential(*layers)
        # first predictions near zero: the mean of a standardized target, equal odds of all classes
        self.output = Linear(widths[-1], sum(spec.outputs), std=0.1 * widths[-1] ** -0.5)
        self.scaling = OutputScaling(1, spec) if config.learnable_output_scale else None
        self.category_scaling = OutputScaling(categories, spec) if categories else None

    def standardizing(self, vectors: Tensor) -> dict[str, Tensor]:
        """The norm's parameters that bring vectors to mean 0 and deviation 1 in every dimension: [N, width] -> by name.

        Samples of a study differ by little of their embeddings, a twentieth of their length say. A head that reads
        them as they are learns what they share first, and a step of the encoder moves all of its predictions at once.
        """
        plain = functional.layer_norm(vectors.double(), vectors.shape[1:], eps=self.norm.eps)
        scale = plain.std(dim=0, unbiased=False).clamp_min(LEAST_SPREAD).reciprocal()
        return {"weight": scale.float(), "bias": (-plain.mean(dim=0) * scale).float()}

    def forward(self, sample: Tensor, category: Tensor | None = None) -> Tensor:
        """Predict, in full precision under autocast too: [B, D] -> [B, K], on the learned scale or logits of classes.

        The category, int64 [B], says which scale and offset each sample has, where categories have some.
        """
        with torch.autocast(sample.device.type, enabled=False):
            raw: Tensor = self.output(self.hidden(self.norm(sample)))
            parts = zip(torch.split(raw, list(self.spec.outputs), dim=1), self.spec.quantiles, strict=True)
            prediction = torch.cat([_rising(part, levels) if levels else part for part, levels in parts], dim=1)
            if self.scaling is not None:
                prediction = self.scaling(prediction, None)
            if self.category_scaling is not None:
                prediction = self.category_scaling(prediction, category)
            return self._limit(prediction)

    def _limit(self, prediction: Tensor) -> Tensor:
        if self.range == "none":
            return prediction
        starts = [_start(self.range, mean) for mean in self.spec.start]
        each = [start for start, count in zip(starts, self.spec.outputs, strict=True) for _ in range(count)]
        return _LIMITS[self.range](prediction + prediction.new_tensor(each))


_LIMITS = {"relu": torch.relu, "softplus": functional.softplus, "exp": torch.exp, "sigmoid": torch.sigmoid}


def _start(limit: Range, mean: float) -> float:
    """The number that the function of a range takes to the mean."""
    match limit:
        case "softplus":
            return mean + math.log(-math.expm1(-mean))
        case "exp":
            return math.log(mean)
        case "sigmoid":
            return math.log(mean / (1 - mean))
    return mean


def _rising(raw: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles [B, Q] that never fall, from free numbers [B, Q]; at zeros those of a standard normal variable."""
    normal = [NormalDist().inv_cdf(level) for level in levels]
    steps = [_start("softplus", above - below) for below, above in pairwise(normal)]
    lowest = raw[:, :1] + normal[0]
    rises = functional.softplus(raw[:, 1:] + raw.new_tensor(steps)).cumsum(dim=1)
    return torch.cat([lowest, lowest + rises], dim=1)


class Head(Protocol):
    """Predicts something besides distances and nucleotides from what a model has encoded."""

    reads: ClassVar[Literal["asvs", "samples", "contexts"]]
    """What it is given: embeddings of unique ASVs [U, D] or of samples [B, D], or ASVs in their samples [B, S, D]."""

    def __call__(self, encoded: Tensor) -> Tensor:
        """Predict; the first dimensions are those of what it is given."""
        ...


class AbundanceHead(nn.Module):
    """Predicts the log relative abundance of each ASV from its context in the sample."""

    reads: ClassVar[Literal["asvs", "samples", "contexts"]] = "contexts"

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


class FaithPdHead(Linear):
    """Predicts the logarithm of 1 + Faith's PD of a sample."""

    reads: ClassVar[Literal["asvs", "samples", "contexts"]] = "samples"

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, sample_embedding: Tensor) -> Tensor:
        """Predict, in full precision under autocast too: [B, D] -> [B]."""
        with torch.autocast(sample_embedding.device.type, enabled=False):
            # a sum, since what leaves a sharded module must not be a view
            predicted: Tensor = super().forward(sample_embedding).sum(1)
        return predicted


class TaxonomyHead(nn.Module):
    """Predicts the taxonomic ranks of an ASV from its embedding: a linear map for each rank."""

    reads: ClassVar[Literal["asvs", "samples", "contexts"]] = "asvs"

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        """Build the heads on embeddings of a width, from the number of classes by rank."""
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

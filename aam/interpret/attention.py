"""Attention of the network: of the nucleotides of an ASV, of the ASVs of a sample, and of the poolings.

Attention is what the network looks at, not what a prediction depends on: what is looked at may change nothing (Jain and
Wallace 2019). `aam explain --what deletion` tells how much each holds.

The weights are computed again from what the modules are given, since the fused kernels do not keep them. One sample, or
ASVs of one length, go through at a time, so that there is no padding.

Shapes: R rows (samples or ASVs), N positions (ASVs, or patches of nucleotides), M learned points, H heads, E width of a
head, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from aam.data.sampling.samples import Samples
from aam.models.induced import InducedAttention
from aam.models.pooling import AttentionPooling
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import SelfAttention


@dataclass(frozen=True)
class Attended:
    """How positions attend to one another, and how they are pooled."""

    layers: Tensor
    """Mean over heads, by layer, sum 1 over the last [L, R, N, N]: row i is what position i attends to."""
    pooling: Tensor
    """Mean over heads, sum 1 over the last [R, N]."""

    @property
    def mean(self) -> Tensor:
        """Mean over layers [R, N, N]."""
        return self.layers.mean(dim=0)

    @property
    def received(self) -> Tensor:
        """How much a position is attended to: mean over layers and attending positions, sum 1 [R, N]."""
        return self.mean.mean(dim=1)


@dataclass
class _Record:
    layers: list[Tensor] = field(default_factory=list)
    pooling: list[Tensor] = field(default_factory=list)

    def attended(self) -> Attended:
        return Attended(torch.stack(self.layers), self.pooling[-1])


@torch.no_grad()
def attention_of_asvs(encoder: SequenceEncoder, sample: Samples) -> Attended:
    """How the ASVs of one sample attend to one another; R is 1.

    Args:
        encoder: in evaluation mode.
        sample: one, whose ASVs are embedded, without padding.
    """
    with _recording(encoder.sample_encoder) as record:
        encoder.sample_encoder(sample)
    return record.attended()


@torch.no_grad()
def attention_of_nucleotides(encoder: SequenceEncoder, tokens: Tensor) -> Attended:
    """How patches of nucleotides attend to one another.

    Args:
        encoder: in evaluation mode.
        tokens: ASVs of one length, without padding: integer [R, L].
    """
    with _recording(encoder.asv_encoder) as record:
        encoder.asv_encoder(tokens)
    return record.attended()


@contextmanager
def _recording(level: nn.Module) -> Iterator[_Record]:
    """Keep the attention of every layer and of the pooling of a level while it is called."""
    record = _Record()

    def keep_layer(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, SelfAttention | InducedAttention)
        record.layers.append(module.weights(inputs[0]).mean(dim=1))

    def keep_pooling(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, AttentionPooling)
        record.pooling.append(module.weights(inputs[0]).mean(dim=1))

    hooks = []
    for module in level.modules():
        if isinstance(module, SelfAttention | InducedAttention):
            hooks.append(module.register_forward_pre_hook(keep_layer))
        elif isinstance(module, AttentionPooling):
            hooks.append(module.register_forward_pre_hook(keep_pooling))
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()

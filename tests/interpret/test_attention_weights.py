"""Attention that is computed again is what the modules mix by, and the network's contributions add up."""

import numpy as np
import pytest
import torch

from aam.config import ModelConfig
from aam.interpret.attention import attention_of_asvs, attention_of_nucleotides
from aam.models.induced import InducedAttention
from aam.models.initial import initialize
from aam.models.pooling import AttentionPooling
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import SelfAttention

SHAPE = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 2, "max_bp": 20, "nucleotide_patch": 5}


def config(**more) -> ModelConfig:
    return ModelConfig.model_validate({**SHAPE, **more})


def test_weights_of_self_attention_mix_the_values():
    module = SelfAttention(config())
    initialize(module, 0)
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    weights = module.weights(x)
    assert weights.shape == (3, 2, 7, 7)
    value = module.qkv(x).chunk(3, dim=-1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
    mixed = module.output((weights @ value).transpose(1, 2).flatten(-2))
    assert torch.allclose(mixed, module(x, None), atol=1e-5)


def test_weights_through_learned_points_are_shares():
    module = InducedAttention(config(sample_attention="induced", induced_points=4))
    initialize(module, 0)
    weights = module.weights(torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)))
    assert weights.shape == (2, 2, 6, 6)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 6), atol=1e-6)
    assert weights.std() > 1e-4


def test_weights_of_the_pooling_make_its_mean():
    module = AttentionPooling(8, 2)
    initialize(module, 0)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module.value((module.weights(x) @ x).flatten(1)), module(x, None), atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "induced"])
def test_every_layer_of_a_sample_is_recorded_and_no_hook_stays(kind, one_sample):
    encoder = SequenceEncoder(config(sample_attention=kind)).eval()
    initialize(encoder, 0)
    sample = one_sample(torch.randn(6, 8), np.arange(1, 7))
    attended = attention_of_asvs(encoder, sample)
    assert attended.layers.shape == (2, 1, 6, 6)
    for part in (attended.received, attended.pooling):
        assert part.shape == (1, 6)
        assert float(part.sum()) == pytest.approx(1, abs=1e-5)
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_attention_of_nucleotides_has_a_share_for_each_patch():
    encoder = SequenceEncoder(config()).eval()
    initialize(encoder, 0)
    attended = attention_of_nucleotides(encoder, torch.randint(1, 5, (3, 20)))
    assert attended.received.shape == attended.pooling.shape == (3, 4)
    assert torch.allclose(attended.pooling.sum(1), torch.ones(3), atol=1e-5)

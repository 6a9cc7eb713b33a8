import copy
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aam.models.induced import InducedAttention
from aam.models.packing import Lengths
from aam.models.transformer import Transformer, compile_blocks


def module(make_config, **options: object) -> InducedAttention:
    torch.manual_seed(0)
    return InducedAttention(make_config(sample_attention="induced", induced_points=4, **options)).double()


def textbook(attention: InducedAttention, x: torch.Tensor) -> torch.Tensor:
    """One row, head by head, by the definition: [N, D] -> [N, D]."""

    def mix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        parts = [part.chunk(attention.heads, dim=-1) for part in (query, key, value)]
        heads = [(q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
        return torch.cat(heads, dim=-1)

    query, key, value = attention.qkv(x).chunk(3, dim=-1)
    found = attention.points + attention.gather(mix(attention.points, key, value))
    found = found + attention.feedforward(attention.found_norm(found))
    return attention.output(mix(query, *attention.read(attention.read_norm(found)).chunk(2, dim=-1)))


def test_it_agrees_with_the_definition(make_config):
    attention = module(make_config)
    rows = [torch.randn(n, 16, dtype=torch.float64) for n in (3, 3, 7)]
    packed = attention(torch.cat(rows), Lengths.of([3, 3, 7], varlen=False)).split([3, 3, 7])
    for row, found in zip(rows, packed, strict=True):
        torch.testing.assert_close(found, textbook(attention, row), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(attention(row[None], None)[0], textbook(attention, row), rtol=1e-10, atol=1e-10)


def test_without_positions_every_parameter_has_a_gradient_of_zero(make_config):
    """A rank without samples adds as many gradients as the others."""
    attention = module(make_config)
    mixed = attention(torch.zeros(0, 16, dtype=torch.float64), Lengths.of([0, 0], varlen=False))
    assert mixed.shape == (0, 16)
    mixed.sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_operations_grow_with_the_positions_not_with_their_pairs(make_config):
    attention = module(make_config, attn_implementation="math")
    flops = []
    for n in (1000, 2000):
        with FlopCounterMode(display=False) as counter:
            attention(torch.randn(1, n, 16, dtype=torch.float64), None)
        flops.append(counter.get_total_flops())
    assert 1.9 < flops[1] / flops[0] < 2.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_it_compiles(make_config):
    torch.compiler.reset()
    torch.manual_seed(0)
    config = make_config(sample_attention="induced", induced_points=4)
    plain = Transformer(config, 0.0, attention=InducedAttention).double()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    x = torch.randn(3, 6, 16, dtype=torch.float64)
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    results = []
    for model in (plain, compiled):
        output = model(x, padding)[~padding]
        output.square().sum().backward()
        results.append((output, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)

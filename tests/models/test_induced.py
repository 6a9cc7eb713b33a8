import copy
import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aam.models.induced import CrossAttention, InducedAttention
from aam.models.initial import initialise
from aam.models.packing import Lengths
from aam.models.sample_encoder import SampleEncoder
from aam.models.transformer import SelfAttention, Transformer

POINTS = 3
exact = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def make_module(make_config):
    def make(**options: object) -> InducedAttention:
        torch.manual_seed(0)
        config = make_config(sample_attention="induced", induced_points=POINTS, **options)
        return InducedAttention(config).double()

    return make


def rows(count: int = 3, positions: int = 6, width: int = 16) -> Tensor:
    return torch.randn(count, positions, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seen(module: CrossAttention, x: Tensor, others: Tensor) -> Tensor:
    """Textbook attention of [N, D] to [M, D], a head at a time."""
    each = x.shape[1] // module.heads
    query, (key, value) = x @ module.query.weight.T, (others @ module.key_value.weight.T).chunk(2, dim=1)
    heads = []
    for head in range(module.heads):
        part = slice(head * each, (head + 1) * each)
        weight = (query[:, part] @ key[:, part].T / math.sqrt(each)).softmax(1)
        heads.append(weight @ value[:, part])
    return torch.cat(heads, dim=1) @ module.output.weight.T


def test_points_see_all_and_all_see_the_points(make_module):
    """H = MAB(I, X), then attention to H: the paper's ISAB up to where the norms are."""
    module, x = make_module().requires_grad_(False), rows()
    mixed = module(x, None)
    for row, result in zip(x, mixed, strict=True):
        points = module.points + seen(module.gather, module.points_norm(module.points), row)
        points = points + module.feedforward(module.feedforward_norm(points))
        torch.testing.assert_close(result, seen(module.spread, row, module.summary_norm(points)), **exact)


def test_padding_and_packing_change_nothing(make_module):
    module, x = make_module(), rows(4)
    lengths = [2, 4, 4, 6]
    padding = torch.arange(6) >= torch.tensor(lengths)[:, None]
    packed = x[~padding]
    padded = module(x.masked_fill(padding[..., None], 7.0), ~padding[:, None, None, :])
    torch.testing.assert_close(module(packed, Lengths.of(lengths, varlen=False)), padded[~padding], **exact)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(padded[row, :length], module(x[row : row + 1, :length], None)[0], **exact)


def test_no_positions_are_a_gradient_of_zero(make_module):
    module = make_module()
    module(rows(1, 0).flatten(0, 1), Lengths(())).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in module.parameters())


def operations(module: torch.nn.Module, positions: int) -> int:
    with FlopCounterMode(display=False) as counter:
        module(rows(2, positions), None)
    return counter.get_total_flops()


def test_operations_grow_linearly_with_positions(make_config, make_module):
    induced, full = make_module(attn_implementation="math"), SelfAttention(make_config(attn_implementation="math"))
    costs = [operations(induced, positions) for positions in (100, 200, 300)]
    assert costs[2] - costs[1] == costs[1] - costs[0] > 0
    squares = [operations(full.double(), positions) for positions in (100, 200, 300)]
    assert squares[2] - squares[1] > 1.3 * (squares[1] - squares[0])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("chunk", [1, 2])
def test_checkpointing_and_chunks_give_the_same_gradient(make_config, masked: bool, chunk: int):
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    results = []
    for checkpointing, part in ((False, None), (True, None), (True, chunk)):
        config = make_config(sample_attention="induced", induced_points=2, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        module = Transformer(config, 0.0, part, attention=InducedAttention).double()
        output = module(rows(), padding if masked else None)
        output[~padding].square().sum().backward()
        results.append([output[~padding], *(weight.grad for weight in module.parameters())])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **exact)


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_in_and_out(make_module, autocast: bool):
    module, x = make_module().float(), rows().float()
    exactly = module(x, None)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(x, None)
    else:
        rounded = copy.deepcopy(module).bfloat16()(x.bfloat16(), None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exactly, rtol=0, atol=0.1)


def test_weights_are_addressed_by_name(make_config):
    config = make_config(sample_attention="induced", induced_points=500)
    model = SampleEncoder(config)
    initialise(model, 3)
    first, second = (block.attention for block in model.transformer.blocks)
    assert first.points.shape == (500, 16)
    assert first.points.std().item() == pytest.approx(1.0, rel=0.05)
    assert not torch.equal(first.points, second.points)
    again = SampleEncoder(config)
    initialise(again, 3)
    assert torch.equal(again.transformer.blocks[1].attention.points, second.points)

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aam.models.packing import HAS_VARLEN, Lengths, Packed, Padded, layout_of
from aam.models.transformer import Transformer

exact = {"rtol": 1e-10, "atol": 1e-10}


def padding_of(lengths: list[int], positions: int, seed: int) -> Tensor:
    """Padding anywhere in the rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(positions, generator=generator) >= length for length in lengths]
    return torch.stack(rows)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=7),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([None, 1, 2, 5]),
    checkpointing=st.booleans(),
)
def test_packed_rows_give_what_padded_rows_give(make_config, lengths, seed: int, chunk, checkpointing: bool):
    torch.manual_seed(seed)
    config = make_config(gradient_checkpointing=checkpointing)
    module = Transformer(config, 0.0, chunk).double()
    padding = padding_of(lengths, 6, seed)
    results = []
    for packs in (True, False):
        x = torch.randn(len(lengths), 6, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        module.zero_grad()
        module.pads = not packs
        output = module(x.requires_grad_(), padding)
        assert output.isfinite().all()
        output[~padding].square().sum().backward()
        results.append((output[~padding], x.grad[~padding], [weight.grad for weight in module.parameters()]))
    torch.testing.assert_close(results[0], results[1], **exact)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_packing_keeps_what_is_real_and_puts_it_back(lengths: list[int], seed: int):
    padding = padding_of(lengths, 5, seed)
    packed = Packed.of(padding, lengths, varlen=False)
    x = torch.arange(1.0, padding.numel() * 2 + 1).view(*padding.shape, 2)
    assert packed.pack(x).shape == (sum(lengths), 2)
    assert torch.equal(packed.unpack(packed.pack(x)), x.masked_fill(padding[..., None], 0.0))
    assert torch.equal(packed.unpack(packed.pack(x[..., 0])), x[..., 0].masked_fill(padding, 0.0))
    assert packed.attend.total == sum(lengths)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    rows=st.sampled_from([None, 1, 3, 100]),
    positions=st.integers(1, 30),
)
def test_chunks_hold_whole_rows_in_order(lengths: list[int], rows: int | None, positions: int):
    ordered = sorted(lengths)
    whole = Lengths.of(ordered, varlen=True)
    chunks = whole.cut(rows, positions)
    flat = [[length for number, length in chunk.runs for _ in range(number)] for chunk in chunks]
    assert [length for chunk in flat for length in chunk] == [length for length in ordered if length]
    assert all(chunk.varlen for chunk in chunks)
    for chunk in flat:
        assert 0 < len(chunk) <= (rows or len(chunk))
        assert rows is not None or len(chunk) == 1 or sum(chunk) <= positions
    # none could have been joined to its neighbour
    for one, other in pairwise(flat):
        full = len(one) == rows if rows is not None else sum(one) + other[0] > positions
        assert full


def test_rows_of_one_length_follow_one_another_in_one_call():
    assert Lengths.of([0, 2, 2, 2, 5], varlen=False).runs == ((3, 2), (1, 5))


def test_a_cpu_packs_what_has_padding():
    padding = torch.tensor([[False, True], [False, False]])
    assert isinstance(layout_of(padding, "sdpa", 8), Packed)
    assert layout_of(torch.zeros_like(padding), "sdpa", 8) == Padded(None)


@pytest.mark.skipif(not (torch.cuda.is_available() and HAS_VARLEN), reason="no GPU with attention of variable length")
def test_attention_of_variable_length_gives_what_padded_attention_gives(make_config):
    config = make_config(embedding_dim=64, attention_heads=2)
    module = Transformer(config, 0.0).cuda()
    lengths = [0, 3, 200, 77, 200]
    padding = padding_of(lengths, 200, 1).cuda()
    x = torch.randn(5, 200, 64, device="cuda")
    results = []
    for packs in (True, False):
        module.pads = not packs
        with torch.autocast("cuda", torch.bfloat16):
            assert isinstance(module.layout(padding), Packed if packs else Padded)
            results.append(module(x, padding)[~padding])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0.02)

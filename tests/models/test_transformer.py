import copy
import math
import shutil

import pytest
import torch
from torch import Tensor

from aam.errors import InputError
from aam.models.pooling import AttentionPooling
from aam.models.transformer import Block, SelfAttention, Transformer, attention_kernel, check_attention, compile_blocks


def padded(rows: int = 3, positions: int = 6, width: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, positions, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    padding = torch.arange(positions) >= torch.tensor([[6], [4], [1]])
    return x, padding


def attention_by_loops(module: SelfAttention, x: Tensor, present: int) -> Tensor:
    """Textbook attention of one row over its first positions, a head and a position at a time."""
    width = x.shape[1]
    each = width // module.heads
    query, key, value = (x @ module.qkv.weight.T).split(width, dim=1)
    mixed = torch.zeros_like(x)
    for head in range(module.heads):
        part = slice(head * each, (head + 1) * each)
        for position in range(len(x)):
            score = [float(query[position, part] @ key[other, part]) / math.sqrt(each) for other in range(present)]
            weight = torch.tensor(score, dtype=x.dtype).softmax(0)
            mixed[position, part] = sum(w * value[other, part] for other, w in enumerate(weight))
    return mixed @ module.output.weight.T


def test_attention_agrees_with_loops(make_config):
    torch.manual_seed(0)
    module = SelfAttention(make_config()).double().requires_grad_(False)
    x, padding = padded()
    result = module(x, ~padding[:, None, None, :])
    for row, present in enumerate([6, 4, 1]):
        torch.testing.assert_close(result[row], attention_by_loops(module, x[row], present))


@pytest.mark.parametrize("implementation", ["flash", "math"])
@pytest.mark.parametrize("masked", [True, False])
def test_kernels_agree(make_config, implementation: str, masked: bool):
    x, padding = padded()
    torch.manual_seed(0)
    chosen = Transformer(make_config(attn_implementation=implementation), 0.0).double()
    default = Transformer(make_config(), 0.0).double()
    default.load_state_dict(chosen.state_dict())
    absent = padding if masked else None
    here = ~padding if masked else torch.ones_like(padding)
    torch.testing.assert_close(chosen(x, absent)[here], default(x, absent)[here], rtol=1e-10, atol=1e-10)


def test_padding_changes_nothing(make_config):
    torch.manual_seed(0)
    module = Transformer(make_config(), 0.0).double()
    x, padding = padded()
    result = module(x, padding)
    for row, present in enumerate([6, 4, 1]):
        alone = module(x[row : row + 1, :present], None)
        torch.testing.assert_close(result[row, :present], alone[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradient_checkpointing_gives_the_same_gradient(make_config, chunk: int | None):
    x, padding = padded()
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = Transformer(make_config(gradient_checkpointing=checkpointing), 0.1, chunk).double()
        torch.manual_seed(1)
        module(x, padding).square().sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_chunks_change_nothing(make_config, masked: bool, checkpointing: bool):
    x, padding = padded()
    results = []
    for chunk in (None, 1, 2, 3, 100):
        torch.manual_seed(0)
        module = Transformer(make_config(gradient_checkpointing=checkpointing), 0.0, chunk).double()
        output = module(x, padding if masked else None)
        output.square().sum().backward()
        results.append((output, [parameter.grad for parameter in module.parameters()]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("masked", "forward"), [(True, [5, 6]), (False, [2, 1])])
def test_checkpointing_recomputes_a_chunk_at_a_time(make_config, masked: bool, forward: list[int]):
    x, padding = padded()
    module = Transformer(make_config(gradient_checkpointing=True), 0.0, 2).double()
    rows: list[int] = []
    for block in module.blocks:
        block.attention.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    module(x, padding if masked else None).sum().backward()
    assert rows == [*forward, *forward, *reversed(forward), *reversed(forward)]
    rows.clear()
    with torch.no_grad():
        module(x, padding if masked else None)
    assert rows == [*forward, *forward]


def test_a_copy_runs_on_its_own_weights(make_config):
    # as replicas of data parallelism do, which share everything but their parameters
    x, padding = padded()
    module = Transformer(make_config(), 0.0).double()
    expected = module(x, padding)
    replica = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert torch.equal(replica(x, padding), expected)
    shallow = copy.copy(replica.blocks[0])
    shallow._modules = module.blocks[0]._modules
    assert torch.equal(shallow(x, None), x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_compute_the_same_under_the_same_names(make_config, checkpointing: bool):
    torch.compiler.reset()
    x, padding = padded()
    torch.manual_seed(0)
    plain = Transformer(make_config(gradient_checkpointing=checkpointing), 0.0, 2).double()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    results = []
    for module in (plain, compiled):
        output = module(x, padding)[~padding]
        output.square().sum().backward()
        results.append((output, [parameter.grad for parameter in module.parameters()]))
    assert all(block.run is not Block.transform for block in compiled.blocks)
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


def test_dropout_is_off_in_evaluation(make_config):
    x, padding = padded()
    torch.manual_seed(0)
    module = Transformer(make_config(), 0.5).double()
    assert not torch.equal(module(x, padding), module(x, padding))
    module.eval()
    assert torch.equal(module(x, padding), module(x, padding))


def test_pooling_agrees_with_textbook_attention():
    torch.manual_seed(0)
    pooling = AttentionPooling(16, 2).double()
    x, padding = padded()
    result = pooling(x, padding)
    for row, present in enumerate([6, 4, 1]):
        weight = (x[row, :present] @ pooling.score.weight.T).softmax(0)
        expected = pooling.value(torch.cat([weight[:, head] @ x[row, :present] for head in range(2)]))
        torch.testing.assert_close(result[row], expected)


def test_pooling_of_nothing_is_a_constant():
    pooling = AttentionPooling(16, 2).double()
    x, padding = padded()
    result = pooling(x, torch.ones_like(padding))
    torch.testing.assert_close(result, pooling.value.bias.expand(3, -1))


@pytest.mark.parametrize(
    ("implementation", "device", "precision", "message"),
    [("mem_efficient", "cpu", "none", "needs a GPU"), ("flash", "cuda", "none", "--mixed-precision bf16")],
)
def test_kernels_that_the_device_lacks_are_refused(implementation, device: str, precision, message: str):
    with pytest.raises(InputError, match=message):
        check_attention(implementation, torch.device(device), precision)


@pytest.mark.parametrize("implementation", ["sdpa", "flash", "math"])
def test_kernels_of_the_cpu_are_accepted_and_work(implementation):
    check_attention(implementation, torch.device("cpu"), "bf16")
    query = torch.ones(1, 2, 3, 4)
    with attention_kernel(implementation, masked=False):
        assert torch.nn.functional.scaled_dot_product_attention(query, query, query).shape == query.shape


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_in_and_out(make_config, autocast: bool):
    x, padding = padded()
    module = Transformer(make_config(), 0.0)
    exact = module(x.float(), padding)[~padding]
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(x.float(), padding)[~padding]
        assert rounded.dtype == torch.float32
    else:
        rounded = module.bfloat16()(x.bfloat16(), padding)[~padding]
        assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.15)

"""How many floating-point operations a step takes, and how many a second the machine gives.

Shapes: R rows, N positions, H heads, E width of a head, D width, T rows of a product.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from aam.config import ModelConfig
from aam.models.packing import HAS_VARLEN

Product = tuple[int, int, int]
"""Sizes (m, k, n) of a matrix product [m, k] x [k, n]: 2 m k n operations."""


def flops_of(function: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attentions of a call, backward passes included."""
    _count_varlen()
    cpu = torch.ops.aten
    kernels = {
        cpu._scaled_dot_product_flash_attention_for_cpu: _attention,
        cpu._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        function()
    total: int = counter.get_total_flops()
    return total


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Scores and means: two products of [R, H, N, E]."""
    rows, heads, positions, width = query
    return 4 * rows * heads * positions * key[2] * width


def _attention_backward(_: Sequence[int], query: Sequence[int], key: Sequence[int], *__: Any, **___: Any) -> int:
    """Scores again, and the gradients of scores, queries, keys and values: five products (Dao et al. 2022)."""
    return 5 * _attention(query, key) // 2


def _count_varlen() -> None:
    """Tell PyTorch the operations of attention over packed rows, unless its version knows them."""
    if not HAS_VARLEN:
        return
    import_module("torch.nn.attention.varlen")  # registers the kernel
    kernels = torch.ops.torch_attn
    for kernel, formula in ((kernels._varlen_attn, _varlen), (kernels._varlen_attn_backward, _varlen_backward)):
        if kernel not in flop_registry:
            register_flop_formula([kernel], get_raw=True)(formula)


def _varlen(query: Tensor, _: Tensor, __: Tensor, start: Tensor, *___: Any, **____: Any) -> int:
    """Scores and means within each row: [T, H, E], and where each row begins."""
    _total, heads, width = query.shape
    return 4 * heads * width * int(start.diff().long().square().sum())


def _varlen_backward(_: Tensor, *given: Any, **__: Any) -> int:
    query, _key, _value, _out, _lse, start, *_rest = given
    return 5 * _varlen(query, query, query, start) // 2


def products_of(config: ModelConfig, rows: int) -> list[Product]:
    """The products of a block and of its gradient, of so many positions at once."""
    width, hidden = config.embedding_dim, config.feedforward_ratio * config.embedding_dim
    maps = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    forward = [(rows, inputs, outputs) for inputs, outputs in maps]
    of_inputs = [(rows, outputs, inputs) for inputs, outputs in maps]
    of_weights = [(outputs, rows, inputs) for inputs, outputs in maps]
    return forward + of_inputs + of_weights


def matmul_rate(products: Sequence[Product], dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """Operations a second of the machine in matrix products of these sizes, into memory that is there already."""
    operands = []
    for m, k, n in products:
        shapes = [(m, k), (k, n), (m, n)]
        operands.append([torch.randn(shape, dtype=dtype, device=device) for shape in shapes])
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        for left, right, result in operands:
            torch.mm(left, right, out=result)
        synchronise(device)
        times.append(time.perf_counter() - start)
    return sum(2 * m * k * n for m, k, n in products) / statistics.median(times[1:])


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How many floating-point operations a computation makes, and how many a device can make in a second.

Shapes: a product of [M, K] and [K, N] makes 2 x M x K x N operations.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

ATTEMPTS = 5
AT_LEAST = 0.02
"""Seconds that one attempt takes: shorter ones measure the clock."""


def flops_of(function: Callable[[], object]) -> int:
    """Count the operations of the matrix products and the attention of a call, forward and backward.

    What the call computes twice counts twice: scores of fused attention (all with gradient checkpointing).
    Elementwise operations do not count, as is usual for the utilisation of a device. Compiled code is not seen: count
    the same call uncompiled.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with counter:
        function()
    return counter.get_total_flops()


def matmul_rate(shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, device: torch.device) -> float:
    """Measure what a device reaches in matrix products alone, in operations per second.

    Args:
        shapes: M, K and N of each product; the rate is that of all of them, one after another.
        dtype: of the factors.
        device: where; products run with as many threads as torch has now.

    Returns:
        The best of several attempts: other processes of the machine only ever add time.
    """
    factors = [
        (torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype))
        for m, k, n in shapes
    ]
    flops = sum(2 * m * k * n for m, k, n in shapes)

    def multiply(repeats: int) -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(repeats):
            for left, right in factors:
                left @ right
        synchronise(device)
        return time.perf_counter() - start

    multiply(1)
    repeats = max(1, round(AT_LEAST / max(multiply(1), 1e-6)))
    return flops * repeats / min(multiply(repeats) for _ in range(ATTEMPTS))


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# torch counts the kernels of CUDA alone
_CPU_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}

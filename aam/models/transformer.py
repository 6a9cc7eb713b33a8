"""Pre-norm transformer blocks, used by both levels.

Shapes: R rows (ASVs or samples), N positions (patches of nucleotides, or ASVs), H heads, D width.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from aam.config import AttnImplementation, MixedPrecision, ModelConfig
from aam.errors import InputError
from aam.models.initial import Linear

RECOMPILE_LIMIT: Final = 64
"""Graphs of a block; an ordinary run has about a dozen kinds of batches."""


def attention_kernel(implementation: AttnImplementation, masked: bool) -> AbstractContextManager[object]:
    """Context in which `scaled_dot_product_attention` uses the kernel that was asked for.

    The flash kernel of CUDA takes no mask, so masked attention may use the memory-efficient one in its place.

    Args:
        implementation: the kernel; ``sdpa`` leaves the choice to PyTorch.
        masked: whether a mask is passed.
    """
    match implementation:
        case "flash":
            backends = [SDPBackend.FLASH_ATTENTION] + masked * [SDPBackend.EFFICIENT_ATTENTION]
        case "mem_efficient":
            backends = [SDPBackend.EFFICIENT_ATTENTION]
        case "math":
            backends = [SDPBackend.MATH]
        case "sdpa":
            return nullcontext()
    return sdpa_kernel(backends)


def check_attention(implementation: AttnImplementation, device: torch.device, precision: MixedPrecision) -> None:
    """Refuse a kernel that the device does not have, before anything is computed.

    Raises:
        InputError: the kernel needs a GPU, or half precision.
    """
    if implementation == "mem_efficient" and device.type == "cpu":
        raise InputError("--attn-implementation mem_efficient needs a GPU; on a CPU give sdpa, flash or math")
    if implementation == "flash" and device.type != "cpu" and precision == "none":
        raise InputError("--attn-implementation flash needs half precision on a GPU: add --mixed-precision bf16")


def residual_std(inputs: int, config: ModelConfig) -> float:
    """Deviation that keeps the variance, scaled down with depth for residual branches (Radford et al. 2019)."""
    std: float = (2 * config.attention_layers * inputs) ** -0.5
    return std


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) with one fused projection; no dropout of attention weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.implementation = config.attn_implementation
        width = config.embedding_dim
        self.qkv = Linear(width, 3 * width, std=width**-0.5, bias=False)
        self.output = Linear(width, width, std=residual_std(width, config), bias=False)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Mix positions: [R, N, D] -> [R, N, D]; ``attend``: bool [R, 1, 1, N], False where padding."""
        qkv = self.qkv(x)
        dtype = qkv.dtype
        if qkv.device.type == "cpu" and dtype == torch.bfloat16:
            # the backward pass of the fused CPU kernel is up to five times slower in bfloat16 than in float32
            qkv = qkv.float()
        # heads are views: the kernels read the strides of the fused projection
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        kernel = attention_kernel(self.implementation, masked=attend is not None)
        with torch.autocast(qkv.device.type, enabled=False), kernel:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2).to(dtype))
        return projected


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them: [..., D] -> [..., D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.feedforward_ratio * config.embedding_dim
        self.expand = Linear(config.embedding_dim, hidden, std=config.embedding_dim**-0.5, bias=False)
        self.contract = Linear(hidden, config.embedding_dim, std=residual_std(hidden, config), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position by itself."""
        contracted: Tensor = self.contract(functional.gelu(self.expand(x)))
        return contracted


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020); its linear maps have no bias, the norms before them do.

    However many rows there are, it is called once a pass: where it is sharded, every process must call it as often.
    """

    def __init__(
        self, config: ModelConfig, dropout: float, chunk: int | None = None, attention: "Attention | None" = None
    ) -> None:
        """Build the block.

        Args:
            config: shape of the network.
            dropout: of what is added to the input.
            chunk: rows that are transformed together, which bounds the memory; None for all.
            attention: makes what mixes positions, called as `SelfAttention`, which is the default.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embedding_dim)
        self.attention = (attention or SelfAttention)(config)
        self.feedforward_norm = nn.LayerNorm(config.embedding_dim)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.chunk = chunk
        self.gradient_checkpointing = config.gradient_checkpointing
        # takes the block as an argument: bound to this one it would be wrong in a replica
        self.run: Transform = Block.transform

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Attention, then feed-forward, each added to its input: [R, N, D] -> [R, N, D]."""
        parts = torch.split(x, self.chunk or max(len(x), 1))
        masks: Sequence[Tensor | None] = [None] * len(parts) if attend is None else torch.split(attend, len(parts[0]))
        done = [self._run_chunk(part, mask) for part, mask in zip(parts, masks, strict=True)]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _run_chunk(self, x: Tensor, attend: Tensor | None) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self.run(self, x, attend)
        # block by block: a checkpoint around the whole stack would save no peak memory
        draws = isinstance(self.dropout, nn.Dropout)
        recomputed: Tensor = checkpoint(self.run, self, x, attend, use_reentrant=False, preserve_rng_state=draws)
        return recomputed

    def transform(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Transform a chunk of rows; see `forward`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        transformed: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return transformed


Transform = Callable[[Block, Tensor, Tensor | None], Tensor]
Attention = Callable[[ModelConfig], nn.Module]


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model, in place; nothing else of it costs much, and weights keep their names."""
    # a pass with a graph, one without, padded or not, ...: beyond the limit PyTorch goes on uncompiled
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    # one function for all blocks, which differ in their weights alone; dynamic, since every batch has other sizes; the
    # generator of uncompiled passes, so that both passes of an accumulated step drop out the same
    compiled = torch.compile(Block.transform, dynamic=True, options={"fallback_random": True})
    for module in model.modules():
        if isinstance(module, Block):
            module.run = compiled


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(
        self, config: ModelConfig, dropout: float, chunk: int | None = None, attention: Attention | None = None
    ) -> None:
        """Build the stack; see `Block`."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, dropout, chunk, attention) for _ in range(config.attention_layers))
        self.norm = nn.LayerNorm(config.embedding_dim)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Encode sets or sequences.

        Args:
            x: [R, N, D].
            padding: bool [R, N], True where a position is padding and must not be attended to; None where there is
                none, which is faster.

        Returns:
            [R, N, D]; arbitrary but finite where padding.
        """
        attend = None if padding is None else ~padding[:, None, None, :]
        for block in self.blocks:
            x = block(x, attend)
        normed: Tensor = self.norm(x)
        return normed

"""Pre-norm transformer blocks, used by both levels.

Shapes: R rows (ASVs or samples), N positions (patches of nucleotides, or ASVs), T real positions of all rows, H heads,
D width. Blocks take rows as [R, N, D], or packed without padding as [T, D] (`aam.models.packing`).
"""

from collections.abc import Callable
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
from aam.models.packing import Attend, Layout, Lengths, Padded, layout_of

RECOMPILE_LIMIT: Final = 64
"""Graphs of a block; an ordinary run has about a dozen kinds of batches."""
CHUNK_POSITIONS: Final = {"cpu": 8192, "cuda": 65536}
"""Positions that go through a layer together: few enough for the caches of a CPU, and many enough to fill a GPU."""


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

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Mix the positions of each row: [R, N, D] -> [R, N, D], or packed, [T, D] -> [T, D]."""
        qkv = self.qkv(x)
        dtype = qkv.dtype
        if qkv.device.type == "cpu" and dtype == torch.bfloat16:
            # the backward pass of the fused CPU kernel is up to five times slower in bfloat16 than in float32
            qkv = qkv.float()
        # heads are views: the kernels read the strides of the fused projection
        parts = [part.unflatten(-1, (self.heads, -1)) for part in qkv.chunk(3, dim=-1)]
        kernel = attention_kernel(self.implementation, masked=isinstance(attend, Tensor))
        with torch.autocast(qkv.device.type, enabled=False), kernel:
            if isinstance(attend, Lengths):
                mixed = attend.attend(*parts)
            else:
                query, key, value = (part.transpose(1, 2) for part in parts)
                mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend).transpose(1, 2)
        projected: Tensor = self.output(mixed.flatten(-2).to(dtype))
        return projected

    def weights(self, x: Tensor) -> Tensor:
        """How much positions attend to one another, sum 1 over the last: [R, N, D] -> [R, H, N, N]."""
        query, key, _ = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.softmax(dim=-1)


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


BuildAttention = Callable[[ModelConfig], nn.Module]


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020); its linear maps have no bias, the norms before them do.

    However many rows there are, it is called once a pass: where it is sharded, every process must call it as often.
    """

    def __init__(
        self, config: ModelConfig, dropout: float, chunk: int | None = None, attention: BuildAttention = SelfAttention
    ) -> None:
        """Build the block.

        Args:
            config: shape of the network.
            dropout: of what is added to the input.
            chunk: rows that are transformed together, which bounds the memory; None for `CHUNK_POSITIONS`.
            attention: builds what mixes the positions of a row; called like `SelfAttention`.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embedding_dim)
        self.attention = attention(config)
        self.feedforward_norm = nn.LayerNorm(config.embedding_dim)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.chunk = chunk
        self.gradient_checkpointing = config.gradient_checkpointing
        # takes the block as an argument: bound to this one it would be wrong in a replica
        self.run: Transform = Block.transform

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Attention, then feed-forward, each added to its input: [R, N, D] -> [R, N, D], or [T, D] -> [T, D]."""
        done = [self._run_chunk(part, told) for part, told in self._chunks(x, attend)]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _chunks(self, x: Tensor, attend: Attend) -> list[tuple[Tensor, Attend]]:
        if torch.compiler.is_exporting():
            return [(x, attend)]
        positions = CHUNK_POSITIONS[x.device.type]
        if isinstance(attend, Lengths):
            lengths = attend.cut(self.chunk, positions) or [attend]
            return list(zip(torch.split(x, [each.total for each in lengths]), lengths, strict=True))
        rows = self.chunk or max(1, positions // max(1, x.shape[1]))
        parts = torch.split(x, rows)
        return list(zip(parts, [None] * len(parts) if attend is None else torch.split(attend, rows), strict=True))

    def _run_chunk(self, x: Tensor, attend: Attend) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self.run(self, x, attend)
        # block by block: a checkpoint around the whole stack would save no peak memory
        draws = isinstance(self.dropout, nn.Dropout)
        recomputed: Tensor = checkpoint(self.run, self, x, attend, use_reentrant=False, preserve_rng_state=draws)
        return recomputed

    def transform(self, x: Tensor, attend: Attend) -> Tensor:
        """Transform a chunk of rows; see `forward`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        transformed: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return transformed


Transform = Callable[[Block, Tensor, Attend], Tensor]


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
        elif isinstance(module, Transformer):
            module.pads = True  # one graph for all lengths


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(
        self, config: ModelConfig, dropout: float, chunk: int | None = None, attention: BuildAttention = SelfAttention
    ) -> None:
        """Build the stack; see `Block`."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, dropout, chunk, attention) for _ in range(config.attention_layers))
        self.norm = nn.LayerNorm(config.embedding_dim)
        self.implementation = config.attn_implementation
        self.head = config.embedding_dim // config.attention_heads
        self.pads = False

    def layout(self, padding: Tensor) -> Layout:
        """Choose how rows with padding, bool [R, N], go through the blocks."""
        if self.pads or torch.compiler.is_exporting():  # what is exported must not look at values
            return Padded(~padding[:, None, None, :])
        return layout_of(padding, self.implementation, self.head)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Encode sets or sequences: [R, N, D] -> [R, N, D], arbitrary but finite where padding.

        Padding, bool [R, N], must not be attended to; None where there is none, which is faster.
        """
        layout = Padded(None) if padding is None else self.layout(padding)
        return layout.unpack(self.transform(layout.pack(x), layout.attend))

    def transform(self, x: Tensor, attend: Attend) -> Tensor:
        """Encode rows in the form that a layout has brought them to: [R, N, D] or [T, D], the same out."""
        for block in self.blocks:
            x = block(x, attend)
        normed: Tensor = self.norm(x)
        return normed

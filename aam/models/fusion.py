"""How the categories of a sample meet what the model makes of its ASVs.

Some ways act on the embedding of the sample, others on its ASVs before these are pooled; none runs through the
transformer. ``add``, ``cross_attention`` and ``perceiver`` start as the model without categories.

Shapes: B samples, S ASVs in a sample, K columns, D width, C width of a category's vector, N latents, H heads.
"""

from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import CategoryConfig
from aam.models.categorical_embedder import CategoricalEmbedder, HierarchicalCategoricalEmbedder
from aam.models.initial import Linear, SeededModule, normal
from aam.models.types import CategorySpec, CategoryVectors

LATENTS: Final = 8
"""Latents of the perceiver."""


class FusedSamples(NamedTuple):
    """What fusions read of samples."""

    embedding: Tensor
    """[B, D]."""
    asv_context: Tensor
    """[B, S, D], each ASV in the light of its sample."""
    padding: Tensor
    """bool [B, S], True where padding."""
    pool: Callable[[Tensor, Tensor], Tensor]
    """Makes an embedding of contexts and padding, as the encoder does."""


class Fusion(Protocol):
    """A way in which categories meet samples."""

    width: int
    """Numbers for each sample."""
    reads_asvs: ClassVar[bool]
    """Whether categories meet the ASVs of a sample, and not its embedding alone."""

    def __call__(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Give what the prediction is made from: [B, width]."""
        ...


class ConcatFusion(nn.Module):
    """The sample's embedding, and the vectors of its categories beside it."""

    reads_asvs: ClassVar[bool] = False

    def __init__(self, width: int, joined: int) -> None:
        super().__init__()
        self.width = width + joined

    def forward(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Put beside one another: [B, D], [B, K C] -> [B, D + K C]."""
        return torch.cat([samples.embedding, categories.joined], dim=1)


class AddFusion(nn.Module):
    """A linear map of the categories' vectors, zero at first, added to the sample's embedding."""

    reads_asvs: ClassVar[bool] = False

    def __init__(self, width: int, joined: int) -> None:
        super().__init__()
        self.width = width
        self.project = Linear(joined, width, std=0.0)

    def forward(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Add, in full precision under autocast too: [B, D], [B, K C] -> [B, D]."""
        with torch.autocast(samples.embedding.device.type, enabled=False):
            added: Tensor = samples.embedding + self.project(categories.joined)
        return added


class GatedFusion(nn.Module):
    """Gated multimodal unit (Arevalo et al. 2017): a gate, learned of both, weighs embedding against categories.

    h = g * tanh(W1 x) + (1 - g) * tanh(W2 c) with g = sigmoid(W3 [x, c]).
    """

    reads_asvs: ClassVar[bool] = False

    def __init__(self, width: int, joined: int) -> None:
        super().__init__()
        self.width = width
        self.sample = Linear(width, width, std=width**-0.5, bias=False)
        # the vectors of all columns have unit length
        self.categories = Linear(joined, width, std=1.0, bias=False)
        self.gate = Linear(width + joined, width, std=(width + joined) ** -0.5, bias=False)

    def forward(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Weigh, in full precision under autocast too: [B, D], [B, K C] -> [B, D]."""
        x, c = samples.embedding, categories.joined
        with torch.autocast(x.device.type, enabled=False):
            gate = self.gate(torch.cat([x, c], dim=1)).sigmoid()
            h: Tensor = gate * self.sample(x).tanh() + (1 - gate) * self.categories(c).tanh()
        return h


class CategoryAttention(SeededModule, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with rows first, and weights drawn as those of other modules."""

    def __init__(self, width: int, heads: int, source: int, source_std: float, output_std: float) -> None:
        """Build the attention.

        Args:
            width: of queries and output, D.
            heads: H.
            source: width of what is attended to.
            source_std: deviation of the maps to keys and values.
            output_std: deviation of the last map; 0 for an attention that gives nothing at first.

        Raises:
            ValueError: the heads do not divide the width.
        """
        if width % heads:
            raise ValueError(f"a width of {width} does not divide among {heads} heads")
        super().__init__(width, heads, kdim=source, vdim=source, batch_first=True)
        self.source_std = source_std
        self.out_proj = Linear(width, width, std=output_std)  # type: ignore[assignment]
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the maps to queries, keys and values; see `SeededModule`."""
        width = self.embed_dim
        query = normal(torch.Size((width, width)), width**-0.5, generator)
        key, value = (normal(torch.Size((width, self.kdim)), self.source_std, generator) for _ in range(2))
        bias = {"in_proj_bias": torch.zeros(3 * width, device="cpu")}
        if self.in_proj_weight is not None:  # one matrix where all widths are equal
            return {"in_proj_weight": torch.cat([query, key, value])} | bias
        return {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value} | bias


class CrossAttentionFusion(nn.Module):
    """Each ASV attends to the categories of its sample, then the ASVs are pooled by the encoder's own pooling.

    x + attention(norm(x), categories), where the attention gives nothing at first.
    """

    reads_asvs: ClassVar[bool] = True

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(width)
        self.attention = CategoryAttention(width, heads, source, source_std=1.0, output_std=0.0)

    def forward(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Attend and pool: [B, S, D], [B, K, C] -> [B, D]."""
        x = samples.asv_context
        attended, _ = self.attention(self.norm(x), categories.columns, categories.columns, need_weights=False)
        return samples.pool(x + attended, samples.padding)

    def weights(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """How much each ASV attends to each column: [B, H, S, K], with sum 1 over K; 0 where padding."""
        source = categories.columns
        _, weights = self.attention(self.norm(samples.asv_context), source, source, average_attn_weights=False)
        real: Tensor = weights.masked_fill(samples.padding[:, None, :, None], 0.0)
        return real


class PerceiverFusion(SeededModule):
    """A few learned latents attend to ASVs and categories together (Jaegle et al. 2021).

    Their mean, through a linear map that is zero at first, is added to the sample's embedding.
    """

    reads_asvs: ClassVar[bool] = True

    def __init__(self, width: int, source: int, heads: int, sample_width: int) -> None:
        super().__init__()
        self.width = sample_width
        self.latents = nn.Parameter(torch.empty(LATENTS, width))
        self.project = Linear(source, width, std=1.0)
        self.attention = CategoryAttention(width, heads, width, source_std=width**-0.5, output_std=width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.expand = Linear(width, 2 * width, std=width**-0.5)
        self.contract = Linear(2 * width, width, std=(2 * width) ** -0.5)
        self.output = Linear(width, sample_width, std=0.0)
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the latents; see `SeededModule`."""
        return {"latents": normal(self.latents.shape, 1.0, generator)}

    def forward(self, samples: FusedSamples, categories: CategoryVectors) -> Tensor:
        """Attend and add, the latter in full precision: [B, D], [B, S, D], [B, K, C] -> [B, D]."""
        source = torch.cat([samples.asv_context, self.project(categories.columns)], dim=1)
        padding = functional.pad(samples.padding, (0, categories.columns.shape[1]), value=False)
        latents = self.latents.expand(source.shape[0], -1, -1)
        attended, _ = self.attention(latents, source, source, key_padding_mask=padding, need_weights=False)
        latents = latents + attended
        latents = latents + self.contract(functional.gelu(self.expand(self.norm(latents))))
        with torch.autocast(source.device.type, enabled=False):
            added: Tensor = samples.embedding + self.output(latents.mean(1).to(samples.embedding.dtype))
        return added


def build_fusion(config: CategoryConfig, spec: CategorySpec, width: int, sample_width: int | None = None) -> Fusion:
    """Build the fusion that a config names, for ASVs of a width and samples of another, or of the same.

    Raises:
        ValueError: the heads do not divide the width.
    """
    joined = spec.fused * config.categorical_dim
    sample_width = width if sample_width is None else sample_width
    match config.categorical_fusion:
        case "concat":
            return ConcatFusion(sample_width, joined)
        case "add":
            return AddFusion(sample_width, joined)
        case "gmu":
            return GatedFusion(sample_width, joined)
        case "cross_attention":
            return CrossAttentionFusion(width, config.categorical_dim, config.cross_attn_heads)
        case "perceiver":
            return PerceiverFusion(width, config.categorical_dim, config.cross_attn_heads, sample_width)


class Conditioned(NamedTuple):
    """What a prediction is made from, in the light of categories."""

    inputs: Tensor
    """[B, width]."""
    attention: Tensor | None
    """[B, H, S, K], how much each ASV attends to each column, 0 where padding; None unless asked for."""


class Conditioning(nn.Module):
    """All of a model that depends on categories: their vectors, and how these meet the sample."""

    def __init__(self, config: CategoryConfig, spec: CategorySpec, width: int, sample_width: int | None = None) -> None:
        """Build it; see `build_fusion`.

        Raises:
            ValueError: the heads do not divide the width, or a column is above itself.
        """
        super().__init__()
        self.embedder = _build_embedder(config, spec)
        self.fusion = build_fusion(config, spec, width, sample_width)
        self.width = self.fusion.width

    def forward(self, samples: FusedSamples, categories: Tensor, with_attention: bool = False) -> Conditioned:
        """Condition samples on their categories.

        Args:
            samples: encoded samples.
            categories: int64 [B, K] of all columns.
            with_attention: also give how much each ASV attends to each column.

        Raises:
            ValueError: ASVs do not attend to categories in this model.
        """
        vectors = self._embed(categories)
        attention = None
        if with_attention:
            if not isinstance(self.fusion, CrossAttentionFusion):
                raise ValueError("attention to categories needs a model built with categorical_fusion cross_attention")
            attention = self.fusion.weights(samples, vectors)
        return Conditioned(self.fusion(samples, vectors), attention)

    def _embed(self, categories: Tensor) -> CategoryVectors:
        with torch.autocast(categories.device.type, enabled=False):
            vectors: CategoryVectors = self.embedder(categories)
        return vectors


def _build_embedder(config: CategoryConfig, spec: CategorySpec) -> nn.Module:
    width, fused = config.categorical_dim, spec.fused
    if all(parent is None for parent in spec.parents[:fused]):
        return CategoricalEmbedder(spec.sizes[:fused], width)
    return HierarchicalCategoricalEmbedder(spec.sizes, spec.parents, fused, width, config.hierarchy_combine)

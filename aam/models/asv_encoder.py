"""The nucleotide level: from the nucleotides of each unique ASV to one vector.

Shapes: U unique ASVs of a batch, R rows, L nucleotides, P patches of p nucleotides each, M masked nucleotides, D width,
V vocabulary.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.files.sequences import MASK, PAD, VOCABULARY_SIZE
from aam.models.initial import Linear, SeededModule, normal
from aam.models.pooling import AttentionPooling
from aam.models.transformer import Transformer
from aam.models.types import EncodedAsvs


class PatchStem(SeededModule):
    """Embed every nucleotide, concatenate the p of a patch, project to the width, and add the position.

    An embedding followed by a projection is one linear map of the one-hot nucleotides, and is computed as such.
    """

    def __init__(self, patch: int, patches: int, width: int) -> None:
        super().__init__()
        self.project = Linear(patch * VOCABULARY_SIZE, width, std=patch**-0.5, bias=False)
        self.position = nn.Parameter(torch.empty(patches, width))
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the positions; see `SeededModule`."""
        return {"position": normal(self.position.shape, 0.5, generator)}

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches: integer [U, P, p] -> [U, P, D]."""
        symbols = torch.arange(VOCABULARY_SIZE, dtype=torch.uint8, device=patches.device)
        one_hot = (patches[..., None] == symbols).flatten(2).to(self.position.dtype)
        embedded: Tensor = self.project(one_hot) + self.position[: patches.shape[1]]
        return embedded


class NucleotideProjection(Linear):
    """A linear map of all nucleotides of an ASV by their positions, so that ASVs differ before anything is learned."""

    def __init__(self, patch: int, patches: int, width: int) -> None:
        super().__init__(patches * patch * VOCABULARY_SIZE, width, std=(patches * patch) ** -0.5, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Project: integer [U, P, p] -> [U, D]; padding adds nothing."""
        symbols = torch.arange(VOCABULARY_SIZE, dtype=torch.uint8, device=patches.device)
        one_hot = ((patches[..., None] == symbols) & (patches[..., None] != PAD)).flatten(1).to(self.weight.dtype)
        return functional.linear(one_hot, self.weight[:, : one_hot.shape[1]])


class NucleotideHead(Linear):
    """Predicts masked nucleotides from the encoded patches of their ASVs."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, patch * VOCABULARY_SIZE, std=0.02)
        self.patch = patch

    def forward(self, encoded: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Predict: [R, P, D], and bool [R, L] of the same ASVs -> logits [M, V] in row-major order of the mask.

        They have a graph through all of the patches even if nothing is masked.
        """
        masked = in_patches(mask, self.patch, False)[:, : encoded.shape[1]].flatten(0, 1)
        affected = masked.any(dim=1).nonzero().squeeze(1)
        logits = super().forward(encoded.flatten(0, 1).index_select(0, affected))
        return logits.view(-1, VOCABULARY_SIZE)[masked[affected].flatten()]


class AsvEncoder(nn.Module):
    """Transformer over the nucleotides of an ASV, pooled to one vector; its head predicts masked nucleotides."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the level.

        Raises:
            ValueError: ``max_bp`` was left open.
        """
        super().__init__()
        if config.max_bp is None:
            raise ValueError("max_bp must be resolved to the longest ASV of the study before the model is built")
        width, self.patch = config.embedding_dim, config.nucleotide_patch
        self.patches = -(-config.max_bp // self.patch)
        self.stem = PatchStem(self.patch, self.patches, width)
        self.transformer = Transformer(config, config.nucleotide_dropout, config.asv_chunk_size)
        self.pooling = AttentionPooling(width, config.attention_heads)
        of_clades = config.sample_level == "clades"
        self.projection = NucleotideProjection(self.patch, self.patches, width) if of_clades else None
        self.nucleotide_head = NucleotideHead(width, self.patch)

    @property
    def embedding_parts(self) -> list[nn.Module]:
        """Modules that embeddings need, and masked nucleotides do not."""
        return [self.pooling] if self.projection is None else [self.pooling, self.projection]

    def forward(self, tokens: Tensor) -> EncodedAsvs:
        """Encode unique ASVs.

        Args:
            tokens: integer [U, L], nucleotides; padding only at the end of a row.

        Returns:
            Embeddings [U, D] and encoded patches [U, P, D]. Neither depends on the chunk size, on other ASVs, or on
            padding; there are no more patches than the longest ASV has.

        Raises:
            ValueError: the ASVs are longer than the model reads.
        """
        if tokens.shape[1] > self.patches * self.patch:
            raise ValueError(f"{tokens.shape[1]} nucleotides given, the model reads {self.patches * self.patch}")
        patches = in_patches(tokens, self.patch, PAD)
        present = patches[:, :, 0] != PAD
        padding: Tensor | None = ~present
        if not torch.compiler.is_exporting():  # what is exported must not look at values
            shortest, longest = torch.stack(present.sum(dim=1).aminmax()).tolist()
            patches, padding = patches[:, :longest], None if shortest == longest else ~present[:, :longest]
        encoded = self.transformer(self.stem(patches), padding)
        embedding = self.pooling(encoded, padding)
        return EncodedAsvs(embedding if self.projection is None else embedding + self.projection(patches), encoded)


def predict_masked(encoder: AsvEncoder, tokens: Tensor, mask: Tensor) -> Tensor:
    """Predict masked nucleotides, from a pass over the ASVs that have some.

    Args:
        encoder: the nucleotide level.
        tokens: integer [U, L], nucleotides; padding only at the end of a row.
        mask: bool [U, L], nucleotides to mask and predict; none of them padding.

    Returns:
        Logits [M, V], where ``tokens[mask]`` are the truth. They depend on no other row, and have a graph through the
        whole level even if there are none.
    """
    masking = mask.any(dim=1).nonzero().squeeze(1)
    # without any, one row goes through nevertheless: every process of a run must call the same modules
    rows = masking if len(masking) else masking.new_zeros(1)
    masked = encoder(tokens[rows].masked_fill(mask[rows], MASK))
    logits: Tensor = encoder.nucleotide_head(masked.patches, mask[rows])
    return logits


def in_patches(values: Tensor, patch: int, fill: int) -> Tensor:
    """Cut rows into patches: [U, L] -> [U, P, p]."""
    whole = functional.pad(values, (0, -values.shape[1] % patch), value=fill)
    return torch.unflatten(whole, 1, (-1, patch))

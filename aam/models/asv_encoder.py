"""The nucleotide level: from the nucleotides of each unique ASV to one vector.

Shapes: U unique ASVs of a batch, L nucleotides, P patches of p nucleotides each, M hidden nucleotides, D width,
V vocabulary.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.sequences import MASK, PAD, VOCABULARY_SIZE
from aam.models.initial import Drawn, Linear, normal
from aam.models.pooling import AttentionPooling
from aam.models.transformer import Transformer


class PatchStem(Drawn):
    """Embed every nucleotide, concatenate the p of a patch, project to the width, and add the position.

    An embedding followed by a projection is one linear map of the one-hot nucleotides, and is computed as such.
    """

    def __init__(self, patch: int, patches: int, width: int) -> None:
        super().__init__()
        self.project = Linear(patch * VOCABULARY_SIZE, width, std=patch**-0.5, bias=False)
        self.position = nn.Parameter(torch.empty(patches, width))
        self.reset_parameters()

    def draw(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the positions; see `Drawn`."""
        return {"position": normal(self.position.shape, 0.5, generator)}

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches: integer [U, P, p] -> [U, P, D]."""
        symbols = torch.arange(VOCABULARY_SIZE, dtype=torch.uint8, device=patches.device)
        one_hot = (patches[..., None] == symbols).flatten(2).to(self.position.dtype)
        embedded: Tensor = self.project(one_hot) + self.position[: patches.shape[1]]
        return embedded


class AsvEncoder(nn.Module):
    """Transformer over the nucleotides of an ASV, pooled to one vector; predicts hidden nucleotides."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the level.

        Args:
            config: shape of the network.

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
        self.nucleotide_head = Linear(width, self.patch * VOCABULARY_SIZE, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode unique ASVs.

        Args:
            tokens: integer [U, L], nucleotides; padding only at the end of a row.

        Returns:
            Embeddings [U, D], which depend neither on the chunk size, nor on other ASVs, nor on padding.

        Raises:
            ValueError: the ASVs are longer than the model reads.
        """
        if tokens.shape[1] > self.patches * self.patch:
            raise ValueError(f"{tokens.shape[1]} nucleotides given, the model reads {self.patches * self.patch}")
        embedding: Tensor = self.pooling(*self._encode(tokens))
        return embedding

    def predict_hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predict hidden nucleotides, from a pass over the ASVs that hide some.

        Args:
            tokens: integer [U, L], nucleotides; padding only at the end of a row.
            mask: bool [U, L], nucleotides to hide and predict; none of them padding.

        Returns:
            Logits [M, V], where ``tokens[mask]`` are the truth; with no dependence on other rows, as of `forward`. They
            have a graph through the whole level even if there are none.
        """
        hiding = mask.any(dim=1).nonzero().squeeze(1)
        # without any, one row goes through nevertheless: every process of a run must call the same modules
        rows = hiding if len(hiding) else hiding.new_zeros(1)
        encoded, _ = self._encode(tokens[rows].masked_fill(mask[rows], MASK))
        hidden = self._patches(mask[rows], False)[:, : encoded.shape[1]].flatten(0, 1)
        affected = hidden.any(dim=1).nonzero().squeeze(1)
        logits: Tensor = self.nucleotide_head(encoded.flatten(0, 1).index_select(0, affected))
        return logits.view(-1, VOCABULARY_SIZE)[hidden[affected].flatten()]

    def _encode(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode rows: integer [U, L] -> [U, P', D] and their padding, P' the patches of the longest ASV."""
        patches = self._patches(tokens, PAD)
        present = patches[:, :, 0] != PAD
        shortest, longest = torch.stack(present.sum(dim=1).aminmax()).tolist()
        padding = None if shortest == longest else ~present[:, :longest]
        return self.transformer(self.stem(patches[:, :longest]), padding), padding

    def _patches(self, values: Tensor, fill: int) -> Tensor:
        """Cut rows into patches: [U, L] -> [U, P, p]."""
        whole = functional.pad(values, (0, -values.shape[1] % self.patch), value=fill)
        return whole.view(len(values), -1, self.patch)

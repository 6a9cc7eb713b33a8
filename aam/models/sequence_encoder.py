"""The pretraining model: nucleotides -> ASVs -> samples -> distances between samples.

Shapes: B and G samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, M hidden nucleotides, D width,
V vocabulary.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from aam.config import ModelConfig
from aam.models.asv_encoder import AsvEncoder
from aam.models.distance_link import LINKS, LinkName
from aam.models.sample_encoder import SampleEncoder
from aam.models.types import EncoderOutput, SampleOutput

# with fresh weights two samples of a real study lie about sqrt(D) / 15 apart (ecam, moving_pictures, emp_2k; widths 32
# to 256), so the first predicted distances have mean 0.6 to 0.8 and deviation 0.11 to 0.17: no link is flat there
INITIAL_TAU_PER_ROOT_WIDTH: Final = 1 / 18


class SequenceEncoder(nn.Module):
    """Encodes every unique ASV of a batch once, and every sample from its ASVs.

    A sample's embedding and the distance of two samples depend on those samples alone: not on the order of ASVs, on
    padding, on the other samples of the batch, or on how the ASVs are cut into chunks.
    """

    def __init__(self, config: ModelConfig, faith_pd: bool = False, link: LinkName = "laplace") -> None:
        """Build the model; weights are drawn from torch's global generator.

        Args:
            config: shape of the network, ``max_bp`` resolved.
            faith_pd: also predict Faith's PD of each sample.
            link: from embeddings to a distance, by its name in `LINKS`; euclidean where distances may exceed 1.

        Raises:
            ValueError: ``max_bp`` was left open.
        """
        super().__init__()
        self.config = config
        self.link = LINKS[link]
        self.asv_encoder = AsvEncoder(config)
        self.sample_encoder = SampleEncoder(config)
        self.faith_pd_head = nn.Linear(config.embedding_dim, 1) if faith_pd else None
        self.log_tau = nn.Parameter(torch.full((1,), math.log(INITIAL_TAU_PER_ROOT_WIDTH * config.embedding_dim**0.5)))

    def forward(
        self,
        tokens: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        mask: Tensor | None = None,
        hidden_count: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            tokens: integer [U, L], nucleotides of the unique ASVs, padding at the end.
            slot: int64 [B, S], which of the U each ASV of a sample is.
            count: int [B, S], reads; 0 marks padding.
            depth: int [B], reads of the sample, also of ASVs that are not among the S.
            mask: bool [U, L], nucleotides to hide and predict.
            hidden_count: bool [B, S], ASVs whose abundance is concealed.
        """
        asv_embedding = self.embed_asvs(tokens)
        embedding = self.encode_samples(asv_embedding, slot, count, depth, hidden_count).embedding
        # last, so that the dropout of all that comes before is the same with a mask and without
        logits = None if mask is None else self.asv_encoder.predict_hidden(tokens, mask)
        with torch.autocast(embedding.device.type, enabled=False):
            faith_pd = None if self.faith_pd_head is None else self.faith_pd_head(embedding).squeeze(1)
        return EncoderOutput(embedding, self.scale(embedding), logits, asv_embedding, faith_pd)

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, a chunk at a time: integer [U, L] -> [U, D]."""
        embedding: Tensor = self.asv_encoder(tokens)
        return embedding

    def embed_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """Embed samples from ASVs that are embedded already: [U, D], [B, S], [B, S], [B] -> [B, D]."""
        return self.encode_samples(asv_embedding, slot, count, depth).embedding

    def encode_samples(
        self,
        asv_embedding: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None = None,
        return_context: bool = False,
    ) -> SampleOutput:
        """Encode samples from ASVs that are embedded already; see `SampleEncoder.forward`."""
        output: SampleOutput = self.sample_encoder(asv_embedding, slot, count, depth, hidden_count, return_context)
        return output

    def scale(self, sample_embedding: Tensor) -> Tensor:
        """Divide embeddings by the learned tau, which gives z: [B, D] -> [B, D], in single precision or better."""
        return sample_embedding * (-self.log_tau).exp()

    def distance(self, z_rows: Tensor, z_columns: Tensor) -> Tensor:
        """Distances between samples: z [B, D] and z [G, D] -> [B, G]; no parameters of its own."""
        return self.link(z_rows, z_columns)

"""The pretraining model: nucleotides -> ASVs -> samples -> distances between samples.

Shapes: B and G samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, M hidden nucleotides, D width,
V vocabulary, C classes of all taxonomic ranks together.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from torch import Generator, Tensor, nn

from aam.config import ModelConfig
from aam.models.asv_encoder import AsvEncoder
from aam.models.distance_link import LINKS, LinkName
from aam.models.heads import TaxonomyHead
from aam.models.initial import Drawn, Linear
from aam.models.sample_encoder import SampleEncoder
from aam.models.types import EncoderOutput, SampleOutput

# with fresh weights two samples of a real study lie about sqrt(D) / 15 apart (ecam, moving_pictures, emp_2k; widths 32
# to 256), so the first predicted distances have mean 0.6 to 0.8 and deviation 0.11 to 0.17: no link is flat there
INITIAL_TAU_PER_ROOT_WIDTH: Final = 1 / 18


class SequenceEncoder(Drawn):
    """Encodes every unique ASV of a batch once, and every sample from its ASVs.

    A sample's embedding and the distance of two samples depend on those samples alone: not on the order of ASVs, on
    padding, on the other samples of the batch, or on how the ASVs are cut into chunks.

    The forward pass and the entry points are what training code calls. They never call one another: where the model is
    sharded, each gathers the weights before and frees them after.
    """

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (
        "embed_asvs",
        "embed_samples",
        "predict_hidden",
        "scale",
        "predict_faith_pd",
        "predict_taxonomy",
    )

    def __init__(
        self,
        config: ModelConfig,
        faith_pd: bool = False,
        link: LinkName = "laplace",
        taxonomy: Mapping[str, int] | None = None,
    ) -> None:
        """Build the model; weights are drawn from torch's global generator.

        Args:
            config: shape of the network, ``max_bp`` resolved.
            faith_pd: also predict Faith's PD of each sample.
            link: from embeddings to a distance, by its name in `LINKS`; euclidean where distances may exceed 1.
            taxonomy: number of classes by taxonomic rank; also predict each rank of every ASV.

        Raises:
            ValueError: ``max_bp`` was left open.
        """
        super().__init__()
        self.config = config
        self.link = LINKS[link]
        self.asv_encoder = AsvEncoder(config)
        self.sample_encoder = SampleEncoder(config)
        self.faith_pd_head = Linear(config.embedding_dim, 1) if faith_pd else None
        self.taxonomy_head = TaxonomyHead(config.embedding_dim, taxonomy) if taxonomy else None
        self.log_tau = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def draw(self, generator: Generator | None) -> dict[str, Tensor]:
        """The first scale, which is no draw; see `Drawn`."""
        tau = INITIAL_TAU_PER_ROOT_WIDTH * self.config.embedding_dim**0.5
        return {"log_tau": torch.full(self.log_tau.shape, math.log(tau), device="cpu")}

    def fix_unused(self, distances: bool, nucleotides: bool, faith_pd: bool, taxonomy: bool = False) -> None:
        """Let parameters that no loss reaches need no gradient, without which data parallelism would wait for one.

        Args:
            distances: whether distances are learned.
            nucleotides: whether hidden nucleotides are.
            faith_pd: whether Faith's PD is.
            taxonomy: whether taxonomic ranks are.
        """
        if not distances:
            self.log_tau.requires_grad_(False)
        if not nucleotides:
            self.asv_encoder.nucleotide_head.requires_grad_(False)
        if not faith_pd and self.faith_pd_head is not None:
            self.faith_pd_head.requires_grad_(False)
        if not taxonomy and self.taxonomy_head is not None:
            self.taxonomy_head.requires_grad_(False)
        if not (distances or faith_pd or taxonomy):
            self.asv_encoder.pooling.requires_grad_(False)
        if not (distances or faith_pd):
            self.sample_encoder.requires_grad_(False)

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
        asv_embedding = self.asv_encoder(tokens)
        embedding = self._embed_samples(asv_embedding, slot, count, depth, hidden_count)
        # last, so that the dropout of all that comes before is the same with a mask and without
        logits = None if mask is None else self.asv_encoder.predict_hidden(tokens, mask)
        faith_pd = None if self.faith_pd_head is None else self._faith_pd(self.faith_pd_head, embedding)
        ranks = None if self.taxonomy_head is None else self.taxonomy_head(asv_embedding)
        return EncoderOutput(embedding, self._scale(embedding), logits, asv_embedding, faith_pd, ranks)

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, in memory that grows with their number: integer [U, L] -> [U, D]."""
        embedding: Tensor = self.asv_encoder(tokens)
        return embedding

    def embed_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """Embed samples from ASVs that are embedded already: [U, D], [B, S], [B, S], [B] -> [B, D]."""
        return self._embed_samples(asv_embedding, slot, count, depth)

    def predict_hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predict hidden nucleotides: integer and bool [U, L] -> logits [M, V]; see `AsvEncoder.predict_hidden`."""
        return self.asv_encoder.predict_hidden(tokens, mask)

    def predict_faith_pd(self, sample_embedding: Tensor) -> Tensor:
        """Predict the logarithm of 1 + Faith's PD, in full precision under autocast too: [B, D] -> [B].

        Raises:
            ValueError: the model was built without a head for it.
        """
        if self.faith_pd_head is None:
            raise ValueError("predict_faith_pd needs a model built with faith_pd")
        return self._faith_pd(self.faith_pd_head, sample_embedding)

    def predict_taxonomy(self, asv_embedding: Tensor) -> Tensor:
        """Predict the taxonomic ranks of ASVs, in full precision under autocast too: [U, D] -> logits [U, C].

        Raises:
            ValueError: the model was built without heads for them.
        """
        if self.taxonomy_head is None:
            raise ValueError("predict_taxonomy needs a model built with taxonomy")
        logits: Tensor = self.taxonomy_head(asv_embedding)
        return logits

    def scale(self, sample_embedding: Tensor) -> Tensor:
        """Divide embeddings by the learned tau, which gives z: [B, D] -> [B, D], in single precision or better."""
        return self._scale(sample_embedding)

    def _embed_samples(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> Tensor:
        output: SampleOutput = self.sample_encoder(asv_embedding, slot, count, depth, hidden_count)
        return output.embedding

    def _faith_pd(self, head: Linear, sample_embedding: Tensor) -> Tensor:
        with torch.autocast(sample_embedding.device.type, enabled=False):
            # a sum, since what leaves a sharded model must not be a view
            predicted: Tensor = head(sample_embedding).sum(1)
        return predicted

    def _scale(self, sample_embedding: Tensor) -> Tensor:
        return sample_embedding * (-self.log_tau).exp()

    def distance(self, z_rows: Tensor, z_columns: Tensor) -> Tensor:
        """Distances between samples: z [B, D] and z [G, D] -> [B, G]; no parameters of its own."""
        return self.link(z_rows, z_columns)

"""The pretraining model: nucleotides -> ASVs -> samples -> distances between samples.

Shapes: B and G samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, D width.
"""

import math
from collections.abc import Collection, Mapping
from typing import Final, cast

import torch
from torch import Generator, Tensor, nn

from aam.config import ModelConfig
from aam.data.sampling.samples import Samples
from aam.models.asv_encoder import AsvEncoder, predict_masked
from aam.models.distance_link import LINKS, WEIGHTED_LINKS, LinkName
from aam.models.heads import Head
from aam.models.initial import SeededModule
from aam.models.learned_clades import CladeSampleEncoder, CladeWeights
from aam.models.sample_encoder import SampleEncoder
from aam.models.types import EncodedSamples, EncoderOutput

# with fresh weights two samples of a real study lie about sqrt(D) / 15 apart (ecam, moving_pictures, emp_2k; widths 32
# to 256), so the first predicted distances have mean 0.6 to 0.8 and deviation 0.11 to 0.17: no link is flat there
INITIAL_TAU_PER_ROOT_WIDTH: Final = 1 / 18


class Scale(SeededModule):
    """Divides embeddings by a learned tau."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.log_tau = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def initial_values(self, generator: Generator | None) -> dict[str, Tensor]:
        """The first scale, which is no draw; see `SeededModule`."""
        tau = INITIAL_TAU_PER_ROOT_WIDTH * self.width**0.5
        return {"log_tau": torch.full(self.log_tau.shape, math.log(tau), device="cpu")}

    def forward(self, sample_embedding: Tensor) -> Tensor:
        """Give z: [B, D] -> [B, D], in single precision or better."""
        return sample_embedding * (-self.log_tau).exp()


class SequenceEncoder(nn.Module):
    """Encodes every unique ASV of a batch once, and every sample from its ASVs.

    A sample's embedding and the distance of two samples depend on those samples alone: not on the order of ASVs, on
    padding, on the other samples of the batch, or on how the ASVs are cut into chunks.

    The levels (`asv_encoder`, `sample_encoder`, `scale`, and the heads) are modules that may be called by themselves.
    """

    def __init__(
        self, config: ModelConfig, link: LinkName = "laplace", heads: Mapping[str, nn.Module] | None = None
    ) -> None:
        """Build the model; weights are drawn from torch's global generator.

        Args:
            config: shape of the network, ``max_bp`` resolved.
            link: from embeddings to a distance, by its name in `LINKS`; euclidean where distances may exceed 1.
            heads: what else is predicted, by name; see `Head`.

        Raises:
            ValueError: ``max_bp`` was left open.
        """
        super().__init__()
        self.config = config
        self.link = LINKS[link]
        self.asv_encoder = AsvEncoder(config)
        of_clades = config.sample_level == "clades"
        self.sample_encoder = CladeSampleEncoder(config) if of_clades else SampleEncoder(config)
        self.head_names = tuple(heads or {})
        for name, head in (heads or {}).items():
            self.add_module(f"{name}_head", head)
        clades, weighted = config.learned_clades, link in WEIGHTED_LINKS
        self.scale = CladeWeights(clades, weighted=weighted) if of_clades else Scale(config.embedding_dim)

    def head(self, name: str) -> Head:
        """A head by its name."""
        return cast("Head", self.get_submodule(f"{name}_head"))

    def fix_unused(self, learned: Collection[str]) -> None:
        """Let parameters that no loss reaches need no gradient, without which data parallelism would wait for one.

        Learned are ``unifrac`` where distances are, ``nucleotide`` where masked nucleotides are, and names of heads.
        """
        reads = {self.head(name).reads for name in self.head_names if name in learned}
        distances = "unifrac" in learned
        for part, is_learned in (
            (self.scale, distances),
            (self.asv_encoder.nucleotide_head, "nucleotide" in learned),
            *((part, distances or bool(reads)) for part in self.asv_encoder.embedding_parts),
            (self.sample_encoder, distances or not reads.isdisjoint({"samples", "contexts"})),
            *((part, distances or "samples" in reads) for part in self.sample_encoder.sample_parts),
            *((part, "contexts" in reads) for part in self.sample_encoder.context_parts),
            *((self.get_submodule(f"{name}_head"), name in learned) for name in self.head_names),
        ):
            if not is_learned:
                part.requires_grad_(False)

    @property
    def sharding_units(self) -> list[nn.Module]:
        """Modules that are called by themselves, inner ones before those that hold them: together the whole model."""
        heads = [self.get_submodule(f"{name}_head") for name in self.head_names]
        inner = [self.asv_encoder.nucleotide_head, *self.sample_encoder.inner_units]
        return [*inner, self.asv_encoder, self.sample_encoder, *heads, self.scale]

    def forward(self, samples: Samples) -> EncoderOutput:
        """Encode a batch, and predict the nucleotides that are masked in it."""
        asvs, encoded = self.encode(samples)
        # last, so that the dropout of all that comes before is the same with masked nucleotides and without
        masked = samples.masked_nucleotides
        logits = None if masked is None else predict_masked(self.asv_encoder, samples.asvs, masked)
        given = {"asvs": asvs, "samples": encoded.embedding, "contexts": encoded.asv_context}
        heads = {name: self.head(name)(given[self.head(name).reads]) for name in self.head_names}
        return EncoderOutput(encoded.embedding, self.scale(encoded.embedding), logits, asvs, heads)

    def encode(self, samples: Samples) -> tuple[Tensor, EncodedSamples]:
        """Embed the ASVs [U, D], unless they are embedded already, and encode the samples."""
        asvs = samples.asvs if samples.are_embedded else self.embed_asvs(samples.asvs)
        encoded: EncodedSamples = self.sample_encoder(samples._replace(asvs=asvs))
        return asvs, encoded

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, in memory that grows with their number: integer [U, L] -> [U, D]."""
        embedding: Tensor = self.asv_encoder(tokens).embedding
        return embedding

    def distance(self, z_rows: Tensor, z_columns: Tensor) -> Tensor:
        """Distances between samples: z [B, D] and z [G, D] -> [B, G]; no parameters of its own."""
        return self.link(z_rows, z_columns)

"""The fine-tuning model: `SequenceEncoder` with heads for a metadata column and for hidden abundances.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, D width, K outputs.
"""

from typing import ClassVar, Self

from torch import Tensor, nn

from aam.config import TargetConfig
from aam.models.heads import CountHead, TargetHead, TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import PredictorOutput


class SequencePredictor(nn.Module):
    """Predicts a number or the classes of a metadata column.

    As of `SequenceEncoder`, the forward pass and the entry points never call one another.
    """

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = ("embed_asvs", "embed_samples", "predict_samples")

    def __init__(self, encoder: SequenceEncoder, outputs: TargetSpec, config: TargetConfig) -> None:
        """Compose the model; weights of the heads are drawn from torch's global generator.

        Args:
            encoder: pretrained or new.
            outputs: numbers of each target, or classes.
            config: shape of the target head; there is a count head if its loss has a weight.
        """
        super().__init__()
        width = encoder.config.embedding_dim
        self.encoder = encoder
        self.target_head = TargetHead(width, outputs, config)
        self.count_head = CountHead(width) if config.count_weight > 0 else None
        self.frozen = False
        # read by pretraining alone: data parallelism refuses parameters that no loss reaches
        encoder.log_tau.requires_grad_(False)
        for head in (encoder.asv_encoder.nucleotide_head, encoder.faith_pd_head, encoder.taxonomy_head):
            if head is not None:
                head.requires_grad_(False)

    def freeze(self) -> None:
        """Learn the heads alone: the encoder's weights stay, and it drops nothing out in training either."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a frozen encoder is always in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(
        self, tokens: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> PredictorOutput:
        """Predict for a batch.

        Args:
            tokens: integer [U, L], nucleotides of the unique ASVs, padding at the end.
            slot: int64 [B, S], which of the U each ASV of a sample is.
            count: int [B, S], reads; 0 marks padding.
            depth: int [B], reads of the sample, also of ASVs that are not among the S.
            hidden_count: bool [B, S], ASVs whose abundance is concealed and predicted.

        Raises:
            ValueError: abundances are hidden, and there is no head to predict them.
        """
        return self._predict(self.encoder.embed_asvs(tokens), slot, count, depth, hidden_count)

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, in memory that grows with their number: integer [U, L] -> [U, D]."""
        return self.encoder.embed_asvs(tokens)

    def embed_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """Embed samples from ASVs that are embedded already: [U, D], [B, S], [B, S], [B] -> [B, D]."""
        return self.encoder.embed_samples(asv_embedding, slot, count, depth)

    def predict_samples(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> PredictorOutput:
        """Predict from ASVs that are embedded already: [U, D] in place of their nucleotides; see `forward`."""
        return self._predict(asv_embedding, slot, count, depth, hidden_count)

    def _predict(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> PredictorOutput:
        """Do the work of `predict_samples`, no entry point itself: for the forward passes of this file."""
        if hidden_count is None:
            embedding = self.encoder.embed_samples(asv_embedding, slot, count, depth)
            return PredictorOutput(self.target_head(embedding), embedding, None)
        if self.count_head is None:
            raise ValueError("hidden_count needs a model built with count_weight > 0")
        embedding, context = self.encoder.encode_samples(
            asv_embedding, slot, count, depth, hidden_count, return_context=True
        )
        return PredictorOutput(self.target_head(embedding), embedding, self.count_head(context))


class EmbeddedPredictor(nn.Module):
    """`SequencePredictor.predict_samples` as a forward pass, which is all that data parallelism sees of a module."""

    def __init__(self, predictor: SequencePredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> PredictorOutput:
        """Predict from ASVs that are embedded already; see `SequencePredictor.predict_samples`."""
        return self.predictor._predict(asv_embedding, slot, count, depth, hidden_count)

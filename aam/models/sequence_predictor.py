"""The fine-tuning model: `SequenceEncoder` with heads for metadata columns and for hidden abundances.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, D width, K categorical columns, H heads.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from aam.config import CategoryConfig, TargetConfig
from aam.models.asv_features import AsvFeatures
from aam.models.fusion import Conditioning, EncodedSamples
from aam.models.heads import CountHead, TargetHead, TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import CategorySpec, PredictorOutput


class SequencePredictor(nn.Module):
    """Predicts numbers or the classes of a metadata column, in the light of categorical columns if it has them.

    As of `SequenceEncoder`, the forward pass and the entry points never call one another.
    """

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (
        "embed_asvs",
        "embed_samples",
        "pool_samples",
        "wave_asvs",
        "predict_samples",
        "predict_pooled",
        "category_attention",
        "head_inputs",
        "pooled_head_inputs",
    )

    def __init__(
        self,
        encoder: SequenceEncoder,
        outputs: TargetSpec,
        config: TargetConfig,
        categories: CategoryConfig | None = None,
        spec: CategorySpec | None = None,
    ) -> None:
        """Compose the model; weights of the heads are drawn from torch's global generator.

        Args:
            encoder: pretrained or new.
            outputs: numbers of each target, or classes.
            config: shape of the target head; there is a count head if its loss has a weight.
            categories: how the prediction depends on categories; by default as its defaults say.
            spec: the categorical columns of samples; None for none.

        Raises:
            ValueError: attention heads do not divide the width, or a categorical column is above itself.
        """
        super().__init__()
        width = encoder.config.embedding_dim
        self.encoder = encoder
        self.conditioning: Conditioning | None = None
        if spec is not None and spec.fused:
            self.conditioning = Conditioning(categories or CategoryConfig(), spec, width)
        self.scaled = None if spec is None else spec.scaled
        scales = 0 if spec is None or spec.scaled is None else spec.sizes[spec.scaled]
        self.asv_features = AsvFeatures(width, config.asv_features) if config.asv_features else None
        inputs = (self.conditioning.width if self.conditioning else width) + (config.asv_features or 0)
        self.target_head = TargetHead(inputs, outputs, config, scales)
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
        self,
        tokens: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> PredictorOutput:
        """Predict for a batch.

        Args:
            tokens: integer [U, L], nucleotides of the unique ASVs, padding at the end.
            slot: int64 [B, S], which of the U each ASV of a sample is.
            count: int [B, S], reads; 0 marks padding.
            depth: int [B], reads of the sample, also of ASVs that are not among the S.
            hidden_count: bool [B, S], ASVs whose abundance is concealed and predicted.
            categories: int64 [B, K], of all columns that the model was built for.

        Raises:
            ValueError: abundances are hidden, and there is no head to predict them; or the prediction depends on
                categories, and there are none.
        """
        return self._predict(self.encoder.embed_asvs(tokens), slot, count, depth, hidden_count, categories)

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, in memory that grows with their number: integer [U, L] -> [U, D]."""
        return self.encoder.embed_asvs(tokens)

    def embed_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """Embed samples from ASVs that are embedded already: [U, D], [B, S], [B, S], [B] -> [B, D]."""
        return self.encoder.embed_samples(asv_embedding, slot, count, depth)

    def pool_samples(self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor) -> Tensor:
        """All that a prediction reads of samples alone: embeddings, and features beside them; -> [B, D + F]."""
        embedding = self.encoder.embed_samples(asv_embedding, slot, count, depth)
        if self.asv_features is None:
            return embedding
        return torch.cat([embedding, self.asv_features(asv_embedding, slot, count)], dim=1)

    def wave_asvs(self, asv_embedding: Tensor) -> Tensor:
        """Random features of embedded ASVs, as of `AsvFeatures.waves`: [U, D] -> [U, F].

        Raises:
            ValueError: the model was built without them.
        """
        if self.asv_features is None:
            raise ValueError("wave_asvs needs a model built with asv_features")
        return self.asv_features.waves(asv_embedding)

    def predict_samples(
        self,
        asv_embedding: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> PredictorOutput:
        """Predict from ASVs that are embedded already: [U, D] in place of their nucleotides; see `forward`."""
        return self._predict(asv_embedding, slot, count, depth, hidden_count, categories)

    @property
    def reads_samples_alone(self) -> bool:
        """Whether a prediction depends on the embedding of the sample and its categories, and not on its ASVs."""
        by_sample = self.conditioning is None or not self.conditioning.fusion.reads_asvs
        return by_sample and self.count_head is None

    def predict_pooled(self, pooled: Tensor, categories: Tensor | None = None) -> PredictorOutput:
        """Predict from samples as of `pool_samples`: [B, D + F], and int64 [B, K] as of `forward`.

        Raises:
            ValueError: the prediction depends on the ASVs, too; or on categories, and there are none.
        """
        return self._predict_pooled(pooled, categories)

    def category_attention(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, categories: Tensor
    ) -> Tensor:
        """How much each ASV attends to each column, from ASVs that are embedded already; see `forward`.

        Returns:
            [B, H, S, K] of the columns that condition the prediction, with sum 1 over K; 0 where padding.

        Raises:
            ValueError: ASVs do not attend to categories in this model.
        """
        if self.conditioning is None:
            raise ValueError("attention to categories needs a model built with categories")
        return self.conditioning.attention(self._encode(asv_embedding, slot, count, depth), categories)

    def _predict(
        self,
        asv_embedding: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None,
        categories: Tensor | None,
    ) -> PredictorOutput:
        """Do the work of `predict_samples`, no entry point itself: for the forward passes of this file."""
        if hidden_count is not None and self.count_head is None:
            raise ValueError("hidden_count needs a model built with count_weight > 0")
        samples = self._encode(asv_embedding, slot, count, depth, hidden_count)
        prediction = self._predict_target(samples, categories)
        counts = None if hidden_count is None or self.count_head is None else self.count_head(samples.asv_context)
        return PredictorOutput(prediction, samples.embedding, counts)

    def head_inputs(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, categories: Tensor | None = None
    ) -> Tensor:
        """What the target head reads, [B, width of the head], from ASVs that are embedded already; see `forward`."""
        return self._condition(self._encode(asv_embedding, slot, count, depth), categories)

    def pooled_head_inputs(self, pooled: Tensor, categories: Tensor | None = None) -> Tensor:
        """What the target head reads of samples that are embedded already; see `predict_pooled`."""
        return self._condition(self._pooled(pooled), categories)

    def _predict_pooled(self, pooled: Tensor, categories: Tensor | None) -> PredictorOutput:
        """Do the work of `predict_pooled`, no entry point itself."""
        if not self.reads_samples_alone:
            raise ValueError("predict_pooled needs a model that does not read the ASVs of a sample again")
        samples = self._pooled(pooled)
        return PredictorOutput(self._predict_target(samples, categories), samples.embedding, None)

    def _pooled(self, pooled: Tensor) -> EncodedSamples:
        """Samples of which nothing but their embeddings, and features, is read."""
        rows, width = len(pooled), self.encoder.config.embedding_dim
        none = pooled.new_zeros(rows, 0, width)
        padding = pooled.new_zeros(rows, 0, dtype=torch.bool)
        features = None if self.asv_features is None else pooled[:, width:]
        return EncodedSamples(pooled[:, :width], none, padding, self.encoder.sample_encoder.pool, features)

    def _predict_target(self, samples: EncodedSamples, categories: Tensor | None) -> Tensor:
        if categories is None and (self.conditioning is not None or self.scaled is not None):
            raise ValueError("the prediction depends on categories, and none are given")
        category = None if categories is None or self.scaled is None else categories[:, self.scaled]
        prediction: Tensor = self.target_head(self._condition(samples, categories), category)
        return prediction

    def _condition(self, samples: EncodedSamples, categories: Tensor | None) -> Tensor:
        inputs: Tensor = samples.embedding if self.conditioning is None else self.conditioning(samples, categories)
        return inputs if samples.features is None else torch.cat([inputs, samples.features], dim=1)

    def _encode(
        self, asv_embedding: Tensor, slot: Tensor, count: Tensor, depth: Tensor, hidden_count: Tensor | None = None
    ) -> EncodedSamples:
        encoder = self.encoder.sample_encoder
        context = encoder.contextualise(asv_embedding, slot, count, depth, hidden_count)
        padding = count == 0
        features = None if self.asv_features is None else self.asv_features(asv_embedding, slot, count)
        return EncodedSamples(encoder.pool(context, padding), context, padding, encoder.pool, features)


class EmbeddedPredictor(nn.Module):
    """`SequencePredictor.predict_samples` as a forward pass, which is all that data parallelism sees of a module."""

    def __init__(self, predictor: SequencePredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(
        self,
        asv_embedding: Tensor,
        slot: Tensor,
        count: Tensor,
        depth: Tensor,
        hidden_count: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> PredictorOutput:
        """Predict from ASVs that are embedded already; see `SequencePredictor.predict_samples`."""
        return self.predictor._predict(asv_embedding, slot, count, depth, hidden_count, categories)


class PooledPredictor(nn.Module):
    """`SequencePredictor.predict_pooled` as a forward pass; see `EmbeddedPredictor`."""

    def __init__(self, predictor: SequencePredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, pooled: Tensor, categories: Tensor | None = None) -> PredictorOutput:
        """Predict from samples that are embedded already; see `SequencePredictor.predict_pooled`."""
        return self.predictor._predict_pooled(pooled, categories)

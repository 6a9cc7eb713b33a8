"""The fine-tuning model: `SequenceEncoder` with heads for metadata columns and for masked abundances.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, D width, F features, K categorical columns, H heads.
"""

from typing import Self

import torch
from torch import Tensor, nn

from aam.config import CategoryConfig, TargetConfig
from aam.data.sampling.samples import Samples
from aam.models.asv_features import AsvFeatures
from aam.models.fusion import Conditioning, FusedSamples
from aam.models.heads import AbundanceHead, TargetHead, TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import CategorySpec, PredictorOutput


class SequencePredictor(nn.Module):
    """Predicts numbers or the classes of a metadata column, in the light of categorical columns if it has them."""

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
            config: shape of the target head; there is a head for abundances if their loss has a weight.
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
            self.conditioning = Conditioning(categories or CategoryConfig(), spec, width, encoder.config.sample_dim)
        self.scaled = None if spec is None else spec.scaled
        scales = 0 if spec is None or spec.scaled is None else spec.sizes[spec.scaled]
        self.asv_features = AsvFeatures(width, config.asv_features) if config.asv_features else None
        inputs = self.conditioning.width if self.conditioning else encoder.config.sample_dim
        self.target_head = TargetHead(inputs + (config.asv_features or 0), outputs, config, scales)
        self.count_head = AbundanceHead(width) if config.count_weight > 0 else None
        self.frozen = False
        # read by pretraining alone: data parallelism refuses parameters that no loss reaches
        encoder.scale.requires_grad_(False)
        encoder.asv_encoder.nucleotide_head.requires_grad_(False)
        for name in encoder.head_names:
            encoder.get_submodule(f"{name}_head").requires_grad_(False)

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

    @property
    def sharding_units(self) -> list[nn.Module]:
        """Modules that are called by themselves; see `SequenceEncoder.sharding_units`."""
        own = (self.conditioning, self.asv_features, self.target_head, self.count_head)
        return [*self.encoder.sharding_units, *(module for module in own if module is not None)]

    @property
    def reads_samples_alone(self) -> bool:
        """Whether a prediction depends on what `pool` gives and on categories, and not on the ASVs of a sample."""
        by_sample = self.conditioning is None or not self.conditioning.fusion.reads_asvs
        return by_sample and self.count_head is None

    def forward(self, samples: Samples) -> PredictorOutput:
        """Predict for a batch: from nucleotides, from embedded ASVs, or from samples as of `pool`.

        Raises:
            ValueError: abundances are masked, and there is no head to predict them; the prediction depends on
                categories, and there are none; or on the ASVs of samples, and these are pooled.
        """
        if samples.masked_abundances is not None and self.count_head is None:
            raise ValueError("masked_abundances needs a model built with count_weight > 0")
        fused, features = self._pooled(samples.pooled) if samples.pooled is not None else self._encode(samples)
        head_input = self._condition(fused, features, samples.categories)
        category = None if samples.categories is None or self.scaled is None else samples.categories[:, self.scaled]
        prediction = self.target_head(head_input, category)
        masked = samples.masked_abundances is not None and self.count_head is not None
        abundances = self.count_head(fused.asv_context) if masked and self.count_head is not None else None
        return PredictorOutput(prediction, fused.embedding, abundances, head_input)

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs, in memory that grows with their number: integer [U, L] -> [U, D]."""
        return self.encoder.embed_asvs(tokens)

    def category_attention(self, samples: Samples) -> Tensor:
        """How much each ASV attends to each categorical column.

        Returns:
            [B, H, S, K] of the columns that condition the prediction, with sum 1 over K; 0 where padding.

        Raises:
            ValueError: ASVs do not attend to categories in this model, or there are none.
        """
        if self.conditioning is None or samples.categories is None:
            raise ValueError("attention to categories needs a model built with categories, and samples that have some")
        conditioned = self.conditioning(self._encode(samples)[0], samples.categories, with_attention=True)
        attention: Tensor = conditioned.attention
        return attention

    def _encode(self, samples: Samples) -> tuple[FusedSamples, Tensor | None]:
        """Samples, and their features [B, F] where the head reads some."""
        asvs, (embedding, context) = self.encoder.encode(samples)
        features = None if self.asv_features is None else self.asv_features(samples._replace(asvs=asvs))
        return FusedSamples(embedding, context, samples.padding, self.encoder.sample_encoder.pool), features

    def _pooled(self, pooled: Tensor) -> tuple[FusedSamples, Tensor | None]:
        """The same of samples of which nothing but their embeddings, and features, is known."""
        if not self.reads_samples_alone:
            raise ValueError("pooled samples need a model that does not read the ASVs of a sample again")
        rows, width = len(pooled), self.encoder.config.sample_dim
        none = pooled.new_zeros(rows, 0, self.encoder.config.embedding_dim)
        padding = pooled.new_zeros(rows, 0, dtype=torch.bool)
        features = None if self.asv_features is None else pooled[:, width:]
        return FusedSamples(pooled[:, :width], none, padding, self.encoder.sample_encoder.pool), features

    def _condition(self, fused: FusedSamples, features: Tensor | None, categories: Tensor | None) -> Tensor:
        if categories is None and (self.conditioning is not None or self.scaled is not None):
            raise ValueError("the prediction depends on categories, and none are given")
        inputs: Tensor = fused.embedding if self.conditioning is None else self.conditioning(fused, categories).inputs
        return inputs if features is None else torch.cat([inputs, features], dim=1)


def pool(model: SequencePredictor, samples: Samples) -> Tensor:
    """All that a prediction reads of samples alone: embeddings, and features beside them, [B, D + F].

    For a model that reads samples alone, and samples whose ASVs are embedded.
    """
    embedding: Tensor = model.encoder.sample_encoder(samples).embedding
    return embedding if model.asv_features is None else torch.cat([embedding, model.asv_features(samples)], dim=1)

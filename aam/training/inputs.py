"""What the model is given of a batch: nucleotides; or, where the encoder stays as it is, what it has made of them.

Shapes: B samples, U unique ASVs of a batch, L nucleotides, D width, F features, C columns of categories.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from aam.config import PretrainConfig, TrainConfig
from aam.data.categorical import MISSING, UNSEEN
from aam.data.files.sequences import sequence_keys
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import SampleBatch, Samples
from aam.data.sampling.seeded import derived_seed, text_keys, uniforms
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor, pool
from aam.training.inference.asv_embeddings import AsvEmbeddings, embeddings_of
from aam.training.inference.samples import hold_asvs, map_samples
from aam.training.machine.compute import Compute
from aam.training.substitution import substitute

Work = Callable[[Samples, SampleBatch], Tensor]
"""Computes a row for each sample of a batch, [B, ...]."""


class Inputs:
    """Nucleotides, for an encoder that learns.

    Args:
        model: the bare model.
        nucleotides: uint8 [ASVs of the table, L], on the device.
        draws: of the samples of the table.
        config: seed, changes of training samples, and workers.
        compute: device, precision and ranks.
        categories: int64 [samples of the table, C], on the device, where predictions depend on some.
    """

    def __init__(
        self,
        model: SequenceEncoder | SequencePredictor,
        nucleotides: Tensor,
        draws: SampleDraws,
        config: PretrainConfig | TrainConfig,
        compute: Compute,
        categories: Tensor | None = None,
    ) -> None:
        self.model = model
        self.nucleotides = nucleotides
        self.draws = draws
        self.config = config
        self.compute = compute
        self.categories = categories
        self.asv_keys = torch.from_numpy(sequence_keys(draws.table.sequences)).to(compute.device)
        self.sample_keys = torch.from_numpy(text_keys(draws.table.sample_ids)).to(compute.device)

    def of_step(self, batch: SampleBatch, step: int) -> Samples:
        """What a training step gives the model, changed by (seed, step) and ASV or sample where that is asked for."""
        return batch.samples(self._asvs(batch.asv, step), self._changed_categories(batch, step))

    def _asvs(self, asv: Tensor, step: int) -> Tensor:
        """Nucleotides of ASVs as a training step reads them, uint8 [U, L]."""
        noise, seed = self.config.augmentation.sequence_noise, self.config.runtime.seed
        return substitute(self.nucleotides[asv], self.asv_keys[asv], noise, seed, step)

    def categories_of(self, samples: Tensor) -> Tensor | None:
        """Categories of some samples, [B, C]."""
        return None if self.categories is None else self.categories[samples]

    def _changed_categories(self, batch: SampleBatch, step: int) -> Tensor | None:
        """Categories of a batch, [B, C], some made unknown by (seed, step, sample)."""
        categories = self.categories_of(batch.sample)
        if categories is None or not isinstance(self.config, TrainConfig):
            return None
        rate = self.config.categories.categorical_dropout
        if rate == 0:
            return categories
        seed = derived_seed(self.config.runtime.seed, "conceal categories", step)
        draw = uniforms(seed, self.sample_keys[batch.sample], categories.shape[1])
        return categories.masked_fill((draw < rate) & (categories != MISSING), UNSEEN)

    def over(self, work: Work, batches: FixedBatches) -> Tensor:
        """Compute something of samples as they are, each on one rank, for all ranks: [samples, ...], in their order.

        Each ASV is embedded once. The model is to be in evaluation mode.
        """
        return self._map(work, self.embeddings(batches), batches)

    def _map(self, work: Work, embeddings: AsvEmbeddings, batches: FixedBatches) -> Tensor:
        def on_batch(batch: SampleBatch, asvs: Tensor) -> Tensor:
            return work(batch.samples(asvs, self.categories_of(batch.sample)), batch)

        return map_samples(on_batch, embeddings, batches, self.compute, self.config.runtime.num_workers or 0)

    def embeddings(self, batches: FixedBatches) -> AsvEmbeddings:
        """Embeddings of the ASVs of samples."""
        return hold_asvs(self.model, self.nucleotides, batches, self.compute)


class FrozenInputs(Inputs):
    """Embedded ASVs: each is embedded once, not before the weights of a resumed run are loaded."""

    @cached_property
    def _every(self) -> AsvEmbeddings:
        """Of all ASVs of the table."""
        assert isinstance(self.config, TrainConfig)
        every, cache = np.arange(len(self.nucleotides)), self.config.finetune.embedding_cache
        return embeddings_of(self.model, self.nucleotides, every, self.compute, cache)

    def _asvs(self, asv: Tensor, step: int) -> Tensor:
        return self._every.of(asv)

    def embeddings(self, batches: FixedBatches) -> AsvEmbeddings:
        """See `Inputs`."""
        return self._every


class PooledInputs(FrozenInputs):
    """Embedded samples, where all epochs see the same reads and ASVs, and nothing but the encoder looks at ASVs."""

    @cached_property
    def _pooled(self) -> Tensor:
        """All samples of the table as of `pool` [samples, D + F]."""
        every = FixedBatches(self.draws, np.arange(self.draws.table.n_samples), self.config.optim.batch_samples)
        model = self.model
        assert isinstance(model, SequencePredictor)
        return self._map(lambda samples, _: pool(model, samples), self._every, every)

    def of_step(self, batch: SampleBatch, step: int) -> Samples:
        """See `Inputs`."""
        return Samples.of_pooled(self._pooled[batch.sample], self._changed_categories(batch, step))

    def over(self, work: Work, batches: FixedBatches) -> Tensor:
        """See `Inputs`; every rank computes all."""
        sample = torch.from_numpy(batches.samples).to(self.compute.device)
        batch = replace(SampleBatch.without_asvs(batches.samples), sample=sample)
        with self.compute.autocast():
            return work(Samples.of_pooled(self._pooled[sample], self.categories_of(sample)), batch)


def pools_once(model: SequencePredictor, draws: SampleDraws, config: TrainConfig) -> bool:
    """Whether fine-tuning embeds every sample once and trains the head on these embeddings alone.

    So it does where the encoder is frozen, all epochs see the same reads and ASVs, and nothing but the encoder looks at
    the ASVs of a sample. The results are the same otherwise, but for rounding.
    """
    return model.frozen and model.reads_samples_alone and draws.is_settled and not config.distribution.data_parallel


def inputs_of(
    model: SequencePredictor,
    nucleotides: Tensor,
    draws: SampleDraws,
    config: TrainConfig,
    compute: Compute,
    categories: Tensor | None = None,
) -> Inputs:
    """Choose what fine-tuning gives the model; see `Inputs`."""
    kind = Inputs
    if model.frozen:
        kind = PooledInputs if pools_once(model, draws, config) else FrozenInputs
    return kind(model, nucleotides, draws, config, compute, categories)

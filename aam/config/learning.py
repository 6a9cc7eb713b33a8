"""Sections about learning: the network, its losses, the optimizer and the output folder."""

import math
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import MAIN, Fraction, NonNegative, Positive, Section, flag

AttnImplementation = Literal["sdpa", "flash", "mem_efficient", "math"]
CountEmbedding = Literal["add", "concat", "film", "none"]
SampleAttention = Literal["full", "induced"]
SampleLevel = Literal["attention", "clades"]
Scheduler = Literal["cosine", "cosine_restarts", "plateau", "onecycle", "constant"]
EncoderType = Literal["unifrac", "faith_pd", "taxonomy", "combined"]

Width = Annotated[int, Field(gt=0, le=65_536)]
Layers = Annotated[int, Field(gt=0, le=1000)]
BlockCount = Annotated[int, Field(ge=0, le=1000)]

DEFAULT_WEIGHTS: Final[dict[str, float]] = {
    "unifrac": 1.0,
    "nucleotide": 0.1,
    "faith_pd": 0.1,
    "taxonomy": 0.1,
    "abundance": 0.1,
}
"""Weights of losses that are learned, by the names of tasks."""
LEARNED_BY: Final[dict[EncoderType, tuple[str, ...]]] = {
    "unifrac": ("unifrac",),
    "faith_pd": ("faith_pd",),
    "taxonomy": ("taxonomy",),
    "combined": ("unifrac", "faith_pd", "taxonomy"),
}
"""What an encoder type learns besides masked nucleotides."""


LR_AT_64: Final = 3e-3
"""Learning rate of heads that read 64 numbers of a sample."""
EPOCHS: Final = 30
"""Passes over the training samples of a study that is not small."""
ASV_FEATURES: Final = 1024
"""Random features of ASVs beside the embedding of a new encoder that stays as it is."""


class ModelConfig(Section):
    """The shape of the network."""

    panel: ClassVar[str] = "Model"

    embedding_dim: Annotated[Width, MAIN] = 128
    """Width of every embedding."""
    attention_heads: Width = 4
    """Attention heads of each layer; divides --embedding-dim."""
    attention_layers: BlockCount = 3
    """Transformer layers of each level (nucleotides, ASVs); with --sample-level clades of nucleotides alone, where 0 is
    many times faster: an ASV is then a linear map of its nucleotides and their average."""
    feedforward_ratio: Layers = 4
    """Width of the hidden layer of each block, as a multiple of --embedding-dim."""
    count_embedding: CountEmbedding = "add"
    """How abundance joins each ASV of a sample: add to it, concat beside it, film (scale and shift it), or none."""
    sample_level: SampleLevel = "attention"
    """How a sample is put together from its ASVs: attention among them, or learned clades, groups of related ASVs by
    which samples are compared as UniFrac compares them by the branches of a tree."""
    learned_clades: Width = 512
    """Groups of ASVs that --sample-level clades learns; the embedding of a sample has two numbers for each."""
    sample_attention: SampleAttention = "full"
    """How ASVs of a sample see one another: full, or induced, by way of learned points (for 5,000 ASVs and more)."""
    induced_points: Width = 32
    """Learned points of --sample-attention induced."""
    max_bp: Annotated[int, Field(gt=0, le=100_000)] | None = None
    """Nucleotides of an ASV that the model reads; longer ASVs are cut. Default: the longest ASV of the study."""
    nucleotide_patch: Positive = 5
    """Nucleotides read as one position (1: each alone; 5 is several times faster)."""
    nucleotide_dropout: Fraction = 0.0
    """Dropout in the nucleotide level."""
    sample_dropout: Fraction = 0.0
    """Dropout in the sample level."""
    attn_implementation: AttnImplementation = "sdpa"
    """Attention kernel: sdpa lets PyTorch choose."""
    asv_chunk_size: Positive | None = None
    """Unique ASVs that go through a layer together; bounds the memory. Default: as many as suit the machine."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embedding_dim % self.attention_heads:
            raise ValueError(
                f"--embedding-dim {self.embedding_dim} is not a multiple of --attention-heads {self.attention_heads}"
            )
        return self

    @model_validator(mode="after")
    def _points_are_of_one_attention(self) -> Self:
        if self.sample_attention != "induced":
            self._refuse_unused("induced_points", "--sample-attention induced")
        return self

    @model_validator(mode="after")
    def _each_sample_level_has_its_options(self) -> Self:
        if self.sample_level != "clades":
            if self.attention_layers == 0:
                raise ValueError("--attention-layers 0 needs --sample-level clades")
            self._refuse_unused("learned_clades", "--sample-level clades")
            return self
        for option in ("sample_attention", "induced_points", "sample_dropout", "count_embedding"):
            self._refuse_unused(option, "--sample-level attention")
        return self

    @property
    def sample_dim(self) -> int:
        """Width of the embedding of a sample."""
        return self.embedding_dim if self.sample_level == "attention" else 2 * self.learned_clades


class MaskConfig(Section):
    """Which nucleotides are masked for the model to predict."""

    panel: ClassVar[str] = "Masked nucleotides"

    nuc_asv_fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Fraction of a batch's ASVs with masked nucleotides, in a second pass; distances are learned from whole ASVs."""
    nuc_mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the nucleotides of such an ASV that are masked (by default 0.15 in 0.25 of the ASVs, 0.04 of all)."""
    nuc_mask_strategy: Literal["random", "span"] = "random"
    """Mask single nucleotides, or stretches of --nuc-mask-span."""
    nuc_mask_span: Positive = 5
    """Nucleotides in a masked stretch."""

    @model_validator(mode="after")
    def _span_is_of_one_strategy(self) -> Self:
        if self.nuc_mask_strategy != "span":
            self._refuse_unused("nuc_mask_span", "--nuc-mask-strategy span")
        return self


class PretrainLossConfig(Section):
    """What pretraining learns, and how much each part counts."""

    panel: ClassVar[str] = "Losses"

    encoder_type: Annotated[EncoderType, MAIN] = "unifrac"
    """What is learned besides masked nucleotides: distances between samples, Faith's PD, taxonomy of ASVs, or all."""
    unifrac_weight: NonNegative | None = None
    """Weight of the squared error of the distances. Default: 1 if --encoder-type learns them, else 0."""
    nucleotide_weight: NonNegative | None = None
    """Weight of the cross-entropy of the masked nucleotides. Default: 0.1."""
    faith_pd_weight: NonNegative | None = None
    """Weight of the error of Faith's PD of samples. Default: 0.1 if --encoder-type learns it, else 0."""
    taxonomy_weight: NonNegative | None = None
    """Weight of the cross-entropy of an ASV's taxonomic ranks. Default: 0.1 if --encoder-type learns them, else 0."""
    abundance_weight: NonNegative | None = None
    """Weight of the squared error of masked abundances, as logarithms. Default: 0."""
    abundance_mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of a sample's ASVs whose abundance is masked for that."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not any(self.weights.values()):
            named = ", ".join(flag(f"{name}_weight") for name in self.weights)
            raise ValueError(f"{named} are all 0 with --encoder-type {self.encoder_type}: nothing to learn")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every loss: as given, or the default of the encoder type."""
        learned = {*LEARNED_BY[self.encoder_type], "nucleotide"}
        given = {name: getattr(self, f"{name}_weight") for name in DEFAULT_WEIGHTS}
        return {
            name: weight if name in learned and given[name] is None else given[name] or 0.0
            for name, weight in DEFAULT_WEIGHTS.items()
        }

    def learns(self, loss: str) -> bool:
        """Whether a loss has a weight above zero."""
        return self.weights[loss] > 0


class StepConfig(Section):
    """One step of the optimizer."""

    panel: ClassVar[str] = "Training"

    batch_size: Annotated[Positive | Literal["auto"], MAIN] = 32
    """Samples in a batch, over all GPUs together; pretraining compares all pairs. auto: as many as fit into memory."""
    accumulation_steps: Positive = 1
    """Batches in one step of the optimizer; pairs across them count too."""
    target_effective_batch_size: Positive | None = None
    """Samples in one step of the optimizer with --batch-size auto, in as few batches as fit. Default: 32."""
    weight_decay: NonNegative = 0.01
    """Weight decay of AdamW (not on biases and norms)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients longer than this are shortened to it."""

    @model_validator(mode="after")
    def _steps_are_cut_one_way(self) -> Self:
        if self.batch_size == "auto":
            if self.accumulation_steps != 1:
                raise ValueError(
                    f"--accumulation-steps {self.accumulation_steps} and --batch-size auto, which chooses the number "
                    "of batches itself: give --target-effective-batch-size for the samples of a step"
                )
        else:
            self._refuse_unused("target_effective_batch_size", "--batch-size auto")
        return self

    @property
    def step_samples(self) -> int:
        """Samples in one step of the optimizer: the effective batch."""
        if self.batch_size == "auto":
            return self.target_effective_batch_size or 32
        return self.batch_size * self.accumulation_steps

    @property
    def batch_samples(self) -> int:
        """The most samples in a batch, were there memory for all."""
        return self.step_samples if self.batch_size == "auto" else self.batch_size


class MemoryConfig(Section):
    """How much memory a run may take."""

    panel: ClassVar[str] = "Memory"

    max_memory_gb: Annotated[Annotated[float, Field(gt=0)] | None, MAIN] = None
    """GB (10^9 bytes) that training may take, of each process: steps are cut into batches that fit. Same result."""
    max_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Fraction of the free memory that --batch-size auto may take, of the GPU or of the machine."""

    def check(self, step: StepConfig) -> None:
        """Refuse a fraction that says nothing.

        Raises:
            ValueError: batches are not chosen by the free memory.
        """
        if step.batch_size != "auto" or self.max_memory_gb is not None:
            self._refuse_unused("max_memory_fraction", "--batch-size auto and without --max-memory-gb")


class OptimConfig(StepConfig):
    """How the weights are learned."""

    epochs: Annotated[int, Field(gt=0, le=1_000_000), MAIN] = 50
    """Passes over the training samples."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate."""
    scheduler: Scheduler = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: Fraction = 0.1
    """Fraction of the run in which the learning rate rises."""
    validate_every: Positive = 1
    """Validate after every so many epochs, and after the last one."""
    patience: Positive | None = None
    """Stop after this many validations without a better --best-metric. Default: never."""
    best_metric: str | None = None
    """Validation metric that chooses the best checkpoint, such as val/loss or val/r2. Default: val/loss."""


class TargetModelConfig(ModelConfig):
    """The shape of the network that predicts a column; smaller than that of pretraining, for studies are small."""

    embedding_dim: Width = 64
    """Width of every embedding."""
    attention_layers: BlockCount = 1
    """Transformer layers of each level (nucleotides, ASVs)."""


class TargetOptimConfig(OptimConfig):
    """How the weights are learned that predict a column."""

    batch_size: Positive | Literal["auto"] = 16
    """Samples in a batch, over all GPUs together. auto: as many as fit into memory."""
    epochs: Annotated[int, Field(gt=0, le=1_000_000)] | None = None  # type: ignore[assignment]  # settled before it is read
    """Passes over the training samples. Default: 30, or as many more as --min-steps needs in a small study."""
    min_steps: Annotated[int, Field(ge=0)] = 250
    """Steps before which no run stops early; without --epochs a small study is passed over until there are as many."""
    lr: Annotated[float, Field(gt=0)] | None = None  # type: ignore[assignment]  # settled before it is read
    """Highest learning rate of all but the encoder. Default: 0.003 times the root of 64 / numbers read by the head."""
    encoder_lr_ratio: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of the encoder, new or pretrained, as a multiple of --lr."""
    patience: Positive | None = 20
    """Stop after this many validations without a better --best-metric."""

    def settled(self, width: int, samples: int) -> Self:
        """Fill in learning rate and epochs by the width that the head reads, and by the number of training samples."""
        rate = LR_AT_64 * (64 / width) ** 0.5 if self.lr is None else self.lr
        steps_of_epoch = math.ceil(samples / self.step_samples)
        epochs = max(EPOCHS, math.ceil(self.min_steps / steps_of_epoch)) if self.epochs is None else self.epochs
        return self.model_copy(update={"lr": rate, "epochs": epochs})


class FinetuneConfig(Section):
    """What fine-tuning starts from."""

    panel: ClassVar[str] = "Pretrained encoder"

    pretrained_encoder: Annotated[Path | None, MAIN] = None
    """Output folder or checkpoint of `aam pretrain`, or owner/name of one on the Hugging Face Hub: the network starts
    from it (default: from random weights), and the learner kernel compares samples by its embedding."""
    freeze_base: bool | None = None
    """Train only the heads; the encoder stays as it is. Default: a new one stays, where nothing asks that it learns."""
    embedding_cache: Path | None = None
    """With --freeze-base: keep embeddings of ASVs in this folder, so that later runs compute only those of new ASVs."""

    @model_validator(mode="after")
    def _embeddings_are_kept_of_a_frozen_encoder(self) -> Self:
        if not self.freeze_base:
            self._refuse_unused("embedding_cache", "--freeze-base: an encoder that learns embeds anew in every step")
        return self

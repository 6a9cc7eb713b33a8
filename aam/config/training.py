"""The options of `aam train`, and which of them each learner reads."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Self

from pydantic import model_validator

from aam.config.augmentation import TargetAugmentationConfig
from aam.config.base import MAIN, Positive, RunConfig, Section, flag
from aam.config.categories import CategoryColumnsConfig, CategoryConfig
from aam.config.kernel import KernelConfig
from aam.config.learners import (
    READ_BY_KERNEL,
    SECTIONS_OF,
    SECTIONS_OF_NETWORK,
    EnsembleConfig,
    LearnerName,
    LearnersConfig,
    LinearConfig,
    TreesConfig,
)
from aam.config.learning import (
    ASV_FEATURES,
    FinetuneConfig,
    MemoryConfig,
    TargetModelConfig,
    TargetOptimConfig,
)
from aam.config.machine import DistributedConfig, RuntimeConfig
from aam.config.output import OutputConfig
from aam.config.study import (
    TargetInputConfig,
    TargetSamplingConfig,
    TargetSplitConfig,
)
from aam.config.target import LossWeightConfig, TargetConfig
from aam.config.tracking import TrackingConfig


def refuse_profile_of_threads(runtime: RuntimeConfig, distribution: DistributedConfig) -> None:
    """Refuse a profile of what runs in several threads at once."""
    if runtime.memory_profile and distribution.data_parallel:
        raise ValueError(
            "--memory-profile follows one pass at a time, and --data-parallel runs several in threads: profile on one "
            "GPU, or with --distributed"
        )


class LearnerConfig(Section):
    """Which learner is trained."""

    panel: ClassVar[str] = "Learner"

    learner: Annotated[LearnerName, MAIN] = "neural"
    """What learns: neural is the network; ensemble, kernel, clades, linear and forest read the whole table at once."""
    baselines: bool = True
    """At the end also fit a random forest and the ensemble to the same samples, and say which is better."""
    rarefy_draws: Positive = 3
    """With --rarefy-depth and another learner than the network: draws of a sample whose predictions are averaged."""

    @model_validator(mode="after")
    def _options_of_one(self) -> Self:
        if self.learner == "neural":
            self._refuse_unused("rarefy_draws", "another --learner: the network draws anew in every epoch")
        elif not self.baselines:
            raise ValueError("--no-baselines is for the network: `aam evaluate` compares other learners")
        return self


READ_BY_ALL: Final[Mapping[str, frozenset[str]]] = {
    "inputs": frozenset(TargetInputConfig.model_fields),
    "target": frozenset({"metadata_column", "classifier", "target_transform", "normalize_by"}),
    "choice": frozenset(LearnerConfig.model_fields),
    "weights": frozenset(LossWeightConfig.model_fields),
    "sampling": frozenset({"rarefy_depth"}),
    "split": frozenset(TargetSplitConfig.model_fields),
    "runtime": frozenset({"seed", "device", "num_workers"}),
    "output": frozenset({"output_dir", "overwrite", "report"}),
    "tracking": frozenset(TrackingConfig.model_fields),
}
"""Options that learners besides the network read, by section."""


SECTIONS_OF_LEARNERS: Final = frozenset({"trees", "linear", "kernel", "ensemble"})
"""Sections that the network by itself does not read."""


def options_read(learner: str, section: str, kind: type[Section], members: Sequence[str] = ()) -> frozenset[str]:
    """Options of a section, of a class, that a learner reads; an ensemble has members."""
    every = frozenset(kind.model_fields)
    if learner == "neural":
        return frozenset() if section in SECTIONS_OF_LEARNERS else every - {"rarefy_draws"}
    fitted = (learner, *members) if learner == "ensemble" else (learner,)
    if "neural" in fitted and section in SECTIONS_OF_NETWORK:
        return every
    read, of_kernel = READ_BY_ALL.get(section, frozenset()), READ_BY_KERNEL.get(section, frozenset())
    if section in SECTIONS_OF_LEARNERS and section in SECTIONS_OF[learner]:
        read = every
    return read | of_kernel if "kernel" in fitted else read - of_kernel


def _reader(option: str, section: str, learner: str) -> str:
    """Who reads an option that a learner does not, for a message."""
    if option in READ_BY_KERNEL.get(section, ()):
        kernel = "--learner kernel, or ensemble with kernel among --ensemble-members"
        if section != "kernel":
            return f"{kernel}, or --learner neural"
        return f"{kernel}; the network takes categories alone (--categorical-columns)"
    if learner == "ensemble" and section in SECTIONS_OF_NETWORK:
        return "--learner neural, or neural among --ensemble-members"
    return f"another --learner than {learner}"


class TrainingConfig(RunConfig):
    """Everything about fine-tuning but where its results go."""

    inputs: TargetInputConfig = TargetInputConfig()
    target: TargetConfig
    choice: LearnerConfig = LearnerConfig()
    categories: CategoryConfig = CategoryConfig()
    weights: LossWeightConfig = LossWeightConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    sampling: TargetSamplingConfig = TargetSamplingConfig()
    augmentation: TargetAugmentationConfig = TargetAugmentationConfig()
    model: TargetModelConfig = TargetModelConfig()
    split: TargetSplitConfig = TargetSplitConfig()
    optim: TargetOptimConfig = TargetOptimConfig()
    memory: MemoryConfig = MemoryConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    distribution: DistributedConfig = DistributedConfig()
    trees: TreesConfig = TreesConfig()
    linear: LinearConfig = LinearConfig()
    kernel: KernelConfig = KernelConfig()
    ensemble: EnsembleConfig = EnsembleConfig()

    @property
    def learners(self) -> LearnersConfig:
        """The options of the learners besides the network."""
        read = self.categories.model_dump(include=set(CategoryColumnsConfig.model_fields))
        return LearnersConfig(
            trees=self.trees,
            linear=self.linear,
            kernel=self.kernel,
            categories=CategoryColumnsConfig(**read),
            ensemble=self.ensemble,
        )

    @model_validator(mode="after")
    def _options_are_of_the_learner(self) -> Self:
        """Refuse options that the learner does not read."""
        learner = self.choice.learner
        for section, kind in self.sections().items():
            read = options_read(learner, section, kind, self.ensemble.ensemble_members)
            for option in (name for name in kind.model_fields if name not in read):
                getattr(self, section)._refuse_unused(option, _reader(option, section, learner))
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        refuse_profile_of_threads(self.runtime, self.distribution)
        if self.finetune.embedding_cache is not None and self.distribution.fsdp_mixed_precision:
            raise ValueError(
                "--embedding-cache is for runs of all strategies, and --fsdp-mixed-precision would round what is kept: "
                "drop one of them, or use --mixed-precision bf16"
            )
        if self.finetune.freeze_base:
            self.optim._refuse_unused("encoder_lr_ratio", "an encoder that learns: drop --freeze-base")
        if self.choice.learner == "neural" and self.split.val_fraction == 0:
            raise ValueError("--val-fraction 0: the network needs samples that choose its checkpoint")
        if self.choice.learner == "neural" and self.sampling.rarefy_depth == "auto":
            raise ValueError("--rarefy-depth auto is of other learners: give the network a number")
        weights, categories = self.weights, self.categories
        if weights.class_weights != "none" and not self.target.classifier:
            raise ValueError("--class-weights is for classes: give --classifier too")
        self._classes_are_weighed_once()
        self.memory.check(self.optim)
        by_category = weights.categorical_loss_weights in ("auto", "effective")
        if by_category and not weights.categorical_loss_weight_column and not self.target.classifier:
            raise ValueError(
                f"--categorical-loss-weights {weights.categorical_loss_weights} needs "
                "--categorical-loss-weight-column: which categories?"
            )
        if categories.conditional_output_scaling is not None and self.target.classifier:
            raise ValueError("--conditional-output-scaling scales numbers, and --classifier predicts classes: drop one")
        self._augmentation_has_effect()
        self._target_is_no_input()
        return self

    def settled(self) -> Self:
        """Settle whether the encoder stays as it is, and how many random features of ASVs the head reads."""
        new, freeze, features = (
            self.finetune.pretrained_encoder is None,
            self.finetune.freeze_base,
            self.target.asv_features,
        )
        freeze = new and not self._asks_to_learn() if freeze is None else freeze
        features = (ASV_FEATURES if new and freeze else 0) if features is None else features
        finetune = self.finetune.model_copy(update={"freeze_base": freeze})
        target = self.target.model_copy(update={"asv_features": features})
        return self.model_copy(update={"finetune": finetune, "target": target})

    def _asks_to_learn(self) -> bool:
        """Whether an option only has an effect on an encoder that learns."""
        dropout = self.model.nucleotide_dropout + self.model.sample_dropout
        ratio = self.optim.encoder_lr_ratio != TargetOptimConfig().encoder_lr_ratio
        return ratio or self.target.count_weight + self.augmentation.sequence_noise + dropout > 0

    def _augmentation_has_effect(self) -> None:
        mixed, noise = self.augmentation.mix_samples, self.augmentation.sequence_noise
        if mixed and not self.target.classifier:
            raise ValueError(
                f"--mix-samples {mixed} mixes samples of equal label: give --classifier too (numbers are hardly equal)"
            )
        if noise and self.finetune.freeze_base:
            raise ValueError(
                f"--sequence-noise {noise} has no effect with --freeze-base, which embeds the ASVs once: drop one"
            )

    def _classes_are_weighed_once(self) -> None:
        weights, target = self.weights, self.target.metadata_column
        columns = weights.categorical_loss_weight_column or target
        by_category = weights.categorical_loss_weights in ("auto", "effective")
        if weights.class_weights != "none" and by_category and set(columns) & set(target):
            raise ValueError(
                f"--class-weights {weights.class_weights} and --categorical-loss-weights "
                f"{weights.categorical_loss_weights} would both weigh the classes of {target[0]}: drop one of them, or "
                "name other columns by --categorical-loss-weight-column"
            )

    def _target_is_no_input(self) -> None:
        """Refuse a prediction that reads its own target."""
        scaled = self.categories.conditional_output_scaling
        inputs = {
            "categorical_columns": self.categories.categorical_columns,
            "numeric_columns": self.kernel.numeric_columns,
            "normalize_by": self.target.normalize_by,
            "conditional_output_scaling": () if scaled is None else (scaled,),
        }
        for option, columns in inputs.items():
            own = [name for name in columns if name in self.target.metadata_column]
            if own:
                raise ValueError(f"{flag(option)} {own[0]}: that is the column to predict, unknown of new samples")


class TrainConfig(TrainingConfig):
    """Options of `aam train`."""

    output: OutputConfig
    tracking: TrackingConfig = TrackingConfig()

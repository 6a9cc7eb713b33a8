"""The sections of a single command, and the run config of every command."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aam.config.augmentation import AugmentationConfig
from aam.config.base import MAIN, Positive, RunConfig, Section
from aam.config.intervals import IntervalConfig
from aam.config.learning import (
    MaskConfig,
    MemoryConfig,
    ModelConfig,
    OptimConfig,
    PretrainLossConfig,
    StepConfig,
)
from aam.config.machine import DistributedConfig, MachineConfig, RuntimeConfig, SeededMachineConfig
from aam.config.output import FolderConfig, OutputConfig
from aam.config.study import (
    DistanceConfig,
    InputConfig,
    PhylogenyConfig,
    PlacementConfig,
    SamplingConfig,
    SplitConfig,
    TableConfig,
    UnifracConfig,
)
from aam.config.tracking import TrackingConfig
from aam.config.training import TrainConfig, TrainingConfig, refuse_profile_of_threads


class CheckpointInputConfig(Section):
    """The trained model."""

    panel: ClassVar[str] = "Trained model"

    checkpoint: Path
    """Output folder of a run (its best checkpoint is used) or one checkpoint folder."""


class InferenceConfig(Section):
    """How a trained model is applied."""

    panel: ClassVar[str] = "Applying the model"

    output: Path
    """File to write: a table by sample id. Its ending decides the format: .tsv, .txt (both tab-separated), .csv, each
    also with .gz, or .parquet."""
    overwrite: Annotated[bool, MAIN] = False
    """Replace files that are there already."""
    batch_size: Positive = 32
    """Samples in a batch; changes the speed and not the result."""
    embedding_cache: Path | None = None
    """Keep embeddings of ASVs in this folder: other runs with the same encoder compute only those of new ASVs."""


class EmbedOutputConfig(Section):
    """What `aam embed` writes besides."""

    panel: ClassVar[str] = "ASV embeddings"

    asv: Annotated[Path | None, MAIN] = None
    """Also write the embedding of every ASV to this file, in the format of its ending, as of --output."""
    asv_tree: Annotated[Path | None, MAIN] = None
    """Also write a tree of the ASVs to this file (Newick), joined by the distances of their embeddings: for --tree of
    other commands, where a study has no phylogeny."""


class SimulateConfig(Section):
    """A simulated study."""

    panel: ClassVar[str] = "Simulated study"

    directory: Path
    """Folder for table.biom, tree.nwk, metadata.tsv, taxonomy.tsv and truth.tsv (what drives which column); made if
    absent."""
    samples: Annotated[int, Field(ge=8, le=10_000_000)] = 200
    """Samples."""
    asvs: Annotated[int, Field(ge=16, le=10_000_000)] = 400
    """ASVs in the tree; those that no sample holds are left out."""
    bp: Annotated[int, Field(ge=20, le=100_000)] = 100
    """Length of an ASV in nucleotides."""
    depth: Annotated[int, Field(ge=50, le=100_000_000)] = 2000
    """Mean reads of a sample."""
    subjects: Annotated[int, Field(ge=2, le=10_000_000)] = 20
    """Subjects, each sampled several times."""
    depth_confounded: bool = False
    """Add a column `group` (a or b, random by subject) that nothing depends on but the depth: b has a fifth of a's."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed; the same seed gives the same files."""
    overwrite: bool = False
    """Replace files of the same names."""


class MatrixOutputConfig(Section):
    """The distance matrix of `aam unifrac`."""

    panel: ClassVar[str] = "Distance matrix"

    output: Path
    """File to write: .tsv, .csv, .npz or .h5, by its ending."""
    overwrite: Annotated[bool, MAIN] = False
    """Replace the file if it is there already."""
    backend: Annotated[Literal["auto", "unifrac", "ssu", "scikit-bio"], MAIN] = "auto"
    """Program that computes the matrix; auto takes the first of unifrac, ssu, scikit-bio that is there."""


class FindLrConfig(Section):
    """The learning-rate test."""

    panel: ClassVar[str] = "Learning-rate test"

    lr_min: Annotated[float, Field(gt=0), MAIN] = 1e-6
    """First learning rate."""
    lr_max: Annotated[float, Field(gt=0), MAIN] = 1.0
    """Last learning rate."""
    lr_steps: Annotated[int, Field(ge=5)] = 100
    """Steps between the two."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.lr_min >= self.lr_max:
            raise ValueError(f"--lr-min {self.lr_min} is not below --lr-max {self.lr_max}")
        return self


class PretrainingConfig(RunConfig):
    """What every command reads that pretrains."""

    inputs: InputConfig = InputConfig()
    sampling: SamplingConfig = SamplingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    unifrac: DistanceConfig = DistanceConfig()
    model: ModelConfig = ModelConfig()
    masking: MaskConfig = MaskConfig()
    losses: PretrainLossConfig = PretrainLossConfig()
    split: SplitConfig = SplitConfig()
    optim: StepConfig = StepConfig()
    runtime: SeededMachineConfig = SeededMachineConfig()

    @model_validator(mode="after")
    def _clades_have_links_of_their_own(self) -> Self:
        if self.model.sample_level == "clades":
            if self.unifrac.unifrac_metric == "generalized_unifrac":
                raise ValueError(
                    "--sample-level clades learns unweighted and weighted UniFrac: give another --unifrac-metric, or "
                    "--sample-level attention"
                )
            self.unifrac._refuse_unused("distance_link", "--sample-level attention")
        return self


class PretrainConfig(PretrainingConfig):
    """Options of `aam pretrain`."""

    output: OutputConfig
    optim: OptimConfig = OptimConfig()
    memory: MemoryConfig = MemoryConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    distribution: DistributedConfig = DistributedConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _run_agrees(self) -> Self:
        refuse_profile_of_threads(self.runtime, self.distribution)
        self.memory.check(self.optim)
        return self


NOWHERE = OutputConfig(output_dir=Path())
"""The output of what writes nothing."""


class EstimatePretrainConfig(PretrainingConfig):
    """Options of `aam estimate pretrain`."""

    optim: OptimConfig = OptimConfig()
    memory: MemoryConfig = MemoryConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def pretraining(self) -> PretrainConfig:
        """The pretraining whose memory and time are estimated; it has no folder that anything goes to."""
        return PretrainConfig.model_validate(
            self.model_dump(exclude_unset=True) | {"output": OutputConfig(output_dir=Path())}
        )


class EstimateTrainConfig(TrainingConfig):
    """Options of `aam estimate train`."""

    def training(self) -> TrainConfig:
        """The fine-tuning whose memory and time are estimated; it has no folder that anything goes to."""
        return TrainConfig.model_validate(
            self.model_dump(exclude_unset=True) | {"output": OutputConfig(output_dir=Path())}
        )


class PretrainFindLrConfig(PretrainingConfig):
    """Options of `aam find-lr`."""

    output: FolderConfig
    search: FindLrConfig = FindLrConfig()

    @model_validator(mode="after")
    def _batches_are_given(self) -> Self:
        if self.optim.batch_size == "auto":
            raise ValueError(
                "--batch-size auto: find-lr measures no memory, and the learning rate depends on the samples of a "
                "step: give their number, as in the run that the rate is for"
            )
        return self

    def pretraining(self) -> PretrainConfig:
        """The pretraining whose learning rate is sought."""
        return PretrainConfig.model_validate(self.model_dump(exclude={"search"}))


class ApplyConfig(RunConfig):
    """What every command reads that applies a model to a table."""

    trained: CheckpointInputConfig
    inputs: TableConfig = TableConfig()
    inference: InferenceConfig
    runtime: MachineConfig = MachineConfig()


class PredictConfig(ApplyConfig):
    """Options of `aam predict`."""

    inputs: PlacementConfig = PlacementConfig()
    intervals: IntervalConfig = IntervalConfig()


class EmbedConfig(ApplyConfig):
    """Options of `aam embed`."""

    asvs: EmbedOutputConfig = EmbedOutputConfig()


class InspectConfig(RunConfig):
    """Options of `aam inspect`."""

    trained: CheckpointInputConfig


class UnifracCommandConfig(RunConfig):
    """Options of `aam unifrac`."""

    inputs: PhylogenyConfig = PhylogenyConfig()
    matrix: MatrixOutputConfig
    unifrac: UnifracConfig = UnifracConfig()


class SimulateCommandConfig(RunConfig):
    """Options of `aam simulate`."""

    study: SimulateConfig

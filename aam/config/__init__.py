"""Every option of aam, declared once.

A *section* is a frozen group of related options and is what library code receives. A *run config* (`PretrainConfig`,
`TrainConfig`, ...) is the sections of one command. Option names are unique within a run config, so that the command
line, a TOML file and keyword arguments see one flat list (`from_flat`, `flat`), and a checkpoint stores the nested one.
"""

from aam.config.augmentation import AugmentationConfig
from aam.config.base import (
    COMMAS,
    MAIN,
    RunConfig,
    Section,
    flag,
    refuse_renamed,
    split_commas,
)
from aam.config.categories import CategoricalFusion, CategoryColumnsConfig, CategoryConfig, HierarchyCombine
from aam.config.commands import (
    EmbedConfig,
    EstimatePretrainConfig,
    EstimateTrainConfig,
    FindLrConfig,
    InspectConfig,
    MatrixOutputConfig,
    PredictConfig,
    PretrainConfig,
    PretrainFindLrConfig,
    SimulateCommandConfig,
    SimulateConfig,
    UnifracCommandConfig,
)
from aam.config.evaluate import EvaluateConfig
from aam.config.explain import ExplainConfig
from aam.config.export import ExportConfig
from aam.config.learners import (
    SECTIONS_OF,
    SECTIONS_OF_NETWORK,
    EnsembleConfig,
    LearnerName,
    LearnersConfig,
    LinearConfig,
    TreesConfig,
)
from aam.config.learning import (
    AttnImplementation,
    CountEmbedding,
    EncoderType,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainLossConfig,
    Scheduler,
    TargetModelConfig,
    TargetOptimConfig,
)
from aam.config.machine import DistributedConfig, MachineConfig, MixedPrecision, RuntimeConfig
from aam.config.output import FolderConfig, OutputConfig, ResumableConfig
from aam.config.provenance import MethodsConfig
from aam.config.publish import PublishConfig
from aam.config.report import ReportConfig
from aam.config.study import (
    DistanceLink,
    InputConfig,
    PhylogenyConfig,
    RootChoice,
    SamplingConfig,
    SplitConfig,
    TableConfig,
    TargetSamplingConfig,
    TargetSplitConfig,
    TreeConfig,
    UnifracConfig,
    UnifracMetric,
)
from aam.config.target import LossWeightConfig, OutputActivation, TargetConfig, TargetLoss, TargetTransform
from aam.config.training import TrainConfig, TrainingConfig
from aam.config.tune import TuneConfig

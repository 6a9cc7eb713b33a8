"""Every option of aam, declared once.

A *section* is a frozen group of related options and is what library code receives. A *run config* (`PretrainConfig`,
`TrainConfig`, ...) is the sections of one command. Option names are unique within a run config, so that the command
line, a TOML file and keyword arguments see one flat list (`from_flat`, `flat`), and a checkpoint stores the nested one.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from aam.errors import InputError

UnifracMetric = Literal["unweighted_unifrac", "weighted_unifrac", "weighted_normalized_unifrac", "generalized_unifrac"]
DistanceLink = Literal["laplace", "tanh", "cosine"]
AttnImplementation = Literal["sdpa", "flash", "mem_efficient", "math"]
MixedPrecision = Literal["none", "bf16", "fp16"]
Scheduler = Literal["cosine", "cosine_restarts", "plateau", "onecycle", "constant"]
TargetTransform = Literal["none", "minmax", "zscore", "log-minmax", "log-zscore"]
TargetLoss = Literal["huber", "mse", "mae"]

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of options, shown as one panel of the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    panel: ClassVar[str]

    def _refuse_unused(self, option: str, needed: str) -> None:
        """Refuse an option that has no effect here and yet is not left at its default."""
        value = getattr(self, option)
        if value != type(self).model_fields[option].default:
            raise ValueError(f"{flag(option)} {value} only has an effect with {needed}")


class TableConfig(Section):
    """The files that every command reads."""

    panel: ClassVar[str] = "Input files"

    table: tuple[Path, ...] = ()
    """Feature table of counts: .biom (HDF5 or JSON), .tsv, .tsv.gz or QIIME 2 .qza. Repeat to merge several tables."""
    rep_seqs: Path | None = None
    """DNA sequence of each ASV (FASTA, FASTA.gz or .qza), needed where the ids of the table are not sequences."""
    metadata: Path | None = None
    """Sample metadata: a tab-separated file by the rules of QIIME 2."""
    where: tuple[str, ...] = ()
    """Use only samples whose metadata agree: COLUMN=VALUE or COLUMN=VALUE,VALUE. Repeat to combine."""
    drop_missing_sequences: bool = False
    """Drop ASVs that have no sequence, saying how many reads that loses, instead of stopping."""


class TargetInputConfig(TableConfig):
    """The files of fine-tuning."""

    tree: Path | None = None
    """Not needed to predict a column, and not read; accepted so that one set of files serves every command."""


class PhylogenyConfig(TableConfig):
    """The files of a study with its phylogeny."""

    tree: Path | None = None
    """Rooted phylogeny over the ASVs: Newick, gzipped Newick or QIIME 2 .qza."""
    drop_missing_tips: bool = False
    """Drop ASVs that the tree lacks, saying how many reads that loses, instead of stopping."""
    missing_branch_lengths: Literal["error", "zero"] = "error"
    """What to do where the tree gives no branch length: stop, or take zero."""


class InputConfig(PhylogenyConfig):
    """The files of pretraining: distances between samples come from the phylogeny or from a matrix."""

    unifrac_matrix: Path | None = None
    """Distance matrix to learn from instead of the tree: .npy, .npz, .h5 (ssu), .tsv, .csv or .qza."""
    matrix_ids: Path | None = None
    """Sample ids of a .npy matrix, one a line, in the order of its rows."""

    @model_validator(mode="after")
    def _matrix_ids_need_a_matrix(self) -> Self:
        if self.matrix_ids is not None and self.unifrac_matrix is None:
            raise ValueError("--matrix-ids names the rows of --unifrac-matrix: give both or neither")
        return self


class SamplingConfig(Section):
    """How samples and their ASVs are drawn from the table."""

    panel: ClassVar[str] = "Samples and ASVs"

    rarefy_depth: Positive | None = None
    """Sampling depth: draw this many reads from every sample, without replacement. Default: use all reads."""
    rarefaction: Literal["epoch", "fixed"] = "epoch"
    """Draw the reads afresh in every epoch, or once for the run. Validation is always drawn once."""
    keep_shallow: bool = False
    """Keep samples with fewer reads than --rarefy-depth as they are, instead of dropping them with a count."""
    max_asvs: Annotated[int, Field(ge=0)] = 1024
    """The most ASVs of a sample that the model reads (0: all); UniFrac targets use them all."""
    asv_choice: Literal["abundance", "random", "first"] = "abundance"
    """Which ASVs to read where a sample has more than --max-asvs."""

    @model_validator(mode="after")
    def _shallow_needs_a_depth(self) -> Self:
        if self.keep_shallow and self.rarefy_depth is None:
            raise ValueError("--keep-shallow is about samples below --rarefy-depth: give --rarefy-depth too")
        return self


class UnifracConfig(Section):
    """Which distance between samples is computed."""

    panel: ClassVar[str] = "UniFrac"

    unifrac_metric: UnifracMetric = "unweighted_unifrac"
    """Distance between samples."""
    generalized_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of abundant lineages in generalized UniFrac (0: all alike, 1: weighted normalized UniFrac)."""
    include_root_length: bool = False
    """Count a length on the root itself, as scikit-bio does; unifrac and ssu ignore it."""

    @model_validator(mode="after")
    def _alpha_is_of_one_metric(self) -> Self:
        if self.unifrac_metric != "generalized_unifrac":
            self._refuse_unused("generalized_alpha", "--unifrac-metric generalized_unifrac")
        return self


class DistanceConfig(UnifracConfig):
    """Which distance between samples is learned, and how embeddings give it."""

    distance_link: DistanceLink = "laplace"
    """From embeddings to a distance up to 1: laplace 1-exp(-d), tanh(d), or cosine (1-cos)/2."""

    @model_validator(mode="after")
    def _links_end_at_one(self) -> Self:
        if self.unifrac_metric == "weighted_unifrac":
            self._refuse_unused("distance_link", "a --unifrac-metric that ends at 1, which weighted_unifrac does not")
        return self


class ModelConfig(Section):
    """The shape of the network."""

    panel: ClassVar[str] = "Model"

    embedding_dim: Positive = 128
    """Width of every embedding."""
    attention_heads: Positive = 4
    """Attention heads of each layer; divides --embedding-dim."""
    attention_layers: Positive = 3
    """Transformer layers of each level (nucleotides, ASVs)."""
    feedforward_ratio: Positive = 4
    """Width of the hidden layer of each block, as a multiple of --embedding-dim."""
    max_bp: Positive | None = None
    """Nucleotides of an ASV that the model reads; longer ASVs are cut. Default: the longest ASV of the study."""
    nucleotide_patch: Positive = 5
    """Nucleotides read as one position (1: each alone; 5 is several times faster)."""
    nucleotide_dropout: Fraction = 0.0
    """Dropout in the nucleotide level."""
    sample_dropout: Fraction = 0.0
    """Dropout in the sample level."""
    attn_implementation: AttnImplementation = "sdpa"
    """Attention kernel: sdpa lets PyTorch choose."""
    asv_chunk_size: Positive = 1024
    """Unique ASVs that go through the nucleotide level together; bounds the memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embedding_dim % self.attention_heads:
            raise ValueError(
                f"--embedding-dim {self.embedding_dim} is not a multiple of --attention-heads {self.attention_heads}"
            )
        return self


class MaskConfig(Section):
    """Which nucleotides are hidden for the model to predict."""

    panel: ClassVar[str] = "Masked nucleotides"

    nuc_asv_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a batch's ASVs that hide nucleotides, in a second pass; the distances are learned from whole ASVs."""
    nuc_mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the nucleotides that such an ASV hides (the defaults: 0.15 in 0.25 of the ASVs, 0.04 of all)."""
    nuc_mask_strategy: Literal["random", "span"] = "random"
    """Hide single nucleotides, or stretches of --nuc-mask-span."""
    nuc_mask_span: Positive = 5
    """Nucleotides in a hidden stretch."""

    @model_validator(mode="after")
    def _span_is_of_one_strategy(self) -> Self:
        if self.nuc_mask_strategy != "span":
            self._refuse_unused("nuc_mask_span", "--nuc-mask-strategy span")
        return self


class PretrainLossConfig(Section):
    """Weights of the pretraining losses."""

    panel: ClassVar[str] = "Losses"

    unifrac_weight: NonNegative = 1.0
    """Weight of the squared error of the distances."""
    nucleotide_weight: NonNegative = 0.1
    """Weight of the cross-entropy of the hidden nucleotides."""
    faith_pd_weight: NonNegative = 0.0
    """Weight of the error of Faith's PD, predicted from the sample embedding (0: no such head)."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.unifrac_weight + self.nucleotide_weight + self.faith_pd_weight == 0:
            raise ValueError("--unifrac-weight, --nucleotide-weight and --faith-pd-weight are all 0: nothing to learn")
        return self


class TargetConfig(Section):
    """The metadata column to predict."""

    panel: ClassVar[str] = "Target"

    metadata_column: str
    """Column of the metadata to predict."""
    classifier: bool = False
    """Predict classes instead of a number."""
    target_transform: TargetTransform = "zscore"
    """Scale on which a number is learned; fitted on the training samples and undone in predictions."""
    target_loss: TargetLoss = "huber"
    """Regression loss, on the transformed scale."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh classes by inverse frequency."""
    regressor_hidden_dims: tuple[Positive, ...] = ()
    """Widths of hidden layers between the sample embedding and the prediction. Repeat for several."""
    regressor_dropout: Fraction = 0.0
    """Dropout before the prediction."""
    target_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the target's loss."""
    count_weight: NonNegative = 0.0
    """Weight of predicting hidden abundances of ASVs, an auxiliary task (0: no such head)."""
    count_mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a sample's ASVs whose abundance is hidden for that task."""

    @model_validator(mode="after")
    def _class_weights_need_classes(self) -> Self:
        if self.class_weights != "none" and not self.classifier:
            raise ValueError("--class-weights is for classes: give --classifier too")
        return self


class SplitConfig(Section):
    """Which samples train the model and which judge it."""

    panel: ClassVar[str] = "Train and validation"

    test_size: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the samples (or of the groups) that is held out for validation."""
    split_column: str | None = None
    """Metadata column that says train, val or test (not used by the run) for each sample; replaces --test-size."""
    group_column: str | None = None
    """Metadata column of subjects or studies: no group is on both sides."""

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Self:
        if self.split_column is not None and self.group_column is not None:
            raise ValueError("--split-column fixes the split: drop --group-column")
        return self


class TargetSplitConfig(SplitConfig):
    """Which samples train the model and which judge it, where the samples have classes."""

    stratify: bool = False
    """Hold out the same share of every class of --metadata-column."""

    @model_validator(mode="after")
    def _one_way_to_stratify(self) -> Self:
        if self.split_column is not None and self.stratify:
            raise ValueError("--split-column fixes the split: drop --stratify")
        return self


class StepConfig(Section):
    """One step of the optimizer."""

    panel: ClassVar[str] = "Training"

    batch_size: Positive = 32
    """Samples in a batch; pretraining learns the distances of all pairs of them."""
    accumulation_steps: Positive = 1
    """Batches in one step of the optimizer; pairs across them count too."""
    weight_decay: NonNegative = 0.01
    """Weight decay of AdamW (not on biases and norms)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients longer than this are shortened to it."""


class OptimConfig(StepConfig):
    """How the weights are learned."""

    epochs: Positive = 50
    """Passes over the training samples."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate."""
    scheduler: Scheduler = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: Fraction = 0.1
    """Share of the run in which the learning rate rises."""
    patience: Positive | None = None
    """Stop after this many validations without a better --best-metric. Default: never."""
    best_metric: str | None = None
    """Validation metric that chooses the best checkpoint, such as val/loss or val/r2. Default: val/loss."""


class FinetuneConfig(Section):
    """What fine-tuning starts from."""

    panel: ClassVar[str] = "Pretrained encoder"

    pretrained_encoder: Path | None = None
    """Output folder or checkpoint of `aam pretrain` to start from. Default: start from random weights."""
    freeze_base: bool = False
    """Train only the new heads; the encoder stays as it is."""

    @model_validator(mode="after")
    def _freezing_needs_weights(self) -> Self:
        if self.freeze_base and self.pretrained_encoder is None:
            raise ValueError("--freeze-base would keep random weights: give --pretrained-encoder too")
        return self


class MachineConfig(Section):
    """The machine, and how precisely it computes."""

    panel: ClassVar[str] = "Machine"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one (ROCm counts as cuda)."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches beside the main one."""
    mixed_precision: MixedPrecision = "none"
    """Lower precision where it is safe: bf16 or fp16 (fp16 on GPUs only)."""
    tf32: bool = True
    """Allow TF32 matrix products on GPUs that have them (never for distances)."""


class SeededMachineConfig(MachineConfig):
    """The machine, and the seed of what is drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of every draw: split, shuffling, rarefaction, masks, weights."""


class RuntimeConfig(SeededMachineConfig):
    """The machine of a whole run."""

    compile_model: bool = False
    """Compile the model with torch.compile."""


class FolderConfig(Section):
    """Where results go."""

    panel: ClassVar[str] = "Output"

    output_dir: Path
    """Folder for results; made if absent."""
    overwrite: bool = False
    """Replace what an earlier run left in --output-dir."""


class OutputConfig(FolderConfig):
    """Where the results of a run go, and what it leaves on the way."""

    resume: bool = False
    """Continue the run in --output-dir at the step where it stopped."""
    log_every: Positive = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints, besides the one at the end of every epoch."""

    @model_validator(mode="after")
    def _resume_or_overwrite(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run and --overwrite deletes it: give one of them")
        return self


class CheckpointInputConfig(Section):
    """The trained model."""

    panel: ClassVar[str] = "Trained model"

    checkpoint: Path
    """Output folder of a run (its best checkpoint is used) or one checkpoint folder."""


class InferenceConfig(Section):
    """How a trained model is applied."""

    panel: ClassVar[str] = "Applying the model"

    output: Path
    """File to write: a tab-separated table by sample id."""
    overwrite: bool = False
    """Replace files that are there already."""
    batch_size: Positive = 32
    """Samples in a batch; changes the speed and not the result."""


class EmbedOutputConfig(Section):
    """What `aam embed` writes besides."""

    panel: ClassVar[str] = "ASV embeddings"

    asv: Path | None = None
    """Also write the embedding of every ASV to this file."""


class SimulateConfig(Section):
    """A simulated study."""

    panel: ClassVar[str] = "Simulated study"

    directory: Path
    """Folder for table.biom, tree.nwk, metadata.tsv and taxonomy.tsv; made if absent."""
    samples: Annotated[int, Field(ge=8)] = 200
    """Samples."""
    asvs: Annotated[int, Field(ge=16)] = 400
    """ASVs in the tree; those that no sample holds are left out."""
    bp: Annotated[int, Field(ge=20)] = 100
    """Length of an ASV in nucleotides."""
    depth: Annotated[int, Field(ge=50)] = 2000
    """Mean reads of a sample."""
    subjects: Annotated[int, Field(ge=2)] = 20
    """Subjects, each sampled several times."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed; the same seed gives the same files."""
    overwrite: bool = False
    """Replace files of the same names."""


class MatrixOutputConfig(Section):
    """The distance matrix of `aam unifrac`."""

    panel: ClassVar[str] = "Distance matrix"

    output: Path
    """File to write: .tsv, .csv, .npz or .h5, by its ending."""
    overwrite: bool = False
    """Replace the file if it is there already."""
    backend: Literal["auto", "unifrac", "ssu", "scikit-bio"] = "auto"
    """Program that computes the matrix; auto takes the first of unifrac, ssu, scikit-bio that is there."""


class FindLrConfig(Section):
    """The learning-rate test."""

    panel: ClassVar[str] = "Learning-rate test"

    lr_min: Annotated[float, Field(gt=0)] = 1e-6
    """First learning rate."""
    lr_max: Annotated[float, Field(gt=0)] = 1.0
    """Last learning rate."""
    lr_steps: Annotated[int, Field(ge=5)] = 100
    """Steps between the two."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.lr_min >= self.lr_max:
            raise ValueError(f"--lr-min {self.lr_min} is not below --lr-max {self.lr_max}")
        return self


class RunConfig(BaseModel):
    """The sections of one command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """Section classes by attribute name, in the order of the help."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    @classmethod
    def options(cls) -> dict[str, tuple[str, FieldInfo]]:
        """Every option by its flat name: the section that holds it, and its declaration."""
        return {
            option: (section, field)
            for section, kind in cls.sections().items()
            for option, field in kind.model_fields.items()
        }

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Self:
        """Build the config from flat option names.

        Raises:
            InputError: an option is unknown, missing, out of range, or contradicts another.
        """
        options = cls.options()
        unknown = sorted(set(values) - set(options))
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(options))}")
        nested: dict[str, dict[str, Any]] = {section: {} for section in cls.sections()}
        for option, value in values.items():
            nested[options[option][0]][option] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(_explain(error)) from None

    def flat(self) -> dict[str, Any]:
        """Every option by its flat name."""
        return {option: value for section in self.sections() for option, value in getattr(self, section)}


def flag(option: str) -> str:
    """Spelling of an option on the command line: ``max_bp`` -> ``--max-bp``."""
    return "--" + option.replace("_", "-")


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":
            lines.append(message)
        elif item["type"] == "missing":
            lines.append(f"{flag(str(item['loc'][-1]))} is needed")
        else:
            lines.append(f"{flag(str(item['loc'][1]))} {item['input']}: {message}")
    return "; ".join(lines)


class PretrainingConfig(RunConfig):
    """What every command reads that pretrains."""

    inputs: InputConfig = InputConfig()
    output: FolderConfig
    sampling: SamplingConfig = SamplingConfig()
    unifrac: DistanceConfig = DistanceConfig()
    model: ModelConfig = ModelConfig()
    masking: MaskConfig = MaskConfig()
    losses: PretrainLossConfig = PretrainLossConfig()
    split: SplitConfig = SplitConfig()
    optim: StepConfig = StepConfig()
    runtime: SeededMachineConfig = SeededMachineConfig()


class PretrainConfig(PretrainingConfig):
    """Options of `aam pretrain`."""

    output: OutputConfig
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class TrainConfig(RunConfig):
    """Options of `aam train`."""

    inputs: TargetInputConfig = TargetInputConfig()
    output: OutputConfig
    target: TargetConfig
    finetune: FinetuneConfig = FinetuneConfig()
    sampling: SamplingConfig = SamplingConfig()
    model: ModelConfig = ModelConfig()
    split: TargetSplitConfig = TargetSplitConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()


class PretrainFindLrConfig(PretrainingConfig):
    """Options of `aam find-lr`."""

    search: FindLrConfig = FindLrConfig()

    def pretraining(self) -> PretrainConfig:
        """The pretraining whose learning rate is sought."""
        return PretrainConfig.model_validate(self.model_dump(exclude={"search"}))


class PredictConfig(RunConfig):
    """Options of `aam predict`."""

    trained: CheckpointInputConfig
    inputs: TableConfig = TableConfig()
    inference: InferenceConfig
    runtime: MachineConfig = MachineConfig()


class EmbedConfig(PredictConfig):
    """Options of `aam embed`."""

    asvs: EmbedOutputConfig = EmbedOutputConfig()


class UnifracCommandConfig(RunConfig):
    """Options of `aam unifrac`."""

    inputs: PhylogenyConfig = PhylogenyConfig()
    matrix: MatrixOutputConfig
    unifrac: UnifracConfig = UnifracConfig()


class SimulateCommandConfig(RunConfig):
    """Options of `aam simulate`."""

    study: SimulateConfig

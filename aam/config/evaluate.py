"""The options of `aam evaluate`: what is compared, on which folds, and where the results go."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import MAIN, Names, Positive, Processes, Reads, RunConfig, Section
from aam.config.categories import CategoryColumnsConfig
from aam.config.intervals import CoverageConfig
from aam.config.kernel import KernelConfig
from aam.config.learners import (
    READ_BY_KERNEL,
    SECTIONS_OF_NETWORK,
    EnsembleConfig,
    LearnersConfig,
    LinearConfig,
    TreesConfig,
    fitted_learners,
    has_network,
)
from aam.config.learning import FinetuneConfig, TargetModelConfig, TargetOptimConfig
from aam.config.output import ResumableConfig
from aam.config.study import PhylogenyConfig
from aam.config.target import TargetConfig, TargetTransform
from aam.config.tracking import TrackingConfig

Scheme = Literal["group", "stratified-group", "kfold", "stratified", "leave-one-group-out"]
ALWAYS = ("null", "depth", "forest")
"""Learners of every comparison: a guess without samples, sequencing depth alone, and the yardstick."""
COMPARED = ("linear", "clades", "kernel", "ensemble")
OUTSIDE = ("lightgbm", "xgboost", "tabicl")
"""Learners of other packages, for a comparison alone."""
SEED_END = 2**63


class EvaluateTargetConfig(Section):
    """The metadata column to predict."""

    panel: ClassVar[str] = "Target"

    metadata_column: Names
    """Column of the metadata to predict, one: age, or with --classifier a column of names such as diagnosis."""
    classifier: Annotated[bool, MAIN] = False
    """Predict classes instead of a number."""
    target_transform: TargetTransform | None = None
    """Scale on which a number is learned; log for one that spans orders of magnitude. Default: zscore."""

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if len(self.metadata_column) != 1 and not self._may_be_open():
            raise ValueError(
                f"--metadata-column {','.join(self.metadata_column)}: an evaluation is of one column; run one for each"
            )
        if self.classifier:
            self._refuse_unused("target_transform", "numbers, and --classifier predicts classes: drop one of them")
        return self

    def _may_be_open(self) -> bool:
        return False

    @property
    def column(self) -> str:
        """The column."""
        return self.metadata_column[0]

    def target(self) -> TargetConfig:
        """What learners know of the target."""
        return TargetConfig.model_validate(self.model_dump())


class ComparisonConfig(Section):
    """Which learners are compared."""

    panel: ClassVar[str] = "Comparison"

    learners: Annotated[Names, MAIN] = COMPARED
    """Learners to compare: linear (ridge or logistic regression), clades (trees on clades of the phylogeny), kernel
    (distances such as UniFrac), ensemble (the mean of some), neural (the network, which alone reads the options under
    Pretrained encoder, Model and Training; kernel too reads --pretrained-encoder). Always: null (a guess), depth
    (sequencing depth alone), forest (random forest on ASVs)."""
    with_: Names = ()
    """Learners of other packages, on the ASVs that the forest reads: lightgbm, xgboost, tabicl. They must be installed;
    aam compares them, and does not train them."""
    configs: Names = ()
    """Two or more files of options of learners, with lines such as trees = 1000: each fold chooses the best by its
    training samples."""
    batch_column: Names = ()
    """Columns such as run,plate,primer that should not predict the target: learner `batch` shows whether they do."""
    seed: Annotated[int, Field(ge=0, lt=SEED_END)] = 42
    """Number that fixes all that is drawn: folds, rarefaction, learners, intervals."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for option, names in (
            ("--learners", self.learners),
            ("--with", self.with_),
            ("--configs", self.configs),
            ("--batch-column", self.batch_column),
        ):
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{option} names {twice[0]} twice")
        if len(self.configs) == 1:
            raise ValueError(f"--configs {self.configs[0]} leaves no choice: give --config for one file of options")
        unknown = [name for name in self.with_ if name not in OUTSIDE]
        if unknown:
            raise ValueError(f"--with {unknown[0]}: known are {', '.join(OUTSIDE)}")
        if not self.learners:
            raise ValueError("--learners is empty: name what to compare")
        return self


class FoldsConfig(Section):
    """Which samples are held out together."""

    panel: ClassVar[str] = "Folds"

    group_column: Annotated[str | None, MAIN] = None
    """Metadata column of subjects, sites or studies: a group is held out as a whole, as new subjects would be."""
    cv: Scheme | None = None
    """How samples are held out: group (whole groups; stratified-group: with each class as frequent in all folds),
    leave-one-group-out, or without groups kfold and stratified. Default: what suits --group-column and
    --classifier."""
    folds: Annotated[int, Field(ge=2), MAIN] = 5
    """Parts into which the samples are divided; each is held out once, and predicted from the others."""
    repeats: Positive = 3
    """How often that is done, divided anew; predictions of a sample are averaged, and one_repeat scores one alone."""
    fold_column: str | None = None
    """Metadata column that gives the fold of each sample, instead of --cv and --folds; folds are groups where no others
    are named."""
    test_column: str | None = None
    """Metadata column that says train or test: learn from the one, predict the other, once."""
    gap: bool = False
    """Also hold out samples at random, to show how much better that looks than new groups."""
    allow_random_split: bool = False
    """Allow a random split although groups have several samples; its scores are too good for new groups."""

    @model_validator(mode="after")
    def _one_way_to_divide(self) -> Self:
        ways = {"--fold-column": self.fold_column, "--test-column": self.test_column, "--cv": self.cv}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.fold_column is not None or self.test_column is not None:
            for option in ("folds", "repeats"):
                self._refuse_unused(option, f"folds that are drawn, and {given[0]} gives them: drop one of them")
        if self.cv == "leave-one-group-out":
            for option in ("folds", "repeats"):
                self._refuse_unused(option, "folds that are drawn, and leave-one-group-out has a fold for each group")
        return self

    @model_validator(mode="after")
    def _groups_are_there(self) -> Self:
        if self.group_column is not None:
            return self
        if self.cv in ("group", "stratified-group", "leave-one-group-out"):
            raise ValueError(f"--cv {self.cv} holds out groups: give --group-column")
        if self.gap:
            raise ValueError("--gap compares with folds of groups: give --group-column")
        return self

    @model_validator(mode="after")
    def _gap_is_of_groups(self) -> Self:
        if self.gap and self.test_column is not None:
            raise ValueError("--gap compares folds of groups with random ones, and --test-column has none: drop one")
        if self.gap and self.cv in ("kfold", "stratified"):
            raise ValueError(f"--gap compares folds of groups with random ones, and --cv {self.cv} is random: drop one")
        return self

    def scheme(self, classes: bool) -> Scheme:
        """How folds are drawn where no column gives them, resolved."""
        if self.cv is not None:
            return self.cv
        if self.group_column is not None:
            return "stratified-group" if classes else "group"
        return "stratified" if classes else "kfold"

    @property
    def groups(self) -> str | None:
        """Column of what is independent, resolved: without --group-column the folds of --fold-column."""
        return self.group_column or self.fold_column

    @property
    def rounds(self) -> int:
        """How often the samples are divided, resolved."""
        given = self.fold_column is not None or self.test_column is not None
        return 1 if given or self.cv == "leave-one-group-out" else self.repeats


class CountsConfig(Section):
    """Which reads learners see."""

    panel: ClassVar[str] = "Reads"

    unseen_asvs: Literal["keep", "drop"] = "keep"
    """ASVs that only held-out samples hold: keep them, where new samples will be put into the same tree, or drop them,
    where those ASVs will be unknown."""
    rarefy_depth: Reads | Literal["auto"] | None = None
    """Draw this many reads from each sample and leave out shallower ones; auto: as many as 95 % of the samples have.
    Default: all reads, and rarefied ones as well where sequencing depth predicts the target."""
    rarefy_draws: Positive = 3
    """Times that reads are drawn; predictions are averaged over draws, and learners are fitted to the first."""


class EvaluateOutputConfig(ResumableConfig):
    """Where results go, and which part of the work is done."""

    resume: Annotated[bool, MAIN] = False
    """Continue the evaluation in --output-dir: folds that are done are not computed again."""
    jobs: Annotated[Processes, MAIN] = 1
    """Folds that are computed side by side, each in a process with one thread; changes no result."""
    only_fold: str | None = None
    """Compute one fold and stop, for job arrays of a cluster: REPEAT.FOLD, or its number from 1 to folds x repeats."""
    collect: bool = False
    """Put folds together that --only-fold has computed."""
    keep_models: Annotated[bool, MAIN] = False
    """Keep what every learner has learned in each fold, for `aam explain`."""

    @model_validator(mode="after")
    def _one_part(self) -> Self:
        asked = [name for name in ("resume", "overwrite", "only_fold", "collect") if getattr(self, name)]
        if len(asked) > 1:
            shown = " and ".join("--" + name.replace("_", "-") for name in asked)
            raise ValueError(f"{shown} exclude each other: give one of them")
        if self.only_fold is not None and not re.fullmatch(r"\d+(\.\d+)?", self.only_fold):
            raise ValueError(f"--only-fold {self.only_fold}: give REPEAT.FOLD such as 1.3, or a number such as 3")
        return self


class EvaluateConfig(RunConfig):
    """Options of `aam evaluate`."""

    inputs: PhylogenyConfig = PhylogenyConfig()
    output: EvaluateOutputConfig
    target: EvaluateTargetConfig
    comparison: ComparisonConfig = ComparisonConfig()
    folds: FoldsConfig = FoldsConfig()
    counts: CountsConfig = CountsConfig()
    intervals: CoverageConfig = CoverageConfig()
    trees: TreesConfig = TreesConfig()
    linear: LinearConfig = LinearConfig()
    kernel: KernelConfig = KernelConfig()
    categories: CategoryColumnsConfig = CategoryColumnsConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    model: TargetModelConfig = TargetModelConfig()
    optim: TargetOptimConfig = TargetOptimConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _tracker_is_told_the_end(self) -> Self:
        if self.output.only_fold is not None and self.tracking.track is not None:
            raise ValueError("--track is told of the scores of all folds: drop it with --only-fold, and give --collect")
        return self

    @model_validator(mode="after")
    def _target_is_no_batch(self) -> Self:
        for option, names in (
            ("--batch-column", self.comparison.batch_column),
            ("--group-column", (self.folds.group_column,)),
            ("--categorical-columns", self.categories.categorical_columns),
            ("--numeric-columns", self.kernel.numeric_columns),
        ):
            if self.target.column in names:
                raise ValueError(f"{option} {self.target.column}: that is the column to predict")
        return self

    @model_validator(mode="after")
    def _network_has_its_options(self) -> Self:
        if self.compares_network:
            if self.finetune.freeze_base:
                self.optim._refuse_unused("encoder_lr_ratio", "an encoder that learns: drop --freeze-base")
            return self
        for section in SECTIONS_OF_NETWORK:
            shared = READ_BY_KERNEL.get(section, frozenset())
            for option in (name for name in self.sections()[section].model_fields if name not in shared):
                getattr(self, section)._refuse_unused(option, "neural among --learners or --ensemble-members")
        return self

    @model_validator(mode="after")
    def _kernel_has_its_options(self) -> Self:
        fitted = fitted_learners(self.comparison.learners, self.ensemble)
        if "kernel" in fitted:
            return self
        for section, options in READ_BY_KERNEL.items():
            shared = section in SECTIONS_OF_NETWORK
            if shared and "neural" in fitted:
                continue
            needed = "kernel" + (" or neural" if shared else "") + " among --learners or --ensemble-members"
            for option in sorted(options):
                getattr(self, section)._refuse_unused(option, needed)
        return self

    @property
    def compares_network(self) -> bool:
        """Whether the network is compared, by itself or as a member of the ensemble."""
        return has_network(self.comparison.learners, self.ensemble)

    @property
    def names(self) -> tuple[str, ...]:
        """Learners of the comparison, in the order in which they are shown."""
        batch = ("batch",) if self.comparison.batch_column else ()
        return tuple(dict.fromkeys((*ALWAYS[:2], *batch, ALWAYS[2], *self.comparison.learners, *self.comparison.with_)))

    def options_of_learners(self) -> LearnersConfig:
        """The sections that learners are made of."""
        return LearnersConfig(**{section: getattr(self, section) for section in LearnersConfig.sections()})

    def options_of_all(self) -> dict[str, Any]:
        """Options of all learners, the network too, by name."""
        sections = (*LearnersConfig.sections(), *SECTIONS_OF_NETWORK)
        return {option: value for section in sections for option, value in getattr(self, section)}

"""The options of `aam tune`: which options of one learner are tried, how they are scored, and where results go."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from aam.config.base import MAIN, Names, Positive, RunConfig, Section
from aam.config.categories import CategoryColumnsConfig
from aam.config.evaluate import (
    SEED_END,
    ComparisonConfig,
    CountsConfig,
    EvaluateConfig,
    EvaluateOutputConfig,
    EvaluateTargetConfig,
    FoldsConfig,
)
from aam.config.kernel import KernelConfig
from aam.config.learners import EnsembleConfig, LearnersConfig, LinearConfig, TreesConfig
from aam.config.learning import FinetuneConfig, TargetModelConfig, TargetOptimConfig
from aam.config.output import ResumableConfig
from aam.config.search_space import TunedLearner
from aam.config.study import PhylogenyConfig

TUNED_SECTIONS: Final = (*LearnersConfig.model_fields, "finetune", "model", "optim")
"""Sections of `TuneConfig` whose options a search space may name."""
NOT_TUNED: Final = frozenset({"pretrained_encoder", "embedding_cache"})
"""Options of these sections that name files."""


class TuneTargetConfig(EvaluateTargetConfig):
    """The metadata column to predict."""

    metadata_column: Annotated[Names, MAIN] = ()
    """Column of the metadata to predict, one: age, or with --classifier a column of names such as diagnosis."""

    def _may_be_open(self) -> bool:
        return not self.metadata_column


class TuneOutputConfig(ResumableConfig):
    """Where results go."""

    output_dir: Annotated[Path | None, MAIN] = None  # type: ignore[assignment]  # given where there is something to tune
    """Folder for results; made if absent. Several processes with the same options share it."""
    resume: Annotated[bool, MAIN] = False
    """Continue the tuning in --output-dir, up to --trials in all; trials that a kill ended are tried again."""


class TuningConfig(Section):
    """What is tuned, and how long."""

    panel: ClassVar[str] = "Tuning"

    learner: Annotated[TunedLearner, MAIN] = "ensemble"
    """Learner whose options are tuned."""
    trials: Annotated[Positive, MAIN] = 20
    """Sets of options to try, by all processes together."""
    nested_trials: Annotated[int, Field(ge=0)] | None = None
    """Sets of options to try anew within the training samples of each fold, for a score that is not flattered by the
    tuning; 0: no such score. Default: half of --trials."""
    nested_folds: Annotated[int, Field(ge=2)] = 3
    """Parts into which the training samples of a fold are divided for that."""
    space: Annotated[Path | None, MAIN] = None
    """TOML file of the options to try, in place of those of --show-space: write these to a file, and change it."""
    show_space: bool = False
    """Print the options that are tried, as a TOML file for --space, and stop. Options that are given keep their value,
    and are not tried."""
    prune: bool = True
    """After each fold, give up options that are worse than half of the others were by then."""
    study: str | None = None
    """Where trials are kept: a file (Optuna's journal) or the address of a database, such as sqlite:///tuning.db.
    Default: a file in --output-dir."""
    seed: Annotated[int, Field(ge=0, lt=SEED_END)] = 42
    """Number that fixes all that is drawn: folds, options to try, learners, intervals."""

    @property
    def trials_within(self) -> int:
        """Trials within each fold, resolved."""
        return -(-self.trials // 2) if self.nested_trials is None else self.nested_trials


class TuneFoldsConfig(FoldsConfig):
    """Which samples are held out together."""

    repeats: Positive = 1
    """How often that is done, divided anew; predictions of a sample are averaged."""

    @model_validator(mode="after")
    def _gap_is_of_evaluate(self) -> Self:
        self._refuse_unused("gap", "`aam evaluate`, which compares learners: drop it")
        return self


class TuneConfig(RunConfig):
    """Options of `aam tune`."""

    inputs: PhylogenyConfig = PhylogenyConfig()
    output: TuneOutputConfig = TuneOutputConfig()
    target: TuneTargetConfig = TuneTargetConfig()
    tuning: TuningConfig = TuningConfig()
    folds: TuneFoldsConfig = TuneFoldsConfig()
    counts: CountsConfig = CountsConfig()
    trees: TreesConfig = TreesConfig()
    linear: LinearConfig = LinearConfig()
    kernel: KernelConfig = KernelConfig()
    categories: CategoryColumnsConfig = CategoryColumnsConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    model: TargetModelConfig = TargetModelConfig()
    optim: TargetOptimConfig = TargetOptimConfig()

    @model_validator(mode="after")
    def _there_is_something_to_tune(self) -> Self:
        if self.tuning.show_space:
            return self
        if not self.target.metadata_column:
            raise ValueError("--metadata-column is needed: what is to be predicted?")
        if self.output.output_dir is None:
            raise ValueError("--output-dir is needed: where do results go?")
        if self.folds.test_column is not None and self.tuning.trials_within == 0:
            raise ValueError(
                "--test-column with --nested-trials 0 would choose options by the test samples and leave nothing to "
                "judge them by: drop one of them"
            )
        return self

    @classmethod
    def tunable(cls) -> tuple[str, ...]:
        """Options that a search space may name."""
        names = [name for section in TUNED_SECTIONS for name in cls.sections()[section].model_fields]
        return tuple(name for name in names if name not in NOT_TUNED)

    @property
    def folder(self) -> Path:
        """The output folder."""
        assert self.output.output_dir is not None, "checked, but where the search space is all that is asked for"
        return self.output.output_dir

    def evaluation(self, changes: dict[str, Any]) -> EvaluateConfig:
        """The evaluation of the learner with some options changed.

        Args:
            changes: options by name.

        Raises:
            InputError: one is unknown or out of range, or contradicts another.
        """
        places = self.options()
        learner: dict[str, dict[str, Any]] = {name: getattr(self, name).model_dump() for name in TUNED_SECTIONS}
        for option, value in changes.items():
            learner[places[option][0]][option] = value
        given = {name: getattr(self, name) for name in ("inputs", "target", "folds", "counts")}
        if not self.target.metadata_column:  # where the search space alone is asked for
            given["target"] = EvaluateTargetConfig(metadata_column=("column",))
        comparison = ComparisonConfig(learners=(self.tuning.learner,), seed=self.tuning.seed)
        output = EvaluateOutputConfig(output_dir=self.output.output_dir or Path())
        return EvaluateConfig.checked({**given, **learner, "comparison": comparison, "output": output})

"""What regression and classification of a metadata column share in notebooks."""

from __future__ import annotations  # what annotations alone name is not imported

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from aam.config import (
    LearnerName,
    PhylogenyConfig,
    PretrainConfig,
    RootChoice,
    TargetConfig,
    TargetSamplingConfig,
    TrainConfig,
)
from aam.data.distances.phylogeny import LengthChoices
from aam.data.files.tables import FeatureTable, feature_table
from aam.errors import InputError, first_ids
from aam.estimators.base import SampleModel, Sequences, run_folder
from aam.estimators.encoder import SampleEncoder
from aam.estimators.inputs import MetadataLike, TableLike, TargetLike, TreeLike, as_metadata, as_target, with_target
from aam.estimators.learned import is_learner, placement_tree, require_targets, with_tree

if TYPE_CHECKING:
    from aam.data.labels.target_table import Targets
    from aam.data.study import Study

logger = logging.getLogger(__name__)

ONLY_FOR_TARGETS = frozenset({"best_metric"})
"""Options of `aam train` that mean something else in pretraining."""
OF_FITTING = frozenset({"lr", "patience"})
"""Parameters whose defaults are others in pretraining."""


class _Given(NamedTuple):
    """The arguments of `fit`, read."""

    table: TableLike
    target: pd.DataFrame
    tree: TreeLike | None
    metadata: pd.DataFrame | None
    sequences: Sequences | None

    def whole(self, config: TrainConfig) -> FeatureTable:
        """The table, with samples that may have no target."""
        return feature_table(self.table, self.sequences, config.inputs.drop_missing_sequences)

    @property
    def joined(self) -> pd.DataFrame:
        """Metadata and target."""
        return with_target(self.metadata, self.target)


@dataclass(eq=False, repr=False, kw_only=True)
class SamplePredictor(SampleModel):
    """Fits an encoder with a target head; `SampleRegressor` and `SampleClassifier` say what the parameters are."""

    learner: LearnerName = "neural"
    embedding_dim: int = 64
    attention_layers: int = 1
    epochs: int | None = None
    batch_size: int = 16
    lr: float | None = None
    patience: int | None = 20
    encoder: SampleEncoder | Path | str | None = None
    freeze_base: bool | None = None
    pretrain_epochs: int = 50
    root: RootChoice = "error"

    config_type: ClassVar[type[PretrainConfig | TrainConfig]] = TrainConfig

    def fit(
        self,
        table: TableLike,
        y: TargetLike,
        *,
        tree: TreeLike | None = None,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
    ) -> Self:
        """Fine-tune on a target; where there is a tree and no `encoder`, pretrain on the same table first.

        With another `learner` than the network, fit that; it reads the tree itself.

        Samples are joined by id. Those without a value of `y` are left out of fine-tuning, and counted in the log and
        in `left_out_`; pretraining, which needs no labels, uses them too.

        Args:
            table: feature table of counts: a `biom.Table`, a path, or a DataFrame of samples x ASVs. ASVs whose ids
                are not sequences need `sequences`.
            y: a pandas Series by sample id, in any order; a DataFrame of several numbers (missing ones are masked). A
                list or an array is taken only with a DataFrame table, one value for each of its rows.
            tree: rooted phylogeny over the ASVs: a path, a Newick string or a `skbio.TreeNode`. For the
                network only pretraining reads it: without it, and without `encoder`, training starts from random
                weights. ``clades`` and ``kernel`` need it.
            metadata: DataFrame by sample id, or a path; for options such as ``group_column`` and
                ``categorical_columns``. Samples without a row are left out.
            sequences: DNA by ASV id.

        Raises:
            InputError: a parameter or an input is wrong.
            NotFittedError: `encoder` is a `SampleEncoder` that was not fitted.
        """
        given = _Given(table, as_target(y, table), tree, as_metadata(metadata), sequences)
        with TemporaryDirectory(prefix="aam-") as scratch:
            fit = self._fit_network if self.learner == "neural" else self._fit_learner
            fit(given, run_folder(self.output_dir, Path(scratch)), Path(scratch) / "encoder")
        self._take_labels(given.target)
        return self

    def _fit_network(self, given: _Given, output: Path, start: Path) -> None:
        """Pretrain if there is a tree and no encoder, and fine-tune from the encoder that lies in `start` then."""
        from aam.data.study import assemble_study
        from aam.workflows.columns import learn_columns
        from aam.workflows.folder import settle_folder
        from aam.workflows.train import train_study

        pretrains = self.encoder is None and given.tree is not None
        config = self._config(given.target, output / "train" if pretrains else output, start, pretrains)
        with self._world(config) as world:  # before pretraining, and all ranks alike
            settled = world.on_main(lambda: settle_folder(config).output)
        config = config.model_copy(update={"output": settled})
        study = assemble_study(given.whole(config), config.sampling, metadata=given.joined)
        if pretrains:
            learn_columns(study, config)  # what is wrong is not found out only after pretraining
            table, tree, metadata, sequences = given.table, given.tree, given.metadata, given.sequences
            self._pretraining().fit(table, tree=tree, metadata=metadata, sequences=sequences).save(start)
        elif isinstance(self.encoder, SampleEncoder):
            self.encoder.save(start)
        with self._world(config) as world:
            self._take_run(*train_study(study, config, world))

    def _fit_learner(self, given: _Given, output: Path, start: Path) -> None:
        """Fit a learner besides the network, as `aam train --learner` does."""
        from aam.data.study import assemble_study
        from aam.workflows.resolve import resolve_depth
        from aam.workflows.train_learner import begin_learner, train_learner_study

        if self.pretrain_epochs != type(self).pretrain_epochs:
            raise InputError(f'pretrain_epochs {self.pretrain_epochs} only has an effect with learner="neural"')
        config = self._config(given.target, output, start, pretrains=False)
        begin_learner(config)
        if isinstance(self.encoder, SampleEncoder):
            self.encoder.save(start)
        whole = given.whole(config)

        def load(sampling: TargetSamplingConfig) -> Study:
            return with_tree(assemble_study(whole, sampling, metadata=given.joined), given.tree, config, sampling)

        self.trained_, learned = train_learner_study(*resolve_depth(config, load))
        self.history_, self.left_out_ = pd.DataFrame(), learned.study.left_out

    def predictions(
        self,
        table: TableLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
        level: float | None = None,
    ) -> pd.DataFrame:
        """Predict samples, as `aam predict` writes it.

        Args:
            table: feature table of counts.
            metadata: DataFrame by sample id, or a path; where the model reads columns, such as categorical ones.
            sequences: DNA by ASV id, where the ids of the table are not sequences.
            tree: rooted phylogeny over the ASVs of training and those of the table, for learners that read clades: puts
                ASVs that training lacked on its branches. Parameter `root` says where the root is. Without it their
                reads are dropped.
            level: probability, such as 0.9, with which intervals (``low``, ``high``) or for classes sets (``set``) hold
                the true value of a sample of a new group. None: there are none.

        Returns:
            By sample id, a row for each sample of the table, in its order: ``prediction`` (of several targets
            ``prediction_NAME``), for quantiles also ``quantile_SHARE``, for classes (as text) ``probability_NAME``.
            Learners besides the network add ``reads_lost``, the fraction of reads of ASVs that they do not know, with a
            tree ``reads_placed``, the fraction of those put on its branches, and some ``spread``, a standard deviation.
            ``unlike`` (yes or no) and ``why`` say which samples are unlike those of the training, and why.
            ``note`` is the reason where a sample cannot be used and its values are missing.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: table, metadata or tree are wrong, the model reads no tree, none of the samples can be used, or
                `level` is not between 0 and 1, or the model gives no intervals.
        """
        from aam.workflows.predict import with_left_out
        from aam.workflows.predict_network import predict_study, unlike_columns

        self._check_level(level)
        whole, study = self._study(table, sequences, as_metadata(metadata))
        phylogeny = placement_tree(self.trained_, tree, self._lengths, self.root)
        if is_learner(self.trained_):
            return with_left_out(*self.trained_.predict(study, phylogeny, level)).loc[list(whole.sample_ids)]
        with self._compute() as compute:
            predicted = predict_study(self.trained_, study, self.batch_size, compute, self.num_workers or 0)
        predicted = predicted.assign(**unlike_columns(self.trained_, study))
        return with_left_out(predicted, study).loc[list(whole.sample_ids)]

    def _check_level(self, level: float | None) -> None:
        """Refuse intervals that cannot be given, before the table is read."""
        from aam.learners.storage import no_intervals

        check_is_fitted(self, "trained_")
        if level is None:
            return
        if not 0 < level < 1:
            raise InputError(f"level {level}: give the probability of intervals between 0 and 1, such as 0.9")
        if not is_learner(self.trained_):
            raise InputError(no_intervals("neural"))

    def _scored(
        self,
        table: TableLike,
        y: TargetLike,
        metadata: MetadataLike | None,
        sequences: Sequences | None,
        tree: TreeLike | None,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """True and predicted values, [samples, T], of the samples that have all, joined by id."""
        from aam.data.labels.target_table import target_values

        predicted = self._points(self.predictions(table, metadata=metadata, sequences=sequences, tree=tree))
        targets = self._targets
        names = tuple(column.name for column in targets.columns)
        given = as_target(y, table)
        if len(given.columns) == 1 == len(predicted.columns):
            given = given.set_axis(list(names), axis=1)
        asked = TargetConfig(metadata_column=names, classifier=targets.is_classes)
        true = target_values(given.reindex(predicted.index), asked)
        both = true.notna().all(axis=1) & predicted.notna().all(axis=1)
        if not both.any():
            raise InputError(f"no sample has both a value of y and a prediction: {first_ids(predicted.index)}")
        if not both.all():
            lost = first_ids(both.index[~both])
            logger.warning("scored %d of %d samples; without y or prediction: %s", both.sum(), len(both), lost)
        return true[both], predicted[both]

    def _points(self, predicted: pd.DataFrame) -> pd.DataFrame:
        """The columns of predictions themselves, one for each target."""
        columns = self._targets.columns
        return predicted[["prediction"] if len(columns) == 1 else [f"prediction_{column.name}" for column in columns]]

    @property
    def _lengths(self) -> LengthChoices:
        """What to do where a tree lacks the length of a branch, or has a negative one."""
        names = ("missing_branch_lengths", "negative_branch_lengths")
        given = {name: value for name, value in (self.options or {}).items() if name in names}
        return LengthChoices.of(PhylogenyConfig.model_validate(given))

    @property
    def _targets(self) -> Targets:
        return require_targets(self.trained_)

    def _config(self, target: pd.DataFrame, output: Path, start: Path, pretrains: bool) -> TrainConfig:
        given = pretrains or isinstance(self.encoder, SampleEncoder)
        places = {"output_dir": output, "pretrained_encoder": start if given else self.encoder}
        learned = {"metadata_column": tuple(target.columns), "classifier": self.kind == "SampleClassifier"}
        return TrainConfig.from_flat(self._flat() | learned | places)

    def _pretraining(self) -> SampleEncoder:
        """An encoder with the parameters of this predictor, but for defaults that suit a column alone."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {field.name: getattr(self, field.name) for field in fields(SampleModel)}
        shared = {name: value for name, value in given.items() if name not in OF_FITTING or value != defaults[name]}
        known = PretrainConfig.options().keys() - ONLY_FOR_TARGETS
        shared["options"] = {name: value for name, value in (self.options or {}).items() if name in known}
        shared["output_dir"] = None if self.output_dir is None else Path(self.output_dir) / "pretrain"
        return SampleEncoder(**shared | {"epochs": self.pretrain_epochs, "root": self.root})

    def _take_labels(self, target: pd.DataFrame) -> None:
        """Keep what turns the model's answers into the user's; numbers need nothing."""

    def __sklearn_clone__(self) -> Self:
        """Copy the parameters; a fitted encoder is where training starts and stays fitted, as a path would."""
        fresh: Self = super().__sklearn_clone__()
        fresh.encoder = self.encoder
        return fresh

"""What regression and classification of a metadata column share in notebooks."""

from __future__ import annotations  # what annotations alone name is not imported

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
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
from aam.errors import InputError, UnusableSamplesError, first_ids
from aam.estimators.base import Places, SampleModel
from aam.estimators.encoder import SampleEncoder
from aam.estimators.inputs import (
    MetadataLike,
    Sequences,
    TableLike,
    TargetLike,
    TreeLike,
    as_target,
    metadata_of,
    with_target,
)
from aam.estimators.learned import Trained, is_learner, placement_tree, require_targets, with_tree
from aam.estimators.null import filled

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
    _null_name: ClassVar[str]
    """What the null prediction is."""

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
            table: feature table of counts: what `aam.read` gives, an AnnData (counts in `X`), a `biom.Table`, a path,
                or a DataFrame of samples x ASVs. ASVs whose ids are not sequences need `sequences`.
            y: a pandas Series by sample id, in any order; a DataFrame of several numbers (missing ones are masked). A
                list or an array is taken only with a table in memory, one value for each of its rows.
            tree: rooted phylogeny over the ASVs: a path, a Newick string or a `skbio.TreeNode`. For the
                network only pretraining reads it: without it, and without `encoder`, training starts from random
                weights. ``clades`` and ``kernel`` need it.
            metadata: DataFrame by sample id, or a path; for options such as ``group_column`` and
                ``categorical_columns``. Samples without a row are left out. None: the `obs` of an AnnData.
            sequences: DNA by ASV id, or the path of a FASTA file; remembered (`sequences_`).

        Raises:
            InputError: a parameter or an input is wrong.
            NotFittedError: `encoder` is a `SampleEncoder` that was not fitted.
        """
        from aam.data.labels.target_table import target_values

        given = _Given(table, as_target(y, table), tree, metadata_of(metadata, table), sequences)
        with self._places() as places:
            fit = self._fit_network if self.learner == "neural" else self._fit_learner
            study = fit(given, places)
        self._take_labels(given.target)
        asked = self._asked
        self.null_: list[float] | None = self._null_of(
            target_values(_named(given.target, asked).loc[list(study.table.sample_ids)], asked)
        )
        return self

    def _fit_network(self, given: _Given, places: Places) -> Study:
        """Pretrain if there is a tree and no encoder, and fine-tune; returns the samples that it used."""
        from aam.data.study import assemble_study
        from aam.workflows.columns import learn_columns
        from aam.workflows.folder import settle_folder
        from aam.workflows.train import train_study

        pretrains, output = self.encoder is None and given.tree is not None, places.output
        config = self._config(given.target, output / "train" if pretrains else output, places, pretrains)
        with self._world(config) as world:  # before pretraining, and all ranks alike
            settled = world.on_main(lambda: settle_folder(config).output)
        config = config.model_copy(update={"output": settled})
        whole = self._table(given.table, given.sequences, config.inputs.drop_missing_sequences)
        study = assemble_study(whole, config.sampling, metadata=given.joined)
        if pretrains:
            learn_columns(study, config)  # what is wrong is not found out only after pretraining
            encoder = self._pretraining(output)
            encoder.fit(given.table, tree=given.tree, metadata=given.metadata, sequences=given.sequences)
            encoder.save(places.encoder)
        elif isinstance(self.encoder, SampleEncoder):
            self.encoder.save(places.encoder)
        with self._world(config) as world:
            run, folder = train_study(study, config, world)
            self._take_run(run, folder)
        return run.material.study

    def _fit_learner(self, given: _Given, places: Places) -> Study:
        """Fit a learner besides the network, as `aam train --learner` does; returns the samples that it used."""
        from aam.data.study import assemble_study
        from aam.workflows.resolve import resolve_depth
        from aam.workflows.train_learner import begin_learner, train_learner_study

        if self.pretrain_epochs != type(self).pretrain_epochs:
            raise InputError(f'pretrain_epochs {self.pretrain_epochs} only has an effect with learner="neural"')
        config = self._config(given.target, places.output, places, pretrains=False)
        begin_learner(config)
        if isinstance(self.encoder, SampleEncoder):
            self.encoder.save(places.encoder)
        whole = self._table(given.table, given.sequences, config.inputs.drop_missing_sequences)

        def load(sampling: TargetSamplingConfig) -> Study:
            return with_tree(assemble_study(whole, sampling, metadata=given.joined), given.tree, config, sampling)

        self.trained_, learned = train_learner_study(*resolve_depth(config, load))
        self.history_, self.left_out_ = pd.DataFrame(), learned.study.left_out
        return learned.study

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
            metadata: DataFrame by sample id, or a path; where the model reads columns, such as categorical ones. None:
                the `obs` of an AnnData.
            sequences: DNA by ASV id, of ASVs whose ids are not sequences and were not among those given to `fit`.
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
        whole, study = self._study(table, sequences, metadata_of(metadata, table))
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

        check_is_fitted(self, "trained_")
        if self.null_ is None:
            predicted = self._points(self.predictions(table, metadata=metadata, sequences=sequences, tree=tree))
        else:
            predicted = self._answers(self._filled(table, metadata, sequences, tree))
        asked = self._asked
        true = target_values(_named(as_target(y, table), asked).reindex(predicted.index), asked)
        both = true.notna().all(axis=1) & predicted.notna().all(axis=1)
        if not both.any():
            raise InputError(f"no sample has both a value of y and a prediction: {first_ids(predicted.index)}")
        if not both.all():
            lost = first_ids(both.index[~both])
            logger.warning("scored %d of %d samples; without y or prediction: %s", both.sum(), len(both), lost)
        return true[both], predicted[both]

    def _filled(
        self,
        table: TableLike,
        metadata: MetadataLike | None,
        sequences: Sequences | None,
        tree: TreeLike | None,
    ) -> pd.DataFrame:
        """Predictions by sample id, [samples, T or C], with the null prediction where there is none, and a warning."""
        check_is_fitted(self, "trained_")
        names = self._value_columns
        try:
            predicted = self.predictions(table, metadata=metadata, sequences=sequences, tree=tree)
        except UnusableSamplesError as error:
            if self.null_ is None:
                raise
            gaps = pd.DataFrame(np.nan, index=list(self._whole(table, sequences).sample_ids), columns=names)
            predicted = gaps.assign(note=str(error))
        values = filled(predicted[[*names, "note"]], self.null_, self._null_name)
        return pd.DataFrame(values, index=predicted.index, columns=names)

    def _points(self, predicted: pd.DataFrame) -> pd.DataFrame:
        """The columns of predictions themselves, one for each target."""
        columns = self._targets.columns
        return predicted[["prediction"] if len(columns) == 1 else [f"prediction_{column.name}" for column in columns]]

    @property
    def _value_columns(self) -> list[str]:
        """Columns of `predictions` that hold numbers: of each target, or of each class."""
        raise NotImplementedError

    def _answers(self, predicted: pd.DataFrame) -> pd.DataFrame:
        """What is scored of these columns, [samples, T]."""
        raise NotImplementedError

    def _null_of(self, target: pd.DataFrame) -> list[float]:
        """The null prediction, of the targets of the samples of a fit: a number for each of `_value_columns`."""
        raise NotImplementedError

    @property
    def _asked(self) -> TargetConfig:
        """The columns that are predicted."""
        names = tuple(column.name for column in self._targets.columns)
        return TargetConfig(metadata_column=names, classifier=self._targets.is_classes)

    @property
    def _lengths(self) -> LengthChoices:
        """What to do where a tree lacks the length of a branch, or has a negative one."""
        names = ("missing_branch_lengths", "negative_branch_lengths")
        given = {name: value for name, value in (self.options or {}).items() if name in names}
        return LengthChoices.of(PhylogenyConfig.model_validate(given))

    @property
    def _targets(self) -> Targets:
        return require_targets(self.trained_)

    def _config(self, target: pd.DataFrame, output: Path, places: Places, pretrains: bool) -> TrainConfig:
        given = pretrains or isinstance(self.encoder, SampleEncoder)
        paths = {"output_dir": output, "pretrained_encoder": places.encoder if given else self.encoder}
        learned = {"metadata_column": tuple(target.columns), "classifier": self.kind == "SampleClassifier"}
        return TrainConfig.from_flat(self._flat() | learned | paths)

    def _pretraining(self, output: Path) -> SampleEncoder:
        """An encoder with the parameters of this predictor, but for defaults that suit a column alone."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {field.name: getattr(self, field.name) for field in fields(SampleModel)}
        shared = {name: value for name, value in given.items() if name not in OF_FITTING or value != defaults[name]}
        known = PretrainConfig.options().keys() - ONLY_FOR_TARGETS
        shared["options"] = {name: value for name, value in (self.options or {}).items() if name in known}
        shared["output_dir"] = None if self.output_dir is None else output / "pretrain"
        return SampleEncoder(**shared | {"epochs": self.pretrain_epochs, "root": self.root})

    def _take_labels(self, target: pd.DataFrame) -> None:
        """Keep what turns the model's answers into the user's; numbers need nothing."""

    def _documents(self) -> dict[str, Any]:
        return super()._documents() | ({} if self.null_ is None else {"null": self.null_})

    def _take_model(self, trained: Trained, documents: Mapping[str, Any]) -> None:
        super()._take_model(trained, documents)
        self.null_ = documents.get("null")

    def __sklearn_clone__(self) -> Self:
        """Copy the parameters; a fitted encoder is where training starts and stays fitted, as a path would."""
        fresh: Self = super().__sklearn_clone__()
        fresh.encoder = self.encoder
        return fresh


def _named(target: pd.DataFrame, asked: TargetConfig) -> pd.DataFrame:
    """The target of a model of one column is that column, whatever its name is."""
    return target.set_axis(list(asked.metadata_column), axis=1) if len(target.columns) == 1 else target

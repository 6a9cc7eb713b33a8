"""Fine-tuning for notebooks: regression and classification of a metadata column."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score

from aam.config import (
    LearnerName,
    OutputActivation,
    PretrainConfig,
    RootChoice,
    TargetConfig,
    TargetTransform,
    TrainConfig,
)
from aam.data.metadata import categorical_column
from aam.data.study import assemble_study
from aam.data.tables import feature_table
from aam.data.target_table import Targets, target_values
from aam.errors import InputError, first_ids
from aam.estimators.base import Kind, SampleModel, Sequences, run_folder
from aam.estimators.encoder import SampleEncoder
from aam.estimators.inputs import MetadataLike, TableLike, TargetLike, TreeLike, as_metadata, as_target, with_target
from aam.estimators.learned import Trained, classes_of, targets_of, with_tree
from aam.learners.storage import TrainedLearner
from aam.workflows.columns import learn_columns
from aam.workflows.folder import settle_folder
from aam.workflows.predict import with_left_out
from aam.workflows.predict_network import predict_study
from aam.workflows.train import train_study
from aam.workflows.train_learner import begin_learner, train_learner_study

logger = logging.getLogger(__name__)

ONLY_FOR_TARGETS = frozenset({"best_metric"})
"""Options of `aam train` that mean something else in pretraining."""


OF_FITTING = frozenset({"lr", "patience"})
"""Parameters whose defaults are others in pretraining."""


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
        target, columns = as_target(y, table), as_metadata(metadata)
        if self.learner != "neural":
            return self._fit_learner(table, target, tree, columns, sequences)
        pretrains = self.encoder is None and tree is not None
        with TemporaryDirectory(prefix="aam-") as scratch:
            start = Path(scratch) / "encoder"
            output = run_folder(self.output_dir, Path(scratch))
            config = self._config(tuple(target.columns), output / "train" if pretrains else output, start, pretrains)
            with self._world(config) as world:  # before pretraining, and all ranks alike
                output_config = world.on_main(lambda: settle_folder(config).output)
            config = config.model_copy(update={"output": output_config})
            whole = feature_table(table, sequences, config.inputs.drop_missing_sequences)
            study = assemble_study(whole, config.sampling, metadata=with_target(columns, target))
            assert study.metadata is not None
            if pretrains:
                learn_columns(study, config)  # what is wrong is not found out only after pretraining
                self._pretraining().fit(table, tree=tree, metadata=columns, sequences=sequences).save(start)
            elif isinstance(self.encoder, SampleEncoder):
                self.encoder.save(start)
            with self._world(config) as world:
                self._take_run(*train_study(study, config, world))
        self._take_labels(target)
        return self

    def _fit_learner(
        self,
        table: TableLike,
        target: pd.DataFrame,
        tree: TreeLike | None,
        metadata: pd.DataFrame | None,
        sequences: Sequences | None,
    ) -> Self:
        """Fit a learner besides the network, as `aam train --learner` does."""
        if self.pretrain_epochs != type(self).pretrain_epochs:
            raise InputError(f'pretrain_epochs {self.pretrain_epochs} only has an effect with learner="neural"')
        with TemporaryDirectory(prefix="aam-") as scratch:
            start, output = Path(scratch) / "encoder", run_folder(self.output_dir, Path(scratch))
            config = self._config(tuple(target.columns), output, start, pretrains=False)
            begin_learner(config)
            if isinstance(self.encoder, SampleEncoder):
                self.encoder.save(start)
            whole = feature_table(table, sequences, config.inputs.drop_missing_sequences)
            study = assemble_study(whole, config.sampling, metadata=with_target(metadata, target))
            self.trained_, learned = train_learner_study(with_tree(study, tree, config), config)
        self.history_, self.left_out_ = pd.DataFrame(), learned.study.left_out
        self._take_labels(target)
        return self

    def predictions(
        self, table: TableLike, *, metadata: MetadataLike | None = None, sequences: Sequences | None = None
    ) -> pd.DataFrame:
        """Predict samples, as `aam predict` writes it.

        Args:
            table: feature table of counts.
            metadata: DataFrame by sample id, or a path; where the model reads columns, such as categorical ones.
            sequences: DNA by ASV id, where the ids of the table are not sequences.

        Returns:
            By sample id, a row for each sample of the table, in its order: ``prediction`` (of several targets
            ``prediction_NAME``), for quantiles also ``quantile_SHARE``, for classes (as text) ``probability_NAME``.
            Learners besides the network add ``reads_lost``, the share of reads of ASVs that they do not know, and some
            ``spread``, a standard deviation. ``note`` is the reason where a sample cannot be used and its values are
            missing.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: table or metadata are wrong, or none of the samples can be used.
        """
        whole, study = self._study(table, sequences, as_metadata(metadata))
        if isinstance(self.trained_, TrainedLearner):
            return with_left_out(*self.trained_.predict(study)).loc[list(whole.sample_ids)]
        with self._compute() as compute:
            predicted = predict_study(self.trained_, study, self.batch_size, compute, self.num_workers or 0)
        return with_left_out(predicted, study).loc[list(whole.sample_ids)]

    def _scored(
        self, table: TableLike, y: TargetLike, metadata: MetadataLike | None, sequences: Sequences | None
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """True and predicted values, [samples, T], of the samples that have all, joined by id."""
        predicted = self._points(self.predictions(table, metadata=metadata, sequences=sequences))
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
    def _targets(self) -> Targets:
        targets = targets_of(self.trained_)
        assert targets is not None
        return targets

    def _config(self, columns: tuple[str, ...], output: Path, start: Path, pretrains: bool) -> TrainConfig:
        encoder = self.encoder
        if pretrains or isinstance(encoder, SampleEncoder):
            encoder = start
        places = {"output_dir": output, "pretrained_encoder": encoder}
        return TrainConfig.from_flat(
            self._flat() | {"metadata_column": columns, "classifier": self.kind == "SampleClassifier"} | places
        )

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


@dataclass(eq=False, repr=False, kw_only=True)
class SampleRegressor(RegressorMixin, SamplePredictor):  # type: ignore[misc]
    """Predicts a number of every sample.

    ``fit(table, y, tree=...)`` pretrains an encoder on the table and then fine-tunes it; give `encoder` to start from
    one that is pretrained already. A share of the samples, `val_fraction`, chooses the best checkpoint in both: judge
    the result on samples that `fit` has not seen at all.

    Args:
        learner: what learns: ``neural`` is the network, which all that is said above is about. ``ensemble``,
            ``clades``, ``kernel``, ``linear``, ``forest`` (and ``depth``, ``null``) are fitted to the whole table at
            once, and read the tree of ``fit``; parameters of the network are refused with them, and their own are
            `options`, as ``{"trees": 1000}``. ``kernel`` and ``ensemble`` read metadata too, as
            ``{"categorical_columns": "site", "numeric_columns": "age"}``; give `metadata` to `fit` and `predict` then.
        encoder: a fitted `SampleEncoder`, or the path of an output folder or checkpoint of `aam pretrain`. It fixes
            `embedding_dim`, `attention_heads`, `attention_layers` and `nucleotide_patch`. `clone` keeps it fitted.
            ``kernel`` and ``ensemble`` compare samples by its embedding.
        freeze_base: train only the heads; by default a new encoder stays as it is, and a pretrained one learns.
        pretrain_epochs: epochs of pretraining, where `fit` gets a tree and there is no `encoder`. It shares `options`
            and the other parameters, but for `lr` and `patience` at their defaults; to choose more about
            it, fit a `SampleEncoder`.
        root: where the root of the tree of `fit` is; see `SampleEncoder`.
        target_transform: scale on which the number is learned; undone in predictions.
        target_loss: ``huber``, ``mse``, ``mae``, ``quantile`` or ``asymmetric``; or one for each of several targets,
            ``"ph=mse,temperature=huber"``.
        output_activation: ``relu``, ``softplus`` or ``exp``, where the number cannot be negative.
        output_dir: folder for what `aam train` leaves, in ``train`` and ``pretrain`` where both are done; None: nothing
            is left.
        options: any other option of `aam train`, by its name with underscores.

    The other parameters are those of `SampleEncoder`, with smaller defaults. `lr` is that of the head, and None chooses
    it by the width; the encoder learns with a tenth of it (option ``encoder_lr_ratio``).

    Attributes:
        trained_: the model (`trained_.predictor`, a `torch.nn.Module`), the target's scale, and the full config.
            Of another learner its options and what it has learned (`TrainedLearner`).
        history_: losses and metrics by step, as in ``metrics.jsonl`` (after `fit`, not after `load`); empty for
            another learner.
        left_out_: samples that could not be used, with the reason (after `fit`, not after `load`).
    """

    target_transform: TargetTransform | None = None
    target_loss: str | tuple[str, ...] = ("huber",)
    output_activation: OutputActivation = "none"

    kind: ClassVar[Kind] = "SampleRegressor"

    def predict(
        self, table: TableLike, *, metadata: MetadataLike | None = None, sequences: Sequences | None = None
    ) -> NDArray[np.float64]:
        """Predict samples: float64 [samples], in the table's order and the target's own units; [samples, T] of several.

        NaN for samples that cannot be used (no reads, or fewer than `rarefy_depth`); `predictions` gives the reason,
        and all by sample id.
        """
        points = self._points(self.predictions(table, metadata=metadata, sequences=sequences)).to_numpy(np.float64)
        return points[:, 0] if points.shape[1] == 1 else points

    def score(
        self,
        table: TableLike,
        y: TargetLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
    ) -> float:
        """R2 of the predictions, over samples with values of `y` and a prediction; others are logged.

        Of several targets it is the mean.

        Raises:
            InputError: there is no such sample, or `y` or the table is wrong.
        """
        return float(r2_score(*self._scored(table, y, metadata, sequences)))


@dataclass(eq=False, repr=False, kw_only=True)
class SampleClassifier(ClassifierMixin, SamplePredictor):  # type: ignore[misc]
    """Predicts a class of every sample.

    Works as `SampleRegressor` and has its parameters, but for those of regression.

    Args:
        class_weights: ``balanced`` (inverse frequency), ``effective`` (effective number), or a JSON file of weights.
        stratify: give every side of the split the same share of every class; None: as far as small classes allow.

    Attributes:
        classes_: the classes, sorted, as they were in `y` (text where the model was trained by `aam train`).
        trained_, history_, left_out_: as in `SampleRegressor`.
    """

    class_weights: str = "none"
    stratify: bool | None = None

    kind: ClassVar[Kind] = "SampleClassifier"

    def predict(
        self, table: TableLike, *, metadata: MetadataLike | None = None, sequences: Sequences | None = None
    ) -> NDArray[Any]:
        """Predict samples: classes [samples], in the table's order.

        Raises:
            InputError: samples cannot be used (no reads, or fewer than `rarefy_depth`), for which no class would be
                honest; `predictions` gives what can be given.
        """
        probabilities = self.predict_proba(table, metadata=metadata, sequences=sequences)
        classes: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return classes

    def predict_proba(
        self, table: TableLike, *, metadata: MetadataLike | None = None, sequences: Sequences | None = None
    ) -> NDArray[np.float64]:
        """Probability of every class: float64 [samples, classes], in the order of the table and of `classes_`.

        Raises:
            InputError: as `predict`.
        """
        predicted = self.predictions(table, metadata=metadata, sequences=sequences)
        unusable = predicted[predicted["prediction"].isna()]
        if len(unusable):
            raise InputError(
                f"no class can be predicted for {first_ids(unusable.index)}: {', '.join(unusable['note'].unique())}; "
                "leave them out, or use predictions(), which gives the reasons beside the predictions of the others"
            )
        columns = [f"probability_{name}" for name in _texts(pd.Series(self.classes_))]
        return predicted[columns].to_numpy(np.float64)

    def score(
        self,
        table: TableLike,
        y: TargetLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
    ) -> float:
        """Accuracy of the predictions, over samples with a value of `y` and a prediction; others are logged.

        Raises:
            InputError: there is no such sample, or `y` or the table is wrong.
        """
        return float(accuracy_score(*self._scored(table, y, metadata, sequences)))

    def _documents(self) -> dict[str, Any]:
        return {"labels": self.classes_.tolist()}

    def _take_model(self, trained: Trained, documents: Mapping[str, Any]) -> None:
        super()._take_model(trained, documents)
        written_here = "labels" in documents  # `aam train` knows the classes as text only
        self.classes_ = np.array(documents["labels"] if written_here else classes_of(self._targets))

    def _take_labels(self, target: pd.DataFrame) -> None:
        known = target.iloc[:, 0].dropna()
        label_of = dict(zip(_texts(known), known.tolist(), strict=True))
        plain = {text: label if isinstance(label, bool | int | float) else text for text, label in label_of.items()}
        self.classes_ = np.unique([plain[text] for text in classes_of(self._targets)])


def _texts(labels: "pd.Series[Any]") -> list[str]:
    """Labels as the model knows them."""
    return list(categorical_column(labels.to_frame("label"), "label"))

"""Fine-tuning for notebooks: regression and classification of a metadata column."""

from __future__ import annotations  # what annotations alone name is not imported

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from aam.config import OutputActivation, TargetTransform
from aam.data.arrays import Floats
from aam.data.files.metadata import categorical_column
from aam.errors import InputError, first_ids
from aam.estimators.base import Kind
from aam.estimators.inputs import MetadataLike, Sequences, TableLike, TargetLike, TreeLike
from aam.estimators.null import frequencies, medians
from aam.estimators.predictor import SamplePredictor
from aam.learners.conformal import listed

if TYPE_CHECKING:
    from aam.estimators.learned import Trained


@dataclass(eq=False, repr=False, kw_only=True)
class SampleRegressor(RegressorMixin, SamplePredictor):  # type: ignore[misc]
    """Predicts a number of every sample.

    ``fit(table, y, tree=...)`` pretrains an encoder on the table and then fine-tunes it; give `encoder` to start from
    one that is pretrained already. A fraction of the samples, `val_fraction`, chooses the best checkpoint in both:
    judge the result on samples that `fit` has not seen at all. In a cross-validation each `fit` pretrains anew, on the
    samples that it is given; an `encoder` that was fitted to all samples has seen, without labels, those of the test.

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
        rarefy_depth: sampling depth; for learners besides the network also ``"auto"``, as many reads as 95 % of the
            samples have.
        root: where the root of the tree of `fit` is; see `SampleEncoder`.
        target_transform: scale on which the number is learned; undone in predictions.
        target_loss: ``huber``, ``mse``, ``mae``, ``quantile`` or ``asymmetric``; or one for each of several targets,
            ``"ph=mse,temperature=huber"``.
        output_activation: ``relu``, ``softplus`` or ``exp``, where the number cannot be negative.
        output_dir: folder for what `aam train` leaves, in ``train`` and ``pretrain`` where both are done; None: nothing
            is left. Every fit of a clone has a folder in it, as with `SampleEncoder`.
        options: any other option of `aam train`, by its name with underscores.

    The other parameters are those of `SampleEncoder`, with smaller defaults. `lr` is that of the head, and None chooses
    it by the width; the encoder learns with a tenth of it (option ``encoder_lr_ratio``).

    Attributes:
        trained_: the model (`trained_.predictor`, a `torch.nn.Module`), the target's scale, and the full config.
            Of another learner its options and what it has learned (`TrainedLearner`).
        history_: losses and metrics by step, as in ``metrics.jsonl`` (after `fit`, not after `load`); empty for
            another learner.
        left_out_: samples that could not be used, with the reason (after `fit`, not after `load`).
        null_: the null prediction, the median of each target; None after `load` of a run of `aam train`.
        sequences_, feature_names_in_, n_features_in_: as of `SampleEncoder`.
    """

    target_transform: TargetTransform | None = None
    target_loss: str | tuple[str, ...] = ("huber",)
    output_activation: OutputActivation = "none"

    kind: ClassVar[Kind] = "SampleRegressor"

    def predict(
        self,
        table: TableLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> Floats:
        """Predict samples: float64 [samples], in the table's order and the target's own units; [samples, T] of several.

        Samples that cannot be used (no reads, fewer than `rarefy_depth`, no ASV that the model knows) get the null
        prediction, the median of the training samples, with a warning, so that scores count them and have no gaps.
        NaN where a run of `aam train` was loaded, which keeps no null prediction. `predictions` gives the reasons, NaN
        for such samples, and all by sample id.
        """
        points = self._filled(table, metadata, sequences, tree).to_numpy(np.float64)
        return points[:, 0] if points.shape[1] == 1 else points

    def predict_interval(
        self,
        table: TableLike,
        *,
        level: float = 0.9,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> NDArray[np.float64]:
        """Intervals that hold the true value of a sample of a new group with a stated probability.

        Only of learners besides the network. Groups are those of option ``group_column``; without it every sample is
        its own. With too few of them for the level, intervals are infinite, and a warning is logged. The method is that
        of `aam.learners.conformal`.

        Args:
            table: feature table of counts.
            level: the probability.
            metadata: as of `predictions`.
            sequences: as of `predictions`.
            tree: as of `predictions`.

        Returns:
            Lower and upper ends in the target's own units and the table's order, float64 [samples, 2]; of several
            targets [samples, T, 2]. NaN for samples that cannot be used.

        Raises:
            InputError: as `predictions`.
        """
        given = self.predictions(table, metadata=metadata, sequences=sequences, tree=tree, level=level)
        names = [column.name for column in self._targets.columns]
        ends = ["low", "high"] if len(names) == 1 else [f"{end}_{name}" for name in names for end in ("low", "high")]
        found = given[ends].to_numpy(np.float64)
        return found if len(names) == 1 else found.reshape(len(found), len(names), 2)

    def score(
        self,
        table: TableLike,
        y: TargetLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> float:
        """R2 of what `predict` gives, over samples with values of `y`; others are logged.

        Of several targets it is the mean.

        Raises:
            InputError: there is no such sample, or `y` or the table is wrong.
        """
        from sklearn.metrics import r2_score

        return float(r2_score(*self._scored(table, y, metadata, sequences, tree)))

    _null_name: ClassVar[str] = "the median of the training samples"

    @property
    def _value_columns(self) -> list[str]:
        columns = self._targets.columns
        return ["prediction"] if len(columns) == 1 else [f"prediction_{column.name}" for column in columns]

    def _answers(self, predicted: pd.DataFrame) -> pd.DataFrame:
        return predicted

    def _null_of(self, target: pd.DataFrame) -> list[float]:
        return medians(target)


@dataclass(eq=False, repr=False, kw_only=True)
class SampleClassifier(ClassifierMixin, SamplePredictor):  # type: ignore[misc]
    """Predicts a class of every sample.

    Works as `SampleRegressor` and has its parameters, but for those of regression.

    Args:
        class_weights: ``balanced`` (inverse frequency), ``effective`` (effective number), or a JSON file of weights.
        stratify: give every side of the split the same fraction of every class; None: as far as small classes allow.

    Attributes:
        classes_: the classes, sorted, as they were in `y` (text where the model was trained by `aam train`).
        null_: the null prediction, the frequency of each class; None after `load` of a run of `aam train`.
        trained_, history_, left_out_, sequences_, feature_names_in_, n_features_in_: as in `SampleRegressor`.
    """

    class_weights: str = "none"
    stratify: bool | None = None

    kind: ClassVar[Kind] = "SampleClassifier"

    def predict(
        self,
        table: TableLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> NDArray[Any]:
        """Predict samples: the most probable of `predict_proba`, classes [samples], in the table's order.

        Raises:
            InputError: as `predict_proba`.
        """
        probabilities = self.predict_proba(table, metadata=metadata, sequences=sequences, tree=tree)
        classes: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return classes

    def predict_proba(
        self,
        table: TableLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> Floats:
        """Probability of every class: float64 [samples, classes], in the order of the table and of `classes_`.

        Samples that cannot be used (no reads, fewer than `rarefy_depth`, no ASV that the model knows) get the null
        prediction, the frequencies of the classes among the training samples, with a warning, so that scores count them
        and have no gaps. `predictions` gives the reasons, and nothing for such samples.

        Raises:
            InputError: table, metadata or tree are wrong; or samples cannot be used, and a run of `aam train` was
                loaded, which keeps no null prediction.
        """
        check_is_fitted(self, "trained_")
        if self.null_ is None:
            predicted = self.predictions(table, metadata=metadata, sequences=sequences, tree=tree)
            unusable = predicted[predicted["prediction"].isna()]
            if len(unusable):
                reasons = ", ".join(unusable["note"].unique())
                raise InputError(
                    f"no class can be predicted for {first_ids(unusable.index)}: {reasons}; "
                    "leave them out, or use predictions(), which gives the reasons beside the predictions of the others"
                )
        return self._filled(table, metadata, sequences, tree).to_numpy(np.float64)

    def predict_set(
        self,
        table: TableLike,
        *,
        level: float = 0.9,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> NDArray[np.bool_]:
        """Sets of classes that hold the true one of a sample of a new group with a stated probability.

        What is said of `SampleRegressor.predict_interval` holds here too; with too few groups every set is full.

        Args:
            table: feature table of counts.
            level: the probability.
            metadata: as of `predictions`.
            sequences: as of `predictions`.
            tree: as of `predictions`.

        Returns:
            Whether the set of a sample holds a class, [samples, classes], in the order of the table and of `classes_`;
            none for samples that cannot be used.

        Raises:
            InputError: as `predictions`.
        """
        given = self.predictions(table, metadata=metadata, sequences=sequences, tree=tree, level=level)
        sets = [set(listed(text)) if isinstance(text, str) else set() for text in given["set"]]
        names = _texts(pd.Series(self.classes_))
        return np.array([[name in each for name in names] for each in sets])

    def score(
        self,
        table: TableLike,
        y: TargetLike,
        *,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
        tree: TreeLike | None = None,
    ) -> float:
        """Accuracy of what `predict` gives, over samples with a value of `y`; others are logged.

        Raises:
            InputError: there is no such sample, or `y` or the table is wrong.
        """
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(*self._scored(table, y, metadata, sequences, tree)))

    _null_name: ClassVar[str] = "the frequencies of the classes among the training samples"

    @property
    def _value_columns(self) -> list[str]:
        return [f"probability_{name}" for name in _texts(pd.Series(self.classes_))]

    def _answers(self, predicted: pd.DataFrame) -> pd.DataFrame:
        names = np.array(_texts(pd.Series(self.classes_)), dtype=object)
        return pd.DataFrame({"prediction": names[predicted.to_numpy().argmax(axis=1)]}, index=predicted.index)

    def _null_of(self, target: pd.DataFrame) -> list[float]:
        return frequencies(target.iloc[:, 0], _texts(pd.Series(self.classes_)))

    def _documents(self) -> dict[str, Any]:
        return super()._documents() | {"labels": self.classes_.tolist()}

    def _take_model(self, trained: Trained, documents: Mapping[str, Any]) -> None:
        super()._take_model(trained, documents)
        written_here = "labels" in documents  # `aam train` knows the classes as text only
        known = self._targets.only.require_classes().classes
        self.classes_ = label_array(documents["labels"] if written_here else known)

    def _take_labels(self, target: pd.DataFrame) -> None:
        known = target.iloc[:, 0].dropna()
        label_of = dict(zip(_texts(known), known.tolist(), strict=True))
        plain = {text: label if isinstance(label, bool | int | float) else text for text, label in label_of.items()}
        self.classes_ = np.unique(label_array([plain[text] for text in self._targets.only.require_classes().classes]))


def label_array(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels as numpy has them, but for whole numbers that it would round to have them beside other numbers."""
    array = np.array(labels)
    return np.array(labels, dtype=object) if array.dtype.kind == "f" and array.tolist() != list(labels) else array


def _texts(labels: pd.Series[Any]) -> list[str]:
    """Labels as the model knows them."""
    return list(categorical_column(labels.to_frame("label"), "label"))

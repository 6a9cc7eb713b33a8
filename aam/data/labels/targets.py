"""Targets as the model learns them: numbers on a scale fitted to the training samples, classes as indices."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np
import pandas as pd

from aam.config import TargetTransform
from aam.data.arrays import Bools, Floats, Ints, Texts
from aam.data.files.artifacts import read_json_object
from aam.data.labels.loss_weights import checked_weights, effective_weight, mean_one, weights_of_all
from aam.errors import InputError, first_ids


@dataclass(frozen=True)
class TargetScaler:
    """An invertible scale for a numeric target: ``(f(value) - offset) / scale``.

    ``f`` is the natural ``log(1 + value)`` for the kinds ``log-minmax`` and ``log-zscore``, and the identity otherwise.

    Attributes:
        kind: which transform.
        offset: minimum (minmax) or mean (zscore) of ``f`` over the training samples; 0 for ``none``, and where zero
            must stay zero. Of samples that have scales of their own, [samples].
        scale: range (minmax) or population standard deviation (zscore) of ``f``; 1 for ``none``. Likewise.
    """

    kind: TargetTransform
    offset: float | Floats
    scale: float | Floats

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetTransform):
            raise ValueError(f"unknown target transform {self.kind!r}")

    @classmethod
    def fit(
        cls,
        values: Floats,
        kind: TargetTransform,
        sample_ids: Sequence[str] | None = None,
        keeps_zero: bool = False,
    ) -> Self:
        """Fit the scale to the targets of the training samples, and of no others.

        Args:
            values: targets [samples].
            kind: which transform.
            sample_ids: ids of the samples, for messages [samples].
            keeps_zero: divide by the spread and shift nothing, so that what is not negative stays so, to the last bit.

        Raises:
            InputError: there is no value, one is missing or infinite, a logarithm is undefined, or all are equal.
        """
        values = np.asarray(values, dtype=np.float64)
        _require(np.isfinite(values), values, sample_ids, "the target is missing or infinite: leave those samples out")
        scaled = _logarithm(values, kind, sample_ids) if kind.startswith("log-") else values
        if scaled.size == 0:
            raise InputError("no training sample has a value of the target")
        if scaled.min() == scaled.max():
            raise InputError(
                f"the target is {values[0]!s} in all {values.size} training samples: there is nothing to learn;"
                " choose another column or split"
            )
        offset, scale = _location_and_scale(scaled, kind)
        if not 0 < scale < np.inf:
            raise InputError(f"the spread of the target ({scale}) is beyond float64: give it in other units")
        return cls(kind, 0.0 if keeps_zero else offset, scale)

    def transform(self, values: Floats, sample_ids: Sequence[str] | None = None) -> Floats:
        """Bring targets in their own units to the scale that is learned; missing values stay missing.

        Raises:
            InputError: a logarithm is undefined (a value at or below -1).
        """
        values = np.asarray(values, dtype=np.float64)
        if self.kind.startswith("log-"):
            values = _logarithm(values, self.kind, sample_ids)
        return (values - self.offset) / self.scale

    def inverse(self, scaled: Floats) -> Floats:
        """Bring predictions on the learned scale back to the target's own units."""
        values = np.asarray(scaled, dtype=np.float64) * self.scale + self.offset
        return np.expm1(values) if self.kind.startswith("log-") else values

    def to_json(self) -> str:
        """JSON text that `from_json` turns into an equal scaler, to the last bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a scaler from `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class ClassEncoder:
    """Class names and their indices.

    Attributes:
        classes: names, sorted as text; the index of a class is its place here.
    """

    classes: tuple[str, ...]

    @classmethod
    def fit(cls, labels: Sequence[str]) -> Self:
        """Collect the classes of the training samples.

        Raises:
            InputError: a label is missing, or there are fewer than two classes.
        """
        classes = tuple(sorted(set(_text(labels))))
        if len(classes) < 2:
            raise InputError(
                f"a classifier needs at least two classes; the training samples have {first_ids(classes) or 'none'}"
            )
        return cls(classes)

    def encode(self, labels: Sequence[str], sample_ids: Sequence[str] | None = None) -> Ints:
        """Indices of labels [samples], whose ids messages name.

        Raises:
            InputError: a label is missing or is no class of the training samples.
        """
        names = _text(labels)
        index = {name: number for number, name in enumerate(self.classes)}
        unseen = sorted(set(names) - set(index))
        if unseen:
            ids = _names(len(names), sample_ids)
            of_these = [sample for sample, name in zip(ids, names, strict=True) if name not in index]
            raise InputError(
                f"class without a training sample: {first_ids(unseen)} (samples {first_ids(of_these)}); known are "
                f"{first_ids(self.classes, 20)}; leave the others out with --where COLUMN={','.join(self.classes[:20])}"
                ", or split with --stratify if they have two samples or more each"
            )
        return np.array([index[name] for name in names], dtype=np.int64)

    def with_unseen(self, labels: Sequence[str]) -> Self:
        """These classes and, after them, those of labels that have no training sample."""
        return type(self)((*self.classes, *sorted(set(_text(labels)) - set(self.classes))))

    def decode(self, codes: Ints) -> Texts:
        """Class names of indices [samples]."""
        return np.array(self.classes)[codes]

    def balanced_weights(self, labels: Sequence[str]) -> Floats:
        """Weight of each class, ``samples / (classes * samples of the class)`` [classes].

        The mean weight over the samples is 1, and every class has the same total weight (King & Zeng 2001, Logistic
        regression in rare events data; scikit-learn's ``balanced``).

        Raises:
            InputError: a label is unknown, or a class has no sample here.
        """
        counts = self._counts(labels)
        weights: Floats = counts.sum() / (len(self.classes) * counts)
        return weights

    def effective_weights(self, labels: Sequence[str], beta: float) -> Floats:
        """Weight of each class by its effective number of samples, with mean 1 over the samples [classes].

        Raises:
            InputError: a label is unknown, or a class has no sample here.
        """
        counts = self._counts(labels)
        return mean_one(effective_weight(counts, beta), counts)

    def given_weights(self, path: Path | str) -> Floats:
        """Weight of each class as a JSON file ``{class: weight}`` says, 1 for those that it lacks [classes].

        Raises:
            InputError: the file is wrong or names a class that is not there, or a weight is negative or not finite.
        """
        where = f"--class-weights {path}"
        weights = checked_weights(read_json_object(path, "--class-weights"), where)
        return np.array(list(weights_of_all(weights, self.classes, where).values()))

    def _counts(self, labels: Sequence[str]) -> Ints:
        """Samples of each class, one at least [classes]."""
        counts = np.bincount(self.encode(labels), minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            raise InputError(f"class without a sample to weigh it by: {first_ids(empty)}")
        return counts

    def to_json(self) -> str:
        """JSON text that `from_json` turns into an equal encoder."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild an encoder from `to_json`."""
        return cls(tuple(json.loads(text)["classes"]))


def _location_and_scale(values: Floats, kind: TargetTransform) -> tuple[float, float]:
    if kind == "none":
        return 0.0, 1.0
    if kind.endswith("minmax"):
        return float(values.min()), float(values.max() - values.min())
    return float(values.mean()), float(values.std())


def _logarithm(values: Floats, kind: TargetTransform, sample_ids: Sequence[str] | None) -> Floats:
    # Written as a negation so that missing values, which compare false, pass.
    problem = f"--target-transform {kind} takes log(1 + value), which needs values above -1: choose another transform"
    _require(~(values <= -1), values, sample_ids, problem)
    logarithm: Floats = np.log1p(values)
    return logarithm


def _require(valid: Bools, values: Floats, sample_ids: Sequence[str] | None, problem: str) -> None:
    if valid.all():
        return
    names = _names(values.size, sample_ids)
    wrong = [f"{names[row]} ({values[row]})" for row in np.flatnonzero(~valid).tolist()]
    raise InputError(f"{problem}; samples: {first_ids(wrong)}")


def _names(count: int, sample_ids: Sequence[str] | None) -> Sequence[str]:
    return [f"row {row + 1}" for row in range(count)] if sample_ids is None else sample_ids


def _text(labels: Sequence[str]) -> list[str]:
    missing = np.flatnonzero(pd.isna(np.asarray(labels, dtype=object)))
    if missing.size:
        rows = first_ids(missing + 1)
        raise InputError(f"{missing.size} samples have no class (rows {rows}): leave those samples out")
    return [str(label) for label in labels]

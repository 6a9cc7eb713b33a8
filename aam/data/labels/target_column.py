"""One metadata column as the model learns it and as users read it."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.special import softmax

from aam.config import TargetConfig, TargetLoss
from aam.data.arrays import Floats
from aam.data.labels.group_scales import GroupScales
from aam.data.labels.targets import ClassEncoder, TargetScaler
from aam.errors import InputError, first_ids


@dataclass(frozen=True)
class TargetColumn:
    """Name of a column, and how its values become what the model predicts: a scaled number, or classes."""

    name: str
    scale: TargetScaler | None = None
    """For regression."""
    groups: GroupScales | None = None
    """For regression where categories have scales of their own."""
    classes: ClassEncoder | None = None
    """For classification."""
    loss: TargetLoss = "huber"
    """Of a number."""
    quantiles: tuple[float, ...] = ()
    """Levels whose quantiles are predicted; empty where one number is."""
    start: float = 0.0
    """Mean of the training samples on a scale that keeps zero: where predictions of a limited range begin."""

    def require_classes(self) -> ClassEncoder:
        """The classes, where a caller cannot do without.

        Raises:
            ValueError: numbers are predicted.
        """
        if self.classes is None:
            raise ValueError(f"{self.name} is a number, which has no classes")
        return self.classes

    def require_scale(self) -> TargetScaler:
        """The scale, where a caller cannot do without.

        Raises:
            ValueError: classes are predicted.
        """
        if self.scale is None:
            raise ValueError(f"{self.name} has classes, which have no scale")
        return self.scale

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a sample."""
        return len(self.classes.classes) if self.classes is not None else max(1, len(self.quantiles))

    @property
    def point(self) -> int:
        """Which of the outputs is the prediction itself: the median of quantiles."""
        return self.quantiles.index(0.5) if self.quantiles else 0

    @classmethod
    def fit(cls, values: "pd.Series[Any]", metadata: pd.DataFrame, config: TargetConfig) -> Self:
        """Fit scale or classes to the training samples.

        Args:
            values: of the training samples, by sample id and named as the column; none is missing.
            metadata: by sample id.
            config: transform, loss and range.

        Raises:
            InputError: the values are constant, of one class, or outside of what transform or range take.
        """
        name = str(values.name)
        if config.classifier:
            return cls(name, classes=ClassEncoder.fit(list(values)))
        numbers = values.to_numpy(np.float64)
        limited = config.bounded_targets or config.output_activation != "none"
        scale = TargetScaler.fit(numbers, config.transform, list(values.index), keeps_zero=limited)
        groups = None
        if config.normalize_by:
            groups = GroupScales.fit(values, metadata, config.normalize_by, scale)
        loss = config.losses[name]
        quantiles = config.levels if loss == "quantile" else ()
        start = float(scale.transform(numbers).mean()) if limited else 0.0
        return cls(name, scale, groups, loss=loss, quantiles=quantiles, start=start)

    def encode(self, values: "pd.Series[Any]", metadata: pd.DataFrame) -> Floats:
        """Bring values to the learned scale, or to class indices: float64 [samples], NaN where missing.

        Raises:
            InputError: a logarithm is undefined, or a class has no training sample.
        """
        if self.classes is not None:
            known = values.dropna()
            codes = pd.Series(self.classes.encode(list(known), list(known.index)), index=known.index)
            return codes.reindex(values.index).to_numpy(np.float64)
        return self._scale_of(metadata.loc[list(values.index)]).transform(
            values.to_numpy(np.float64), list(values.index)
        )

    def decode(self, outputs: Floats, metadata: pd.DataFrame) -> pd.DataFrame:
        """Make a table of predictions.

        Args:
            outputs: what the model gives, [samples, K].
            metadata: a row for each sample, in their order; without columns where no category has a scale of its own.

        Returns:
            By sample id: a column ``prediction``, in the target's own units or the most probable class; for quantiles
            also a column ``quantile_SHARE`` each, for classes ``probability_NAME``.
        """
        index = pd.Index(list(metadata.index), name="sample_id")
        if self.classes is not None:
            probabilities = softmax(outputs, axis=1)
            columns: dict[str, Any] = {"prediction": self.classes.decode(outputs.argmax(axis=1))}
            names = [f"probability_{name}" for name in self.classes.classes]
            return pd.DataFrame(columns | dict(zip(names, probabilities.T, strict=True)), index=index)
        scale = self._scale_of(metadata)
        values = [scale.inverse(column) for column in outputs.T]
        columns = {"prediction": values[self.point]}
        if self.quantiles:
            columns |= {f"quantile_{level:g}": value for level, value in zip(self.quantiles, values, strict=True)}
        return pd.DataFrame(columns, index=index)

    def spread(self, outputs: Floats, spread: Floats, metadata: pd.DataFrame) -> Floats:
        """Bring standard deviations of numbers on the learned scale to the column's own units [samples].

        Of a logarithm it is half of what lies between one deviation below and one above.
        """
        scale = self._scale_of(metadata)
        half: Floats = (scale.inverse(outputs + spread) - scale.inverse(outputs - spread)) / 2
        return half

    def around(self, outputs: Floats, reach: Floats | float, metadata: pd.DataFrame) -> tuple[Floats, Floats]:
        """Ends of intervals that reach equally far to both sides on the learned scale, in own units [samples]."""
        scale = self._scale_of(metadata)
        return scale.inverse(outputs - reach), scale.inverse(outputs + reach)

    def _scale_of(self, metadata: pd.DataFrame) -> TargetScaler:
        return self.require_scale() if self.groups is None else self.groups.of(metadata)

    def to_json(self) -> dict[str, Any]:
        """JSON document for the checkpoint."""
        return {
            "name": self.name,
            "scale": self.scale.to_json() if self.scale is not None else None,
            "groups": self.groups.to_json() if self.groups is not None else None,
            "classes": self.classes.to_json() if self.classes is not None else None,
            "loss": self.loss,
            "quantiles": list(self.quantiles),
            "start": self.start,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Rebuild from `to_json`."""
        scale, groups, classes = document["scale"], document["groups"], document["classes"]
        return cls(
            document["name"],
            TargetScaler.from_json(scale) if scale is not None else None,
            GroupScales.from_json(groups) if groups is not None else None,
            ClassEncoder.from_json(classes) if classes is not None else None,
            document["loss"],
            tuple(document["quantiles"]),
            document["start"],
        )


def check_range(values: "pd.Series[Any]", config: TargetConfig) -> None:
    """Refuse targets that predictions of a limited range cannot reach; missing ones pass.

    Raises:
        InputError: a value is negative, or not between 0 and 1.
    """
    if config.bounded_targets:
        wrong, what = values[(values < 0) | (values > 1)], "--bounded-targets predicts between 0 and 1"
        remedy = "divide the column by what its values are shares of"
    elif config.output_activation != "none":
        wrong = values[values < 0]
        what, remedy = (
            f"--output-activation {config.output_activation} predicts nothing negative",
            "leave the option out",
        )
    else:
        return
    if len(wrong):
        named = first_ids(f"{sample} ({value:g})" for sample, value in wrong.items())
        raise InputError(f"{what}, and column {values.name!r} has other values: samples {named}; {remedy}")

"""What is known of samples besides their reads, as sources of features for kernels: columns of the metadata.

A `Wanted` says what is to be learned from, and `learn` makes of the training samples a `Described`, which gives the
features of any samples. A kernel on them:

- of a categorical column: the fraction of the levels (the column, its parent, and so on up the hierarchy) on which two
  samples agree. A value that is missing, or that training has not seen, agrees with no other sample's; the sample still
  agrees with itself, so that its variance holds what such a category may be.
- of a numeric column: exp(-d^2 / h) of its standardised values, h the median of d^2. A missing one is taken for the
  mean of the training samples.

The embedding of an encoder is the business of a floor above, as the network is; that floor adds it to `DESCRIBED`.

Shapes: n samples of the basis, m samples compared with them, F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from aam.config.learners import LearnersConfig
from aam.data.categorical import KNOWN, CategoryEncoder, parse_hierarchy
from aam.data.files.metadata import numeric_column
from aam.data.labels.hierarchy import ancestors
from aam.data.study import Study
from aam.errors import InputError, first_ids
from aam.learners.base import Arrays, Floats
from aam.learners.kernel_features import Places, Products, Rule, Samples


class Described(ABC):
    """Something that is known of samples, as learned from the training samples; a `Source` with a kernel of its own."""

    kind: ClassVar[str]
    """Under which it is stored."""
    rule: ClassVar[Rule]

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the source, and of its kernel; no two are called alike, nor as a kernel of reads."""

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata that samples must have."""
        return ()

    @abstractmethod
    def features(self, study: Study, rows: Places) -> Floats:
        """Features of samples of a study [m, F], which do not depend on its other samples.

        Raises:
            InputError: the study lacks what they come from.
        """

    def meet(self, study: Study) -> None:  # noqa: B027  # embeddings have nothing to say
        """Say what is unusual about new samples; see `Solution.meet`."""

    def compare(self, features: Floats, others: Floats) -> Products:
        """Inner products of features [m, F] with those of the basis [n, F]."""
        own, own_others = np.square(features).sum(axis=1), np.square(others).sum(axis=1)
        return Products(features @ others.T, own, own_others)

    def side(self, basis: Samples) -> "_DescribedSide":
        """See `Source`."""
        return _DescribedSide(self, basis.described[self.name])

    def arrays(self) -> Arrays:
        """What `restore` needs, as arrays."""
        return {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """Rebuild it; its features are the same to the last bit."""


@dataclass(frozen=True, eq=False)
class _DescribedSide:
    """Features of the samples of a basis; see `Side`."""

    source: Described
    rows: Floats
    """[n, F]."""

    def products(self, samples: Samples) -> Products:
        """See `Side`."""
        return self.source.compare(samples.described[self.source.name], self.rows)


class Wanted(ABC):
    """Something to learn from besides reads."""

    @property
    @abstractmethod
    def metadata_columns(self) -> tuple[str, ...]:
        """Columns of the metadata that are read."""

    @abstractmethod
    def learn(self, study: Study, rows: Places) -> Described:
        """Learn from some samples of a study, and from nothing else of it."""

    @abstractmethod
    def check(self, study: Study, rows: Places) -> None:
        """Look at some samples before any work.

        Raises:
            InputError: a column is not there, or has nothing to learn from.
        """


def describe(described: Sequence[Described], study: Study, rows: Places) -> dict[str, Floats]:
    """Features of samples of a study, by the name of their source [m, F]."""
    return {one.name: one.features(study, rows) for one in described}


def metadata_of(study: Study, columns: Sequence[str]) -> pd.DataFrame:
    """The metadata of a study.

    Raises:
        InputError: there is none.
    """
    if study.metadata is None:
        raise InputError(f"the model reads columns of the metadata ({first_ids(columns)}): give --metadata")
    return study.metadata


@dataclass(frozen=True, eq=False)
class Categorical(Described):
    """A categorical column with the columns above it."""

    kind: ClassVar[str] = "categorical"
    rule: ClassVar[Rule] = "inner"
    encoder: CategoryEncoder
    """The column, its parent, and so on [F]."""

    @property
    def name(self) -> str:
        """See `Described`."""
        return f"categorical {self.encoder.columns[0]}"

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Described`; parents are filled in."""
        return self.encoder.needed

    def features(self, study: Study, rows: Places) -> Floats:
        """Indices of categories, as of `CategoryEncoder.codes` [m, F]."""
        return self.encoder.codes(metadata_of(study, self.metadata_columns).iloc[rows]).astype(np.float64)

    def meet(self, study: Study) -> None:
        """Say which categories training has not seen."""
        self.encoder.encode(metadata_of(study, self.metadata_columns))

    def compare(self, features: Floats, others: Floats) -> Products:
        """Shares of levels that agree [m, n]: inner products of indicators of categories, over their number."""
        agreed = np.zeros((len(features), len(others)))
        for one, other in zip(features.T, others.T, strict=True):
            agreed += (one[:, None] == other) & (other >= KNOWN)
        return Products(agreed / features.shape[1], np.ones(len(features)), np.ones(len(others)))

    def settings(self) -> dict[str, Any]:
        """The categories."""
        return {"categories": self.encoder.to_json()}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `Described`."""
        return cls(CategoryEncoder.from_json(settings["categories"]))


@dataclass(frozen=True)
class WantedCategory(Wanted):
    """A categorical column."""

    levels: tuple[str, ...]
    """The column, its parent, and so on."""

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Wanted`."""
        return self.levels

    def learn(self, study: Study, rows: Places) -> Categorical:
        """Collect the categories."""
        return Categorical(CategoryEncoder.of_levels(metadata_of(study, self.levels).iloc[rows], self.levels))

    def check(self, study: Study, rows: Places) -> None:
        """See `Wanted`."""
        encoder = self.learn(study, rows).encoder
        if not encoder.values[0]:
            raise InputError(_nothing_in("--categorical-columns", self.levels[0], len(rows)))


@dataclass(frozen=True)
class Numeric(Described):
    """A column of numbers."""

    kind: ClassVar[str] = "numeric"
    rule: ClassVar[Rule] = "gaussian"
    column: str
    mean: float
    scale: float
    """Standard deviation of the training samples."""

    @property
    def name(self) -> str:
        """See `Described`."""
        return f"numeric {self.column}"

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Described`."""
        return (self.column,)

    def features(self, study: Study, rows: Places) -> Floats:
        """Standardised values, 0 where missing [m, 1]."""
        values = _numbers(study, self.column, rows)
        return np.where(np.isnan(values), 0.0, (values - self.mean) / self.scale)[:, None]

    def meet(self, study: Study) -> None:
        """Refuse what is no number, wherever it is."""
        _numbers(study, self.column, np.arange(study.table.n_samples))

    def settings(self) -> dict[str, Any]:
        """The column and its scale."""
        return {"column": self.column, "mean": self.mean, "scale": self.scale}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `Described`."""
        return cls(settings["column"], settings["mean"], settings["scale"])


@dataclass(frozen=True)
class WantedNumber(Wanted):
    """A column of numbers."""

    column: str

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Wanted`."""
        return (self.column,)

    def learn(self, study: Study, rows: Places) -> Numeric:
        """Take mean and standard deviation; 0 and 1 where no value is known, and 1 where all are alike."""
        values = _numbers(study, self.column, rows)
        known = values[~np.isnan(values)]
        if not len(known):
            return Numeric(self.column, 0.0, 1.0)
        alike = known.min() == known.max()  # whose standard deviation may be rounded to a little more than 0
        return Numeric(self.column, float(known.mean()), 1.0 if alike else float(known.std()))

    def check(self, study: Study, rows: Places) -> None:
        """See `Wanted`."""
        if np.isnan(_numbers(study, self.column, rows)).all():
            raise InputError(_nothing_in("--numeric-columns", self.column, len(rows)))


def _numbers(study: Study, column: str, rows: Places) -> Floats:
    """Values of a column, NaN where missing [m]."""
    metadata = metadata_of(study, (column,)).iloc[rows]
    return np.asarray(numeric_column(metadata, column, "name it in --categorical-columns"), np.float64)


def _nothing_in(option: str, column: str, samples: int) -> str:
    return f"{option} {column}: it has no value in any of the {samples} samples; leave it out"


DESCRIBED: dict[str, type[Described]] = {"categorical": Categorical, "numeric": Numeric}
"""Classes by kind."""


def restore_described(settings: Mapping[str, Any], arrays: Arrays) -> Described:
    """Rebuild what was stored under its kind.

    Raises:
        InputError: it is of a kind that is not known here.
    """
    kind = settings["kind"]
    if kind not in DESCRIBED:
        raise InputError(f"the model compares samples by {kind}, which this part of aam does not know: `aam predict`")
    return DESCRIBED[kind].restore(settings, arrays)


def wanted_columns(config: LearnersConfig) -> tuple[Wanted, ...]:
    """The columns of the metadata that options name.

    Raises:
        InputError: the hierarchy is wrong.
    """
    parents = parse_hierarchy(config.categories)
    categories = [
        WantedCategory((column, *ancestors(column, parents))) for column in config.categories.categorical_columns
    ]
    return (*categories, *map(WantedNumber, config.kernel.numeric_columns))

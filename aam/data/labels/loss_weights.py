"""How much a sample counts in the loss, by its categories."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from aam.config import LossWeightConfig
from aam.data.arrays import Floats, Ints
from aam.data.files.artifacts import read_json_object
from aam.data.files.metadata import categorical_column
from aam.errors import InputError, first_ids, quoted

logger = logging.getLogger(__name__)


MISSING = "(missing)"
"""Name of the category of samples without a value."""

_SHOWN = 100


def effective_weight(count: ArrayLike, beta: float) -> Floats:
    """Inverse of the effective number of samples, ``(1 - beta) / (1 - beta**n)``, of numbers n of any shape.

    From 1 for every n (beta 0) to 1 / n (the limit of beta 1), and exact in between, however close to 1 (Cui et al.
    2019, Class-balanced loss based on effective number of samples).

    Raises:
        ValueError: a count is not above 0, or beta is not between 0 and 1.
    """
    counts = np.asarray(count, dtype=np.float64)
    if not (counts > 0).all() or not 0 <= beta <= 1:
        raise ValueError(f"an effective number needs samples and a beta from 0 to 1, not {counts} and {beta}")
    if beta == 0:
        return np.ones_like(counts)
    if beta == 1:
        return 1 / counts
    # 1 - beta**n would lose all its digits where beta is near 1.
    weights: Floats = (1 - beta) / -np.expm1(counts * np.log(beta))
    return weights


def mean_one(weights: Floats, counts: ArrayLike) -> Floats:
    """Bring the weights of categories to mean 1 over their samples [categories]."""
    numbers = np.asarray(counts, dtype=np.float64)
    scaled: Floats = weights * (numbers.sum() / (weights * numbers).sum())
    return scaled


@dataclass(frozen=True)
class CategoryWeights:
    """Weights by column and category, fitted on the training samples.

    Attributes:
        kind: ``auto``, ``effective`` or ``file``.
        weights: column -> category -> weight.
        counts: column -> category -> training samples.
        scale: what the product of a sample's weights is multiplied by, so that its mean over the training samples is 1.
    """

    kind: str
    weights: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, Mapping[str, int]]
    scale: float

    @classmethod
    def fit(
        cls,
        metadata: pd.DataFrame,
        train: Ints,
        config: LossWeightConfig,
        default_columns: Sequence[str],
    ) -> Self | None:
        """Weigh the categories by how rare they are in training, or as a file says; logs the table.

        Args:
            metadata: all samples of the study, as `read_metadata` returns it.
            train: rows of the training samples.
            config: how.
            default_columns: what is weighed where the config names no column.

        Returns:
            None where the config asks for no weights.

        Raises:
            InputError: a column is not there or named twice, the file is wrong, or all training samples have weight 0.
        """
        source = config.categorical_loss_weights
        if source == "none":
            return None
        by_count = source in ("auto", "effective")
        given = {} if by_count else _read(source, config.categorical_loss_weight_column)
        columns = list(config.categorical_loss_weight_column or default_columns) if by_count else list(given)
        _refuse_columns(columns)
        texts = {column: _texts(metadata, column) for column in columns}
        trained = {column: Counter(texts[column][row] for row in train.tolist()) for column in columns}
        counts = {column: dict(sorted(of_column.items())) for column, of_column in trained.items()}
        if by_count:
            weights = {column: _by_count(counts[column], config) for column in columns}
        else:
            weights = {column: _as_given(given[column], texts[column], source, column) for column in columns}
        fitted = cls("file" if not by_count else source, weights, counts, _scale(_product(texts, weights)[train]))
        logger.info("weights of samples by category:\n%s", fitted.table())
        return fitted

    def of(self, metadata: pd.DataFrame) -> Floats:
        """Weight of every sample: the product over the columns, times the scale [samples].

        A category that is not known counts 1 in the product.

        Raises:
            InputError: a column is not there.
        """
        texts = {column: _texts(metadata, column) for column in self.weights}
        return _product(texts, self.weights) * self.scale

    def rows(self) -> list[tuple[str, str, int, float]]:
        """Column, category, its training samples and its weight, before the scale."""
        return [
            (column, category, self.counts[column].get(category, 0), weight)
            for column, weights in self.weights.items()
            for category, weight in weights.items()
        ]

    def table(self) -> str:
        """The rows as aligned text, and the scale."""
        head = ("column", "category", "training samples", "weight")
        rows = self.rows()
        lines = [head, *((column, name, str(count), f"{weight:.4g}") for column, name, count, weight in rows[:_SHOWN])]
        left, middle, right, _ = (max(map(len, cells)) for cells in zip(*lines, strict=True))
        shown = [f"{a:<{left}}  {b:<{middle}}  {c:>{right}}  {d}" for a, b, c, d in lines]
        shown += [f"... ({len(rows)} in all)"] if len(rows) > _SHOWN else []
        product = "the product" if len(self.weights) > 1 else "the weight"
        return "\n".join([*shown, f"{product} is multiplied by {self.scale:.4g}: mean 1 over the training samples"])

    def to_json(self) -> dict[str, Any]:
        """JSON document for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild equal weights from `to_json`."""
        return cls(**document)


def checked_weights(given: object, where: str) -> dict[str, float]:
    """Weights by name as a JSON file gives them, which messages name by `where`.

    Raises:
        InputError: it is not ``{name: number}``, a number is negative or not finite, or all are 0.
    """
    if not isinstance(given, dict) or not given:
        raise InputError(f'{where}: {{"category": weight}} is wanted, not {quoted(given)}')
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InputError(f"{where}: the weight of {quoted(name)} is {quoted(weight)}; a number is wanted")
        if not 0 <= weight <= sys.float_info.max:
            raise InputError(f"{where}: the weight of {quoted(name)} is {weight}; weights are finite, 0 or more")
    if not any(given.values()):
        raise InputError(f"{where}: all weights are 0; some samples must count")
    return {name: float(weight) for name, weight in given.items()}


def weights_of_all(given: Mapping[str, float], known: Sequence[str], where: str) -> dict[str, float]:
    """Weights of all known categories in their order, 1 for those that are not given, which a warning lists.

    Raises:
        InputError: a category is given that is not known.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(
            f"{where}: the data have no {first_ids(map(repr, unknown))}; they have {first_ids(known, limit=20)}"
        )
    without = [name for name in known if name not in given]
    if without:
        logger.warning("%s: no weight for %s; they count 1", where, first_ids(map(repr, without), limit=20))
    return {name: given.get(name, 1.0) for name in known}


def _read(path: str, columns: Sequence[str]) -> dict[str, Any]:
    """Content of the file of weights, whose columns are those of the option, where that is given."""
    content = read_json_object(path, "--categorical-loss-weights")
    if not content:
        raise InputError(f'--categorical-loss-weights {path}: no column; write {{"column": {{"category": weight}}}}')
    if columns and set(columns) != set(content):
        raise InputError(
            f"--categorical-loss-weight-column {','.join(columns)} contradicts --categorical-loss-weights {path}, "
            f"which has weights for {', '.join(content)}: leave the column out, or name the same ones"
        )
    return content


def _refuse_columns(columns: Sequence[str]) -> None:
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise InputError(f"--categorical-loss-weight-column names {twice[0]} twice")
    if not columns:
        raise InputError("--categorical-loss-weights needs --categorical-loss-weight-column: which categories?")


def _texts(metadata: pd.DataFrame, column: str) -> list[str]:
    return [MISSING if text is None else text for text in categorical_column(metadata, column)]


def _by_count(counts: Mapping[str, int], config: LossWeightConfig) -> dict[str, float]:
    """Weight of each category, with mean 1 over the training samples, so that 1 is apt for an unknown one."""
    numbers = np.array(list(counts.values()), dtype=np.float64)
    effective = config.categorical_loss_weights == "effective"
    weights = mean_one(effective_weight(numbers, config.effective_beta) if effective else 1 / numbers, numbers)
    return dict(zip(counts, weights.tolist(), strict=True))


def _as_given(given: object, texts: Sequence[str], path: str, column: str) -> dict[str, float]:
    """Weights of a file for all categories of the data; one for missing values need not apply to any."""
    where = f"--categorical-loss-weights {path}, column {column}"
    weights = checked_weights(given, where)
    known = sorted(set(texts))
    if MISSING not in known:
        weights.pop(MISSING, None)
    return weights_of_all(weights, known, where)


def _product(texts: Mapping[str, Sequence[str]], weights: Mapping[str, Mapping[str, float]]) -> Floats:
    """Product of the weights of each sample; in the order of names, so that it is the same from a checkpoint."""
    factors = [[weights[column].get(text, 1.0) for text in texts[column]] for column in sorted(weights)]
    with np.errstate(over="ignore"):  # refused by `_scale`
        products: Floats = np.prod(np.array(factors, dtype=np.float64), axis=0)
    return products


def _scale(products: Floats) -> float:
    """One over the mean of the training samples."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(products.sum())
    scale = len(products) / total if total > 0 else 0.0
    if not 0 < scale < np.inf:
        raise InputError(
            f"--categorical-loss-weights: the weights of the {len(products)} training samples add up to {total}; give "
            "weights between 0 and, say, 1000, and one above 0 to some training samples"
        )
    return scale

"""Where predictions are wrong: errors of samples by any property of them.

Shapes: n samples, C classes.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.evaluation.intervals import Floats, GroupBootstrap
from aam.evaluation.scores import log_losses

BINS: Final = 5
"""Parts of equally many samples that a property of numbers is divided into."""
MOST_VALUES: Final = 12
"""Values up to which a property is taken as categories."""
LEAST_SAMPLES: Final = 5
"""Samples that a category must have on average to be looked at."""


def number_errors(true: Floats, predicted: Floats) -> pd.DataFrame:
    """Errors of predicted numbers: columns ``error`` (its size) and ``bias`` (predicted less true), in their unit."""
    return pd.DataFrame({"error": np.abs(predicted - true), "bias": predicted - true})


def class_errors(true: NDArray[np.int64], probability: Floats) -> pd.DataFrame:
    """Errors of predicted classes: columns ``error`` (1 where the likeliest class is wrong) and ``log_loss``.

    Args:
        true: places of the classes [n].
        probability: [n, C].
    """
    wrong = (probability.argmax(axis=1) != true).astype(np.float64)
    return pd.DataFrame({"error": wrong, "log_loss": log_losses(true, probability)})


def errors_by(
    errors: pd.DataFrame, values: NDArray[np.generic], groups: NDArray[np.str_], seed: int = 42, bins: int = BINS
) -> pd.DataFrame:
    """Mean errors of the samples of each value of a property, such as a column of the metadata, or the depth.

    Args:
        errors: a row for each sample, as of `number_errors` or `class_errors`.
        values: of each sample [n]: text (None or empty where missing), or numbers, which are put into `bins` parts of
            about equally many samples.
        groups: what is independent, of each sample [n]: a subject, or the sample itself.
        seed: of the bootstrap.
        bins: parts of a property of numbers.

    Returns:
        A row for each value: ``value``, ``samples``, ``groups``, the means of the columns of `errors`, and ``low`` and
        ``high``, the 95 % interval of the mean of ``error`` by bootstrap over groups (Efron & Tibshirani 1993), NaN
        where there are too few groups.
    """
    names = categories_of(values, bins)
    rows = []
    for name in [name for name in dict.fromkeys(names.cat.categories) if (names == name).any()]:
        of_value = (names == name).to_numpy()
        part, own = errors[of_value], groups[of_value]
        boot = GroupBootstrap.of(own, seed)
        counts = boot.sums(np.ones(len(own)))
        interval = boot.interval(boot.sums(part["error"].to_numpy(np.float64)) / counts)
        means = {str(column): float(value) for column, value in part.mean().items()}
        head: dict[str, Any] = {"value": str(name), "samples": int(of_value.sum()), "groups": boot.groups}
        rows.append({**head, **means, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows, columns=["value", "samples", "groups", *errors.columns, "low", "high"])


def categories_of(values: NDArray[np.generic], bins: int = BINS) -> "pd.Series[str]":
    """A property as ordered categories: numbers of more than a few values in parts; missing ones are NaN."""
    plain = pd.Series(values)
    if not pd.api.types.is_numeric_dtype(plain.dtype):
        text = plain.astype(object).where(plain.notna() & (plain != ""), None)
        return pd.Series(pd.Categorical(text, categories=sorted(set(text.dropna().astype(str)))))
    if plain.nunique() <= bins:
        steps = sorted(plain.dropna().unique())
        return pd.Series(pd.Categorical(plain.map(plain_number), categories=[plain_number(step) for step in steps]))
    parts = pd.qcut(plain, bins, duplicates="drop")
    labels = []
    for part in parts.cat.categories:
        low, high = (plain_number(end) for end in (plain[parts == part].min(), plain[parts == part].max()))
        labels.append(f"{low}" if low == high else f"{low} to {high}")
    names = [None if code < 0 else labels[code] for code in parts.cat.codes]
    return pd.Series(pd.Categorical(names, categories=list(dict.fromkeys(labels))))


def plain_number(value: float) -> str | None:
    """A number with up to four digits, as the end of a range is read; None where there is none."""
    return None if pd.isna(value) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def spread_explained(errors: "pd.Series[float]", values: NDArray[np.generic]) -> float:
    """How much of the variance of errors lies between the values of a property, beyond what chance gives.

    Omega squared (Hays 1963), which does not grow with the number of values by itself: 0 where means are as equal as
    they are by chance, 1 where each value has one error. NaN where it is undefined.
    """
    names = categories_of(values)
    known = names.notna().to_numpy()
    y, codes = errors.to_numpy(np.float64)[known], names.cat.codes.to_numpy()[known]
    count, parts = len(y), len(set(codes.tolist()))
    if parts < 2 or count <= parts or np.ptp(y) == 0:
        return float("nan")
    means = pd.Series(y).groupby(codes).transform("mean").to_numpy()
    between, within = float(((means - y.mean()) ** 2).sum()), float(((y - means) ** 2).sum())
    noise = within / (count - parts)
    return max(0.0, (between - (parts - 1) * noise) / (between + within + noise))


def telling_columns(errors: "pd.Series[float]", metadata: pd.DataFrame) -> pd.DataFrame:
    """Columns of the metadata that can be told apart, by how much of the errors they explain.

    Args:
        errors: size of the error of each sample [n].
        metadata: a row for each of them, in their order.

    Returns:
        Columns ``column`` and ``explained`` (`spread_explained`), the most telling first. It is a search: with many
        columns some explain a little by chance.
    """
    rows = [
        (str(name), spread_explained(errors, metadata[name].to_numpy()))
        for name in metadata.columns
        if _is_usable(metadata[name])
    ]
    table = pd.DataFrame(rows, columns=["column", "explained"]).dropna()
    return table.sort_values("explained", ascending=False, kind="stable", ignore_index=True)


def _is_usable(values: "pd.Series[Any]") -> bool:
    """Whether a column is known of most samples, and has several values, each of several samples, or numbers."""
    known = values.dropna()
    if len(known) < len(values) / 2:
        return False
    if pd.api.types.is_numeric_dtype(values.dtype):
        return known.nunique() > 1
    return 2 <= known.nunique() <= MOST_VALUES and len(known) >= LEAST_SAMPLES * known.nunique()

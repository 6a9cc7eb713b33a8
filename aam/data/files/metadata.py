"""Sample metadata by the rules of QIIME 2 (https://docs.qiime2.org, "Metadata in QIIME 2").

`skbio.metadata.SampleMetadata` implements the format. Two things are added: the id header ``sample_id``, which is
common outside QIIME 2, and that the INSDC terms for missing values (``not applicable``, ``missing``, ``not collected``,
``not provided``, ``restricted access``) are missing in every column, unless a ``#q2:missing`` row says otherwise. And
whole numbers that float64 would change, as ids are, stay text.
"""

import csv
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aam.data.files.artifacts import read_text
from aam.errors import InputError, first_ids, shown

_KIND = "sample metadata"
_INDEX = "sample_id"
_MISSING = "INSDC:missing"
_WHOLE = re.compile(r"[+-]?([0-9]+)(\.0*)?")
_LIKE_AN_ID = re.compile(r"\t[\s\"+-]*(0[0-9]|[0-9]{16})")
"""A cell that may be a whole number which float64 changes: most files have none, and are read once."""


def read_metadata(path: Path | str) -> pd.DataFrame:
    """Read sample metadata from tab-separated text, plain or gzipped: a row for each sample.

    The index holds the ids as text, numeric columns are float64 (NaN where missing), others object (text, None where
    missing). A column with whole numbers that float64 would change (``007``, or beyond 2^53) is text, which
    `numeric_column` reads as numbers where it is asked for.

    Raises:
        InputError: the file cannot be read or breaks a rule of the format.
    """
    from skbio.metadata import SampleMetadata  # noqa: PLC0415  # takes seconds, and what reads no metadata does without
    from skbio.metadata.io import MetadataFileError  # noqa: PLC0415

    text = _accept_sample_id(read_text(path, _KIND))
    try:
        types = dict.fromkeys(_changed_by_float64(text), "categorical") if _LIKE_AN_ID.search(text) else {}
        metadata = SampleMetadata.load(io.StringIO(text, newline=""), types, default_missing_scheme=_MISSING)
    except MetadataFileError as error:
        # without the general advice that scikit-bio appends, on one line
        reason = shown(str(error).split("\n\nThere may be more errors")[0])
        raise InputError(f"{_KIND} {path}: {reason}") from None
    except ValueError as error:  # what Python reads as a number and pandas does not: other digits, or too many
        raise InputError(
            f"{_KIND} {path}: {shown(error)}; write numbers with the digits 0 to 9, and not with thousands of them, or "
            "declare the column categorical in a row of #q2:types"
        ) from None
    except csv.Error as error:
        raise InputError(f"{_KIND} {path}: {error}; look for an unpaired quote") from None
    frame: pd.DataFrame = metadata.to_dataframe()
    columns = {name: _plain_missing(frame[name]) for name in frame.columns}
    return pd.DataFrame(columns, index=pd.Index(frame.index, name=_INDEX, dtype=object))


def _changed_by_float64(text: str) -> list[str]:
    """Columns of numbers with whole ones that float64 changes: it drops leading zeros, and rounds beyond 2^53."""
    guessed = _cells(text, {})
    numeric = [str(name) for name in guessed if not any(isinstance(cell, str) for cell in guessed[name])]
    cells = _cells(text, dict.fromkeys(numeric, "categorical"))
    found = {name: map(_WHOLE.fullmatch, cells[name].dropna()) for name in numeric}
    return [name for name, numbers in found.items() if any(_is_changed(number[1]) for number in numbers if number)]


def _cells(text: str, types: dict[str, str]) -> pd.DataFrame:
    """The columns by their types, or as their cells look; not checked any further."""
    from skbio.metadata.io import MetadataReader  # noqa: PLC0415

    cells: pd.DataFrame = MetadataReader(io.StringIO(text, newline="")).read(
        lambda frame, **_: frame, types, default_missing_scheme=_MISSING
    )
    return cells


def _is_changed(digits: str) -> bool:
    padded = len(digits) > 1 and digits.startswith("0")
    return padded or len(digits) > 308 or (len(digits) > 15 and int(float(digits)) != int(digits))


def _accept_sample_id(text: str) -> str:
    """Rename the id header ``sample_id``, which QIIME 2 does not list, to ``sample-id``."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        first, tab, rest = line.partition("\t")
        if first.strip().strip('"').lower() == "sample_id":
            lines[number] = ("sample-id\t" if tab else "sample-id\n") + rest
        if line.strip() and not line.startswith("#"):
            break
    return "".join(lines)


def _plain_missing(values: "pd.Series[Any]") -> "pd.Series[Any]":
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.astype(np.float64)
    return values.astype(object).where(values.notna(), None)


def _column(metadata: pd.DataFrame, column: str) -> "pd.Series[Any]":
    if column not in metadata.columns:
        names = [str(name) for name in metadata.columns]
        lowered = {name.lower(): name for name in names}
        close = [lowered[name] for name in difflib.get_close_matches(column.lower(), lowered)]
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"{_KIND}: no column {column!r}; {hint}columns: {first_ids(names, limit=30) or 'none'}")
    values = metadata[column]
    if isinstance(values, pd.DataFrame):
        raise InputError(f"{_KIND}: {values.shape[1]} columns are named {column!r}; rename them")
    return values


def numeric_column(
    metadata: pd.DataFrame, column: str, otherwise: str = "predict classes with --classifier"
) -> "pd.Series[float]":
    """A column of metadata as numbers: float64 by sample id, NaN where missing; numbers stored as text are converted.

    Raises:
        InputError: the column is not there, or holds something else than finite numbers; `otherwise` says what to do.
    """
    values = _column(metadata, column)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = values[values.notna() & ~np.isfinite(numbers)]
    if len(bad):
        shown = first_ids(f"{value!r} (sample {sample_id})" for sample_id, value in bad.items())
        raise InputError(
            f"{_KIND}: column {column!r} is not numeric: {shown}; leave missing values blank, or {otherwise}"
        )
    return numbers


def categorical_column(metadata: pd.DataFrame, column: str) -> "pd.Series[Any]":
    """A column of metadata as text by sample id (object), None where missing.

    Numbers are written as short as they are exact: 1.0 as ``1``.

    Raises:
        InputError: the column is not there.
    """
    values = _column(metadata, column)
    texts = [None if pd.isna(value) else _as_text(value) for value in values]
    return pd.Series(texts, index=values.index, name=column, dtype=object)


def _as_text(value: object) -> str:
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)


def select_where(metadata: pd.DataFrame, clauses: Sequence[str]) -> pd.DataFrame:
    """The samples whose metadata agree with every clause; a missing value agrees with none.

    Args:
        metadata: as `read_metadata` returns it.
        clauses: each ``COLUMN=VALUE`` or ``COLUMN=VALUE,VALUE``; a value with a comma in it goes in double quotes.

    Raises:
        InputError: a clause is malformed, names an unknown column or a value that it lacks, or no sample is left.
    """
    agree = pd.Series(True, index=metadata.index)
    for clause in clauses:
        column, wanted = _parse_clause(metadata, clause)
        values = categorical_column(metadata, column)
        known = set(values.dropna())
        wanted = [_spelling(metadata[column], value) for value in wanted]
        unknown = [value for value in wanted if value not in known]
        if unknown:
            raise InputError(
                f"--where {clause}: column {column!r} has no {first_ids(map(repr, unknown))}; "
                f"it has {first_ids(sorted(known), limit=20) or 'only missing values'}"
            )
        agree &= values.isin(wanted)
    if clauses and not agree.any():
        raise InputError(f"no sample of the metadata agrees with {' and '.join(f'--where {c}' for c in clauses)}")
    return metadata[agree]


def _parse_clause(metadata: pd.DataFrame, clause: str) -> tuple[str, list[str]]:
    """Column and values; where column names hold ``=``, the longest one that is there."""
    cuts = [place for place, letter in enumerate(clause) if letter == "="]
    if not cuts:
        raise InputError(f"--where {clause}: write COLUMN=VALUE or COLUMN=VALUE,VALUE")
    cut = next((cut for cut in reversed(cuts) if clause[:cut] in metadata.columns), cuts[0])
    _column(metadata, clause[:cut])
    values = next(csv.reader([clause[cut + 1 :]], skipinitialspace=True), [])
    wanted = [value.strip() for value in values if value.strip()]
    if not wanted:
        raise InputError(f"--where {clause}: no value after '='")
    return clause[:cut], wanted


def _spelling(values: "pd.Series[Any]", wanted: str) -> str:
    """How `categorical_column` writes the wanted value, so that ``6.0`` finds the number 6."""
    if not pd.api.types.is_numeric_dtype(values.dtype):
        return wanted
    try:
        return _as_text(float(wanted))
    except ValueError:
        return wanted

"""Tables of results by sample or ASV id."""

import os
from pathlib import Path

import pandas as pd

from aam.errors import InputError


def check_output(path: Path, option: str = "--output") -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        InputError: the folder is missing or cannot be written, or the path is a folder.
    """
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it, such as {path / 'table.tsv'}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: the folder {folder} cannot be written; choose another place")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table, its index first, as tab-separated text; a reader sees the whole file or none."""
    draft = path.with_name(f".{path.name}.tmp")
    table.to_csv(draft, sep="\t", float_format="%.6g", compression="gzip" if path.suffix == ".gz" else None)
    draft.replace(path)

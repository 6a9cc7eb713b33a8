"""Tables of results by sample or ASV id, and where results may be written."""

import gzip
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Final, TextIO

import pandas as pd

from aam.config import RunConfig, flag
from aam.data.files.whole_files import check_parent, whole_file
from aam.errors import InputError
from aam.workflows.folder import check_spares_run, input_paths

SEPARATORS: Final = {"": "\t", ".tsv": "\t", ".txt": "\t", ".csv": ","}
"""Between the cells of a table, by the ending of its file, which may be followed by ``.gz``."""
PARQUET: Final = ".parquet"


def check_tables(outputs: Mapping[str, Path | None], parquet: bool = True) -> None:
    """Refuse tables in formats that are not written, before any work is done; the ending of a file decides its format.

    Args:
        outputs: the files to write, by the name of their option; None where the option was not given.
        parquet: whether Parquet can be written, as `write_parts` cannot.

    Raises:
        InputError: an ending is of no format, or a library for it is missing.
    """
    for option, path in outputs.items():
        if path is None:
            continue
        ending = _ending(path)
        if ending == PARQUET and parquet and path.suffix.lower() == PARQUET:
            if find_spec("pyarrow") is None:
                raise InputError(f"{flag(option)} {path}: Parquet needs a library: pip install 'aam[parquet]'")
        elif ending not in SEPARATORS:
            others = f", or {PARQUET}" if parquet else ""
            raise InputError(
                f"{flag(option)} {path}: no table is written as {ending}{'.gz' if _is_gzipped(path) else ''}; name a "
                f"file that ends in .tsv, .txt, .csv (each may be followed by .gz){others}"
            )


def _ending(path: Path) -> str:
    """Ending of a file that says what is in it, in lower case: that before ``.gz``; empty where there is none."""
    name = path.with_suffix("") if _is_gzipped(path) else path
    return name.suffix.lower()


def _is_gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def check_outputs(config: RunConfig, outputs: Mapping[str, Path | None], overwrite: bool) -> None:
    """Refuse files that cannot or should not be written, before any work is done.

    Args:
        config: the options of the command; the files that they name as input are never written over, nor the files of
            a run that they name (`check_spares_run`).
        outputs: the files to write, by the name of their option; None where the option was not given.
        overwrite: whether files that are there already may be replaced.

    Raises:
        InputError: a folder is missing or cannot be written, a path is a folder, a device, a pipe, a socket or a file
            that is to stay, or two options name one file.
    """
    asked = {option: path for option, path in outputs.items() if path is not None}
    for (one, path), (other, same) in combinations(asked.items(), 2):
        if path.resolve() == same.resolve():
            raise InputError(f"{flag(one)} and {flag(other)} both name {path}; name two files")
    for option, path in asked.items():
        _check_place(option, path)
        for source, read in input_paths(config):
            if path.resolve() == read.resolve():
                raise InputError(f"{flag(option)} {path} is the file of {flag(source)}; name another file")
        check_spares_run(option, path, config)
        if path.exists() and not overwrite:
            raise InputError(f"{flag(option)} {path} exists; replace it with --overwrite, or name another file")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table, its index first, in the format of the file's ending; a reader sees the whole file or none.

    Text has six digits of a number, Parquet all that there are.
    """
    with whole_file(path) as draft:
        if _ending(path) == PARQUET:
            table.reset_index().to_parquet(draft, engine="pyarrow", index=False)
        else:
            with _open_text(draft, _is_gzipped(path)) as file:
                table.to_csv(file, sep=SEPARATORS[_ending(path)], float_format="%.6g")


def write_parts(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """Write the parts of a long table, made one at a time, as text like that of `write_table`; without their index."""
    with whole_file(path) as draft, _open_text(draft, _is_gzipped(path)) as file:
        for number, part in enumerate(parts):
            part.to_csv(file, sep=SEPARATORS[_ending(path)], float_format="%.6g", index=False, header=number == 0)


def _open_text(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return gzip.open(path, "wt", encoding="utf-8", newline="")
    return path.open("w", encoding="utf-8", newline="")


def _check_place(option: str, path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{flag(option)} {path} is a folder; name a file in it, such as {path / 'table.tsv'}")
    if _is_no_file(path):
        raise InputError(
            f"{flag(option)} {path} is a device, a pipe or a socket, which a file of results would replace; name a file"
        )
    check_parent(path, f"{flag(option)} {path}")


def _is_no_file(path: Path) -> bool:
    """Whether a path is no regular file, or has a name that is the system's: /dev/stdout may lead to a file today."""
    place = path.parent.resolve() / path.name
    of_system = any(place.is_relative_to(folder) for folder in ("/dev", "/proc"))
    return (of_system and not place.is_relative_to("/dev/shm")) or (path.exists() and not path.is_file())

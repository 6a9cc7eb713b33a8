"""Files that a reader sees whole or not at all: written beside their place, then renamed."""

import glob
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from aam.errors import InputError

_LONGEST: Final = 180
"""Bytes of a name that a draft's name still has room for."""


def draft_path(path: Path) -> Path:
    """A new name under which a file is written first, of this writer alone; it ends as the name of the file does."""
    return path.with_name(f"{_draft_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


def leftovers_of(path: Path) -> list[Path]:
    """What writers of a file left beside it that were killed, or are writing now."""
    pattern = f"{glob.escape(_draft_prefix(path))}*-*"
    return sorted(path.parent.glob(pattern))


def _draft_prefix(path: Path) -> str:
    name = os.fsencode(path.name)
    if len(name) > _LONGEST:  # no name may have more than 255 bytes
        return f".tmp-{hashlib.sha256(name).hexdigest()}-"
    return f".tmp-{path.name}-"


def refusal(folder: Path) -> str | None:
    """Why no file can be made in a folder, in the system's words; None where one can.

    It is tried, as /proc and some network disks grant what they then refuse; nothing is left.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def check_parent(path: Path, called: str) -> None:
    """Refuse a place in a folder that is missing, or in which no file can be made.

    Args:
        path: what is to be written.
        called: what messages call it, such as an option with its value.

    Raises:
        InputError: so it is.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{called}: there is no folder {folder}; make it first")
    refused = refusal(folder)
    if refused is not None:
        raise InputError(f"{called}: the folder {folder} cannot be written ({refused}); choose another place")


def check_new_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be written, or made where there is none yet; nothing is made.

    Raises:
        InputError: it is a file, or it or the nearest folder above it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{option} {folder} is a file; name a folder")
    present = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not present.is_dir() or not os.access(present, os.R_OK):
        raise InputError(
            f"{option} {folder}: {present} cannot be written (no folder, or not to be read); name another folder"
        )
    refused = refusal(present)
    if refused is not None:
        raise InputError(f"{option} {folder}: {present} cannot be written ({refused}); name another folder")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write to the path that this yields; it takes its place when the block ends, and goes if the block fails."""
    draft = draft_path(path)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has no word for.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")

"""Files that a reader sees whole or not at all: written beside their place, then renamed."""

import glob
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def draft_path(path: Path) -> Path:
    """A new name under which a file is written first, of this writer alone; it ends as the name of the file does."""
    return path.with_name(f"{_draft_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


def leftovers_of(path: Path) -> list[Path]:
    """What writers of a file left beside it that were killed, or are writing now."""
    pattern = f"{glob.escape(_draft_prefix(path))}*-*"
    return sorted(path.parent.glob(pattern))


def _draft_prefix(path: Path) -> str:
    return f".tmp-{path.name}-"


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

"""Files that a reader sees whole or not at all: written beside their place, then renamed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def draft_path(path: Path) -> Path:
    """Name under which a file is written first; what a kill leaves there belongs to nobody."""
    return path.with_name(f".tmp-{path.name}")


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

"""Texts and paths that no file system, or no file of results, can take."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from aam.errors import InputError, shown

_NO_PLACE: Final = {errno.ELOOP, errno.ENAMETOOLONG}


def check_texts(options: Iterable[tuple[str, Any]]) -> None:
    """Refuse texts that are not UTF-8, and paths that lead nowhere: too long, or symlinks in a circle.

    Args:
        options: values, or tuples of them, by what messages call them.

    Raises:
        InputError: there is one.
    """
    for name, value in options:
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str | Path):
                _check_text(name, str(each))
            if isinstance(each, Path):
                _check_path(name, each)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} {shown(text)}: this is not text in UTF-8; rename it") from None
    if "\0" in text:
        raise InputError(f"{name} {shown(text)}: a text cannot hold the character of code 0")


def _check_path(name: str, path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise InputError(f"{name} {shown(path)}: {error.strerror}; name another place") from None

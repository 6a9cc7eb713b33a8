"""TOML files of options, as text in and values out."""

import tomllib
from pathlib import Path
from typing import Any

from aam.errors import InputError, shown


def read_toml(path: Path, what: str, example: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.
        what: what it is, for messages, such as ``--configs FILE``.
        example: a line as it should be, such as ``trees = 1000``.

    Raises:
        InputError: it cannot be read or is not TOML; the message says why.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{what}: lists or tables are nested too deep; write lines such as {example}") from None
    except ValueError as error:  # TOML, UTF-8, and numbers of too many digits, which are of no kind of their own
        raise InputError(f"{what} is not TOML: {shown(error)}; write lines such as {example}") from None

"""The exceptions whose message alone tells the user what to do."""

import re
from collections.abc import Iterable
from typing import ClassVar, Final

QUOTED: Final = 200
"""Characters of a cell, or of what another program says, that a message quotes at most."""
_OPTION: Final = re.compile(r"(`[^`]*`)|(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
"""A command in backquotes, which stays as it is, or an option."""
_IN_PYTHON: Final = {
    "rep_seqs": "sequences",
    "metadata_column": "y",
    "pretrained_encoder": "encoder",
    "interval": "level",
    **{name: f'options={{"{name}": True}}' for name in ("drop_missing_sequences", "drop_missing_tips", "overwrite")},
}
"""Options that the estimators have under another name, and flags, which they have only as `options`."""


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The command line prints the message alone and exits with code 2. A defect in aam is never raised as an `InputError`,
    so that it stays a loud traceback.

    Messages name options as the command line does, ``--rarefy-depth``. Floors below do not know who speaks to the user:
    in Python the same message names the parameter, ``rarefy_depth``.
    """

    names_options: ClassVar[bool] = False
    """Whether the command line speaks to the user; it says so when it begins."""

    def __str__(self) -> str:
        message = "".join(map(_visible, super().__str__()))
        return message if InputError.names_options else _OPTION.sub(_parameter, message)


def shown(text: object, limit: int = QUOTED) -> str:
    """What a message quotes of a cell, or of another program's words: on one line, and cut where it is long.

    A word, or a text in quotes, of more characters than the limit is cut by itself, so that what is said after it
    stays, as far as five times the limit.
    """
    line = " ".join(str(text).split())
    line = re.sub(rf"(?<!\w)'([^']{{{limit - 3}}})[^']{{4,}}'", r"'\1...'", line)
    line = re.sub(rf"(\S{{{limit - 3}}})\S{{4,}}", r"\1...", line)
    return line if len(line) <= 5 * limit else f"{line[: 5 * limit - 3]}..."


def quoted(cell: object, limit: int = QUOTED) -> str:
    """A cell in quotes, control characters escaped, and cut where it is long."""
    text = repr(cell)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _visible(letter: str) -> str:
    """A character as a terminal may show it: those that steer one, or turn the writing around, are escaped."""
    return letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1]


def _parameter(found: re.Match[str]) -> str:
    """The parameter that an option is in Python."""
    if found[1]:
        return found[1]
    name = found[2].replace("-", "_")
    return _IN_PYTHON.get(name, name)


class UnusableSamplesError(InputError):
    """None of the samples of a table can be used: they have no reads, too few, or none that a model knows."""


class ReportedInputError(InputError):
    """An `InputError` that another process of the run tells the user of, so that this one need not."""


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no longer a number; the command line prints the message alone and exits with code 1."""


class StoppedBySignalError(RuntimeError):
    """A signal ended the run after a checkpoint; exit code 75, by which a scheduler knows to start it again."""


class PeerFailedError(RuntimeError):
    """Another process of the run has failed; the message is what it said, `code` the exit code it asks for."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def first_ids(ids: Iterable[object], limit: int = 5) -> str:
    """Join the first few ids for a message, shortening long sequences: ``a, b, c, ... (12 in all)``."""
    names = [str(name) for name in ids]
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:limit]]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > limit else "")

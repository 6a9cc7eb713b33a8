"""The exceptions whose message alone tells the user what to do."""

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The command line prints the message alone and exits with code 2. A defect in aam is never raised as an `InputError`,
    so that it stays a loud traceback.
    """


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no longer a number; the command line prints the message alone and exits with code 1."""


def first_ids(ids: Iterable[object], limit: int = 5) -> str:
    """Join the first few ids for a message, shortening long sequences: ``a, b, c, ... (12 in all)``."""
    names = [str(name) for name in ids]
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:limit]]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > limit else "")

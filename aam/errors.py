"""The exceptions whose message alone tells the user what to do."""

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The command line prints the message alone and exits with code 2. A defect in aam is never raised as an `InputError`,
    so that it stays a loud traceback.
    """


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

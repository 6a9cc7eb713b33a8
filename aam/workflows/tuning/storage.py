"""Where the trials of a tuning are kept: Optuna's journal, or a database."""

import fcntl
import os
from pathlib import Path
from typing import Final

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from aam.config import TuneConfig
from aam.errors import InputError
from aam.training.run_folder import RunFolder

PATIENCE: Final = 60
"""Seconds to wait for a SQLite file that another process writes."""
LINE: Final = b'{"op_code":'
"""How lines of a journal begin."""


class FileLock(JournalFileOpenLock):
    """A lock that the system takes from a process that is killed.

    Those of Optuna are files that a kill leaves behind. Others wait half a minute then, and with a relative path for
    ever, as the link that is the lock points to nothing.

    Args:
        journal: beside which the locked file is.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._path = journal.with_name(f"{journal.name}.flock")
        self._held: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; where files cannot be locked, which `Seat.moment` tells, there is none."""
        self._held = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX)
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Give the lock back."""
        assert self._held is not None, "released as often as it was acquired"
        os.close(self._held)
        self._held = None


def open_storage(config: TuneConfig, folder: RunFolder) -> BaseStorage:
    """Open what keeps the trials, and make it if it is not there.

    Raises:
        InputError: it cannot be opened, or is something else.
    """
    named = config.tuning.study
    place = str(folder.study) if named is None else named
    try:
        if "://" in place:
            patience = {"connect_args": {"timeout": PATIENCE}} if place.startswith("sqlite:") else None
            return RDBStorage(place, engine_kwargs=patience)
        lock = FileLock(Path(place))
        _cut_unfinished(Path(place), lock)
        return JournalStorage(JournalFileBackend(place, lock))
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--study {place}: this database cannot be opened ({reason})") from None
    except OSError as error:
        raise InputError(f"--study {place}: this file cannot be written ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"--study {place}: this file is damaged, or no journal of trials; name another, or start anew"
        ) from None


def _cut_unfinished(path: Path, lock: FileLock) -> None:
    """Drop the last line of a journal that a kill left unfinished, before another is written behind it."""
    if not path.is_file() or not path.read_bytes().startswith(LINE):
        return
    lock.acquire()  # nobody who lives is in the middle of a line then
    try:
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()

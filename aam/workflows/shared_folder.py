"""One output folder in which several processes, of one machine or of many, do the work of one run together."""

import fcntl
import logging
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from aam.config import ResumableConfig, RunConfig
from aam.data.files.whole_files import leftovers_of, write_text
from aam.errors import InputError
from aam.training.checkpoints.files import delete
from aam.training.provenance import recorded
from aam.training.run_folder import RunFolder
from aam.workflows.folder import check_contents, check_folder, session_of, set_aside, try_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Seat:
    """The place of one process among those that work in a folder.

    The system lets go of the locks of a process when it ends, however it ends: so the others know that it is gone.
    """

    folder: RunFolder
    presence: IO[str]
    """Locked by all of them, for as long as they live."""
    turn: IO[str]
    """Locked by one of them, for a moment."""
    name: str
    """Of this process."""

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Hold the others off what is done within."""
        with ExitStack() as stack:
            try:
                fcntl.flock(self.turn, fcntl.LOCK_EX)
                stack.callback(fcntl.flock, self.turn, fcntl.LOCK_UN)
            except OSError as error:  # some network file systems
                logger.warning("%s cannot be locked (%s): start no second process", self.folder, error.strerror)
            yield

    def is_alive(self, name: str) -> bool:
        """Whether a process works here, by the name of its seat; to be called within `moment`."""
        path = self.folder.workers / name
        if name == self.name:
            return True
        if not path.is_file():
            return False
        with path.open("a") as file:
            if not _locks(file, fcntl.LOCK_EX):
                return True
            path.unlink()
            return False

    def sit_down(self) -> None:
        """Be one of those who work here.

        Raises:
            InputError: a run wants the folder for itself.
        """
        if not _locks(self.presence, fcntl.LOCK_SH):
            raise InputError(
                f"--output-dir {self.folder}: another run is writing there; wait for it, or name another folder"
            )


def _locks(file: IO[str], kind: int) -> bool:
    """Lock a file if nobody else holds it; where files cannot be locked, which `Seat.moment` tells, it counts as so."""
    try:
        return try_lock(file, kind)
    except OSError:
        return True


def joined(output: ResumableConfig) -> ResumableConfig:
    """The options of a folder as they are for a process that comes to others at work: it continues what they do.

    Raises:
        InputError: it would replace what they do.
    """
    folder = RunFolder(output.output_dir)
    if not folder.lock.exists():
        return output
    with folder.lock.open("a") as presence:
        return _as_one_of_them(output, alone=_locks(presence, fcntl.LOCK_EX))


def _as_one_of_them(output: ResumableConfig, alone: bool) -> ResumableConfig:
    if alone or output.resume:
        return output
    if output.overwrite:
        raise InputError(f"--overwrite: another process works in {output.output_dir}; wait for it, or stop it")
    return output.model_copy(update={"resume": True})


def check_shared_folder(config: RunConfig, output: ResumableConfig) -> None:
    """As `check_folder`, of a folder where others with the same options may be at work.

    Raises:
        InputError: it cannot be used.
    """
    check_folder(config, joined(output), shared=True)


@contextmanager
def work_together(config: RunConfig, output: ResumableConfig) -> Iterator[Seat]:
    """Begin the work of a folder, continue it, or join those who are at it.

    Raises:
        InputError: the folder holds something else, or a run wants it for itself.
    """
    folder = RunFolder(output.output_dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("a") as presence, folder.begin.open("a") as turn:
        seat = Seat(folder, presence, turn, secrets.token_hex(8))
        with seat.moment():
            alone = _locks(presence, fcntl.LOCK_EX)
            seat.sit_down()
            begun = folder.config.exists()
            _begin(config, _as_one_of_them(output, alone), folder)
            if alone:
                delete(folder.replaced)
            folder.workers.mkdir(exist_ok=True)
            own = (folder.workers / seat.name).open("a")
            _locks(own, fcntl.LOCK_EX)
        try:
            with recorded(folder, session_of(config, folder, resumed=begun and not output.overwrite), seat.moment):
                yield seat
        finally:
            (folder.workers / seat.name).unlink(missing_ok=True)
            own.close()


def _begin(config: RunConfig, output: ResumableConfig, folder: RunFolder) -> None:
    check_contents(config, output)
    if output.resume:
        return
    set_aside(folder)
    for draft in leftovers_of(folder.config):
        delete(draft)
    write_text(folder.config, config.model_dump_json(indent=2) + "\n")

"""One output folder in which several processes, of one machine or of many, do the work of one run together."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from aam.config import ResumableConfig, RunConfig
from aam.data.files.whole_files import leftovers_of, write_text
from aam.errors import InputError
from aam.training.checkpoints.files import delete
from aam.training.run_folder import RunFolder
from aam.workflows.folder import check_contents, check_folder, set_aside, try_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Seat:
    """The place of one process among those that work in a folder.

    The system lets go of the locks of a process when it ends, however it ends; so a process that is alone knows that
    whatever is marked as being computed by another was left by a dead one.
    """

    folder: RunFolder
    presence: IO[str]
    """Locked by all of them, for as long as they live."""
    turn: IO[str]
    """Locked by one of them, for a moment."""

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

    def is_alone(self) -> bool:
        """Whether no other process works here; to be called within `moment`."""
        alone = self._locks(fcntl.LOCK_EX)
        self.sit_down()
        return alone

    def sit_down(self) -> None:
        """Be one of those who work here.

        Raises:
            InputError: a run wants the folder for itself.
        """
        if not self._locks(fcntl.LOCK_SH):
            raise InputError(
                f"--output-dir {self.folder}: another run is writing there; wait for it, or name another folder"
            )

    def _locks(self, kind: int) -> bool:
        try:
            return try_lock(self.presence, kind)
        except OSError:  # told by `moment`
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
        return _as_one_of_them(output, alone=Seat(folder, presence, presence)._locks(fcntl.LOCK_EX))


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
        seat = Seat(folder, presence, turn)
        with seat.moment():
            alone = seat.is_alone()
            own = _as_one_of_them(output, alone)
            check_contents(config, own)
            if not own.resume:
                set_aside(folder)
                for draft in leftovers_of(folder.config):
                    delete(draft)
                write_text(folder.config, config.model_dump_json(indent=2) + "\n")
            if alone:
                delete(folder.replaced)
        yield seat

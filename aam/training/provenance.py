"""Where results come from: a run folder's ``provenance.json``, and the document ``provenance`` of a checkpoint.

Every session of a run (its start, and each time it is resumed) adds a `Session`. What is no property of the results
(time, machine, number of processes) stays in the folder: the document of a checkpoint has the rest, so that equal runs
write equal bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Literal, Self

from pydantic import ValidationError

from aam.config.launch import invocation
from aam.data.files.whole_files import write_json
from aam.errors import InputError, StoppedBySignalError
from aam.training.checkpoints.files import delete, entry_of
from aam.training.checkpoints.hub import fetched
from aam.training.checkpoints.store import manifest_of
from aam.training.machine.surroundings import GitState, Machine, Software, Stored
from aam.training.run_folder import RunFolder

DOCUMENT: Final = "provenance"
"""Name of the document in a checkpoint."""
FORMAT: Final = 1
LASTING: Final = frozenset({"command", "software", "inputs", "seed", "git"})
"""What of a session goes into checkpoints."""

Lock = Callable[[], AbstractContextManager[object]]
Ended = Literal["finished", "failed", "stopped by a signal"]


class InputFile(Stored):
    """A file that was read."""

    name: str
    """Without its folder; of a model of the Hugging Face Hub, what it is called there."""
    bytes: int | None = None
    sha256: str | None = None
    """Of its content; of a checkpoint, of its manifest, which has the hashes of all its files."""
    note: str | None = None
    """Why there is no hash."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Hash a file as it is now, without holding it in memory."""
        if path.is_file():
            entry = entry_of(path)
            return cls(name=path.name, bytes=entry.bytes, sha256=entry.sha256)
        if path.is_dir():
            return cls._of_checkpoint(path, path.name)
        if (of_hub := fetched(path)) is not None:
            return cls._of_checkpoint(of_hub, str(path))
        return cls(name=path.name, note="no regular file" if path.exists() else "not there any more")

    @classmethod
    def _of_checkpoint(cls, path: Path, name: str) -> Self:
        try:
            digest = entry_of(manifest_of(path)).sha256
        except InputError:  # a resumed run does not read it again
            return cls(name=name, note="a folder without a checkpoint")
        return cls(name=name, sha256=digest, note="SHA-256 of the manifest of the checkpoint")


class Session(Stored):
    """One time that a command worked on a run."""

    id: str
    command: str | None
    """The command line; None where aam was called from Python."""
    resumed: bool
    software: Software
    inputs: dict[str, list[InputFile]]
    """By option."""
    seed: int | None
    git: GitState | None
    """Of the working directory; None where it is in no repository."""
    machine: Machine
    processes: int
    """That computed together."""
    started: datetime
    """UTC."""
    seconds: float | None = None
    """How long it took; None while it runs, and after a kill."""
    ended: Ended | None = None

    @classmethod
    def begin(cls, inputs: Iterable[tuple[str, Path]], seed: int | None, processes: int, resumed: bool) -> Self:
        """Look around, and hash the files that are read."""
        begun = invocation()
        files: dict[str, list[InputFile]] = {}
        for option, path in inputs:
            files.setdefault(option, []).append(InputFile.of(path))
        return cls(
            id=token_hex(4),
            command=begun.command,
            resumed=resumed,
            software=Software.installed(),
            inputs=files,
            seed=seed,
            git=GitState.of(Path.cwd()),
            machine=Machine.of_this_process(),
            processes=processes,
            started=begun.started.replace(microsecond=0),
        )

    def lasting(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        return self.model_dump(mode="json", include=set(LASTING))


class Provenance(Stored):
    """What ``provenance.json`` holds."""

    format: int = FORMAT
    data: dict[str, Any] | None = None
    """What was learned from: see `aam.workflows.summary.Summary`."""
    sessions: tuple[Session, ...] = ()

    def document(self) -> dict[str, Any]:
        """The document of a checkpoint: a session with the software and files of the one before adds nothing.

        So a run that was stopped and resumed writes the bytes of one that was not.
        """
        kept: list[dict[str, Any]] = []
        for session in self.sessions:
            lasting = session.lasting()
            if not kept or _is_other(lasting, kept[-1]):
                kept.append(lasting)
        return {"format": FORMAT, "sessions": kept}


def _is_other(session: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether anything but the command has changed; what a session does not read again has not."""
    same = all(session[name] == before[name] for name in ("software", "seed", "git"))
    return not same or any(before["inputs"].get(option) != files for option, files in session["inputs"].items())


def read_provenance(folder: RunFolder) -> Provenance | None:
    """Read what a folder says; None for one that an earlier aam wrote.

    Raises:
        InputError: the file is damaged.
    """
    path = folder.provenance
    if not path.exists():
        return None
    try:
        return Provenance.model_validate_json(path.read_bytes())
    except ValidationError:
        raise InputError(
            f"{path} is damaged (not the provenance of a run): delete it, and all else is still there"
        ) from None


def checkpoint_document(folder: RunFolder) -> dict[str, Any]:
    """The document ``provenance`` of the checkpoints of a run."""
    found = read_provenance(folder)
    assert found is not None
    return found.document()


def note_data(folder: RunFolder, data: Mapping[str, Any], lock: Lock = nullcontext) -> None:
    """Add what a run learns from."""
    with lock():
        _write(folder, (read_provenance(folder) or Provenance()).model_copy(update={"data": dict(data)}))


@contextmanager
def recorded(folder: RunFolder, session: Session, lock: Lock = nullcontext) -> Iterator[None]:
    """Note a session in its folder, and at the end how long it took.

    A session that is refused with an `InputError` has changed nothing, and is not noted either.

    Args:
        folder: of the run.
        session: which begins.
        lock: held while the file is changed, where other processes may work in the folder.

    Raises:
        InputError: the file of an earlier session is damaged.
    """
    _change(folder, lock, lambda sessions: (*sessions, session))
    ended: Ended | None = "failed"
    try:
        yield
        ended = "finished"
    except InputError:
        ended = None
        raise
    except StoppedBySignalError:
        ended = "stopped by a signal"
        raise
    finally:
        _change(folder, lock, lambda sessions: tuple(_closed(sessions, session.id, ended)))


def _closed(sessions: Iterable[Session], name: str, ended: Ended | None) -> Iterator[Session]:
    """All sessions, the one of a name with its end, or without it where it was refused."""
    for session in sessions:
        if session.id != name:
            yield session
        elif ended is not None:
            seconds = round((datetime.now(UTC) - session.started).total_seconds(), 1)
            yield session.model_copy(update={"seconds": seconds, "ended": ended})


def _change(folder: RunFolder, lock: Lock, change: Callable[[tuple[Session, ...]], tuple[Session, ...]]) -> None:
    with lock():
        before = read_provenance(folder) or Provenance()
        after = before.model_copy(update={"sessions": change(before.sessions)})
        if after.sessions:
            _write(folder, after)
        else:
            delete(folder.provenance)


def _write(folder: RunFolder, provenance: Provenance) -> None:
    write_json(folder.provenance, provenance.model_dump(mode="json"))

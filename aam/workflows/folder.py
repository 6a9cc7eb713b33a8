"""The output folder of a run: made only when the input is known to be good, and never shared by two runs."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from aam.config import DistributedConfig, FolderConfig, PretrainConfig, ResumableConfig, RunConfig, TrainConfig, flag
from aam.config.launch import launch_name, launched_world_size, restart_count
from aam.data.files.whole_files import check_new_folder, leftovers_of, write_text
from aam.errors import InputError
from aam.training.checkpoints.files import MANIFEST, delete
from aam.training.provenance import Session, recorded
from aam.training.run_folder import RUN_FILES, RunFolder

logger = logging.getLogger(__name__)

RESTART_PATIENCE = 30.0
"""Seconds that a restarted process waits until all of its predecessor, such as a data worker, is gone."""

MAY_CHANGE = frozenset(
    {
        "output_dir",
        "resume",
        "overwrite",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "num_workers",
        "device",
        "embedding_cache",
        "memory_profile",
        "jobs",
        "report",
        "only_fold",
        "collect",
        "trials",
        "nested_trials",
        "track",
        "track_project",
    }
    | DistributedConfig.model_fields.keys() - {"fsdp_mixed_precision"}
)
"""Options that a resumed run may give anew: they do not change what is learned."""

INPUT_FILES = frozenset(
    {"table", "rep_seqs", "metadata", "tree", "unifrac_matrix", "matrix_ids", "taxonomy", "pretrained_encoder"}
)
"""Options whose files may have moved when a run is resumed; what is in them is compared by the checkpoint."""

TRAINED = frozenset({"checkpoint", "pretrained_encoder", "evaluation", "run"})
"""Options that name a run, or one checkpoint, to read."""
EXPORTED = frozenset({"onnx"})
"""Options that name the file of a model, which no run has as its own."""

CHANGES_SHOWN = 8
"""Options that differ from those of the run to resume, of which a message names as many."""

AnyConfig = TypeVar("AnyConfig", PretrainConfig, TrainConfig)


def settle_folder(config: AnyConfig) -> AnyConfig:
    """Check the output folder, and resume what this launch has begun there before it was restarted.

    Raises:
        InputError: see `check_folder`.
    """
    if restart_count() > 0 and _is_of_this_launch(RunFolder(config.output.output_dir)):
        again = config.output.model_copy(update={"resume": True, "overwrite": False})
        config = config.model_copy(update={"output": again})
    check_folder(config, config.output)
    return config


def _is_of_this_launch(folder: RunFolder) -> bool:
    """Whether this launch has begun a run there; without options it was killed before there was anything to resume."""
    return folder.config.exists() and folder.launch.exists() and folder.launch.read_text() == launch_name()


def check_folder(config: RunConfig, output: FolderConfig, shared: bool = False) -> None:
    """Refuse an output folder before any work is done; nothing is written.

    Args:
        config: the options of the command.
        output: those of the folder.
        shared: whether other processes may work there too, as with `share_folder`.

    Raises:
        InputError: the folder holds another run, is not a folder, cannot be written, or holds no run to resume; or
            another process is writing to it.
    """
    folder = output.output_dir
    check_new_folder(folder, "--output-dir")
    check_spares_run("output_dir", folder, config)
    if RunFolder(folder).lock.exists():
        with _locked(RunFolder(folder), shared):
            pass
    check_contents(config, output)


@contextmanager
def open_folder(config: RunConfig, output: FolderConfig) -> Iterator[RunFolder]:
    """Make the folder, hold it against other runs, and write `config.json`; the files of an overwritten run go.

    A kill at any moment leaves a folder that can be overwritten, and resumed from what its `config.json` says.

    Raises:
        InputError: another run has come first.
    """
    folder = RunFolder(output.output_dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        check_contents(config, output)
        if not _resumes(output):
            set_aside(folder)
            for draft in (*leftovers_of(folder.config), *leftovers_of(folder.launch)):
                delete(draft)
            write_text(folder.launch, launch_name())
            write_text(folder.config, config.model_dump_json(indent=2) + "\n")
        delete(folder.replaced)
        with recorded(folder, session_of(config, folder, resumed=_resumes(output))):
            yield folder


@contextmanager
def share_folder(config: RunConfig, output: ResumableConfig) -> Iterator[None]:
    """Work in a folder beside other processes with the same options; the first to come begins it.

    Raises:
        InputError: the folder holds something else, or a process works there that wants it for itself.
    """
    folder = RunFolder(output.output_dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    with _locked(folder, shared=True):
        with alone(folder):
            begun = folder.config.exists()
            check_contents(config, output.model_copy(update={"resume": begun}))
            if not begun:
                write_text(folder.config, config.model_dump_json(indent=2) + "\n")
        with recorded(folder, session_of(config, folder, resumed=begun), lambda: alone(folder)):
            yield


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Change a file of a folder that is shared with other processes."""
    with folder.begin.open("a") as begin:
        _wait(begin, folder)
        yield


def session_of(config: RunConfig, folder: RunFolder, resumed: bool) -> Session:
    """What `provenance.json` says of this process's work."""
    flat = config.flat()
    files = [*input_paths(config), *(("configs", Path(name)) for name in flat.get("configs", ()))]
    if resumed and folder.checkpoints.exists():  # which have the weights of the encoder
        files = [(option, path) for option, path in files if option != "pretrained_encoder"]
    processes = max(launched_world_size(), flat.get("jobs", 1))
    return Session.begin(files, flat.get("seed"), processes, resumed)


def _wait(file: IO[str], folder: RunFolder) -> None:
    """Take a lock that others hold for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems
        logger.warning("%s cannot be locked (%s): start the first process before the others", folder, error.strerror)


@contextmanager
def _locked(folder: RunFolder, shared: bool = False) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process (and its workers) ended, however they ended."""
    try:
        file = folder.lock.open("a")
    except OSError as error:
        raise InputError(
            f"--output-dir {folder}: {folder.lock.name} in it cannot be written ({error.strerror})"
        ) from None
    with file:
        _lock(file, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _lock(file: IO[str], folder: RunFolder, kind: int) -> None:
    until = time.monotonic() + (RESTART_PATIENCE if restart_count() > 0 else 0.0)
    try:
        while not try_lock(file, kind) and time.monotonic() < until:
            time.sleep(0.5)
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"--output-dir {folder}: another run is writing there; wait for it, or name another folder"
        ) from None
    except OSError as error:  # some network file systems
        logger.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)


def try_lock(file: IO[str], kind: int) -> bool:
    """Lock a file if nobody else holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_contents(config: RunConfig, output: FolderConfig) -> None:
    """Refuse a folder that holds another run, or none to resume.

    Raises:
        InputError: so it is.
    """
    folder = RunFolder(output.output_dir)
    misplaced = folder.misplaced() if _resumes(output) or output.overwrite else None
    if misplaced is not None:
        found, wanted = ("folder", "file") if misplaced.is_dir() else ("file", "folder")
        raise InputError(
            f"--output-dir {folder}: {misplaced.relative_to(folder.path)} in it is a {found}, where a run has a "
            f"{wanted}: move it away, or name another folder"
        )
    if _resumes(output):
        _check_same_run(config, folder)
    elif _holds_files(folder):
        if not output.overwrite:
            resume = "continue its run with --resume, " if isinstance(output, ResumableConfig) else ""
            raise InputError(
                f"--output-dir {folder} is not empty; {resume}replace it with --overwrite, or name another folder"
            )
        _check_replaceable(config, folder)


def _resumes(output: FolderConfig) -> bool:
    return isinstance(output, ResumableConfig) and output.resume


def _holds_files(folder: RunFolder) -> bool:
    """Whether more is there than what a run leaves that was killed in its first moment."""
    first = {folder.lock, folder.launch, folder.begin}
    first.update(draft for path in (folder.config, folder.launch) for draft in leftovers_of(path))
    return folder.path.exists() and any(path not in first for path in folder.path.iterdir())


def _check_replaceable(config: RunConfig, folder: RunFolder) -> None:
    """Refuse to overwrite anything but a run of the same command, or one that this run reads."""
    stored = folder.config
    if not stored.exists():
        raise InputError(
            f"--overwrite: {folder} holds files but no run of aam ({stored.name} is missing); name another folder"
        )
    if set(_read_options(stored, "--overwrite")) != set(config.sections()):
        raise InputError(
            f"--overwrite: {folder} holds no run of this command ({stored.name} differs); name another folder"
        )
    for option, path in input_paths(config):
        if path.resolve().is_relative_to(folder.path.resolve()):
            raise InputError(f"--overwrite: {flag(option)} {path} lies in {folder}, which would be replaced; move it")


def input_paths(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """Files and folders that a command reads, by the name of their option."""
    for option, value in config.flat().items():
        if option in INPUT_FILES | TRAINED | EXPORTED:
            yield from ((option, path) for path in (value if isinstance(value, tuple) else (value,)) if path)


def check_spares_run(option: str, path: Path, config: RunConfig) -> None:
    """Refuse to write where a run or a checkpoint that the command reads has its own files.

    These are all that lies in a checkpoint or among the checkpoints of its run, and what a run has by name, there or
    not; beside them is room for others. Symlinks are followed.

    Raises:
        InputError: `path`, which `option` names, is such a place.
    """
    place = path.resolve()
    for source, read in input_paths(config):
        if source not in TRAINED:
            continue
        if (read / MANIFEST).is_file() and place.is_relative_to(read.resolve()):
            raise InputError(
                f"{flag(option)} {path} lies in the checkpoint that {flag(source)} {read} reads, and would damage it; "
                "name a place outside"
            )
        for run in _runs_of(read):
            if run.owns(place):
                raise InputError(
                    f"{flag(option)} {path} is a file of the run that {flag(source)} {read} reads, or lies among its "
                    f"checkpoints; name another place, such as {run.path / f'new{path.suffix}'}"
                )


def _runs_of(checkpoint: Path) -> set[RunFolder]:
    """Folders of the run that a path means, or whose checkpoint it means: as it is written, and with links followed."""
    folders = set()
    for path in (checkpoint.absolute(), checkpoint.resolve()):
        above = RunFolder(path.parent.parent)
        folders.add(above if path.parent == above.checkpoints else RunFolder(path))

    def holds_model(run: RunFolder) -> bool:
        return run.checkpoints.is_dir() or run.models.is_dir() or run.evaluation.exists()

    return {run for run in folders if run.config.exists() and holds_model(run)}


def set_aside(folder: RunFolder) -> None:
    """Take the files of an earlier run out of the way, each at once; other files stay."""
    delete(folder.replaced)
    for name in RUN_FILES:
        for draft in leftovers_of(folder.path / name):
            delete(draft)
        for place in sorted(folder.path.glob(name)):
            aside = folder.replaced / place.relative_to(folder.path)
            aside.parent.mkdir(parents=True, exist_ok=True)
            place.rename(aside)


def _check_same_run(config: RunConfig, folder: RunFolder) -> None:
    stored = folder.config
    if not stored.exists():
        raise InputError(f"--resume: {folder} holds no run ({stored.name} is missing); start one without --resume")
    options = _read_options(stored, "--resume")
    if set(options) != set(config.sections()):
        raise InputError(f"--resume: {folder} holds no run of this command and version of aam; name another folder")
    before, now = _comparable(options), _comparable(config.model_dump(mode="json"))
    others = [flag(name) for name in sorted(set(before) - set(now))]
    if others:
        raise InputError(
            f"--resume: {folder} was started by another version of aam, with options that this one does not have "
            f"({', '.join(others[:CHANGES_SHOWN])}): resume it with that version, or replace it with --overwrite"
        )
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        shown = [f"{flag(name)} (was {before.get(name)}, now {now[name]})" for name in changed[:CHANGES_SHOWN]]
        more = [f"... ({len(changed)} in all)"] if len(changed) > CHANGES_SHOWN else []
        raise InputError(f"--resume: {folder} was started with other options: {', '.join(shown + more)}")


def _comparable(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Options by flat name that must agree; of files, whether they are given."""
    flat = {name: value for section in sections.values() for name, value in section.items() if name not in MAY_CHANGE}
    return flat | {name: "given" if flat[name] else "not given" for name in INPUT_FILES & flat.keys()}


def _read_options(source: Path, option: str) -> dict[str, dict[str, Any]]:
    try:
        return TypeAdapter(dict[str, dict[str, Any]]).validate_json(source.read_bytes())
    except ValidationError:
        raise InputError(
            f"{option}: {source} is damaged (not the options of a run); name another folder, or delete this one"
        ) from None

"""Checkpoints: a folder of safetensors and JSON that a reader sees whole or not at all.

A checkpoint is a folder::

    config.json                   the run config that rebuilds the model
    NAME.json                     other documents: encoders, transforms
    model.safetensors             weights by parameter name
    state/optimizer.safetensors   moments of the optimizer, as KIND/PARAMETER     (to resume; optional)
    state/state.json              counters, schedule, param groups                (to resume; optional)
    manifest.json                 format, kind, size and SHA-256 of every file; written last

A sharded one holds, in place of the safetensors, the folder ``sharded`` of torch.distributed.checkpoint (`sharded.py`).
No pickle is executed, so that reading a stranger's checkpoint runs none of their code.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from aam.errors import InputError
from aam.training.checkpoints.files import (
    MANIFEST,
    Kind,
    Layout,
    VerifiedFolder,
    delete,
    flush_folder,
    json_bytes,
    tensor_bytes,
    write_folder,
)
from aam.training.checkpoints.hub import HubModel
from aam.training.checkpoints.optimizer_state import flatten_optimizer, load_optimizer
from aam.training.run_folder import RunFolder

T = TypeVar("T")

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "Kind",
    "flatten_optimizer",
    "load_optimizer",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]

CONFIG = "config.json"
MODEL = "model.safetensors"
OPTIMIZER = "state/optimizer.safetensors"
STATE = "state/state.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds; everything but the tensors is JSON (finite numbers, string keys)."""

    kind: Kind
    config: dict[str, Any]
    documents: dict[str, Any]
    """JSON by name, such as the target's scaler; the names become file names."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None = None
    """Tensors of `flatten_optimizer`; together with `state` what a run needs to resume."""
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verified:
    """A checkpoint folder whose files agree with its manifest."""

    directory: Path
    layout: Layout
    state: dict[str, Any] | None


class CheckpointStore:
    """The ``checkpoints`` folder of one run, which alone writes there.

    Checkpoints are folders such as ``step-00000123``; the symlinks ``last`` and ``best`` name two of them and are
    swapped atomically. Besides the best one and the newest `keep`, those stay that the symlinks named before, which
    somebody may be reading now: at most ``keep + 2`` are there.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep

    def write(self, checkpoint: Checkpoint, step: int, best: bool) -> Path:
        """Write a checkpoint, make it ``last`` (and ``best``), delete what is not needed any more.

        A kill at any moment leaves a folder that reads well; what it leaves besides goes at the next write.
        """
        place = self.place_for(step)
        write_checkpoint(checkpoint, place)
        self.adopt(place, best)
        return place

    def place_for(self, step: int) -> Path:
        """Delete what a killed run left, and choose a folder that does not exist yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("tmp-*"):
            delete(leftover)
        return self._new_directory(step)

    def adopt(self, place: Path, best: bool) -> None:
        """Make a checkpoint that lies at its place ``last`` (and ``best``), delete what is not needed any more."""
        # best before last: a run killed in between resumes from the old last and comes to this step again, while in the
        # other order it would resume after this step and never point best at it.
        self._move_links(("best", "last") if best else ("last",), place)

    def replace_best(self, checkpoint: Checkpoint) -> Path:
        """Write another form of the best checkpoint (of the last, where there is none), to be ``best`` from now on."""
        best = self.best_or_last()
        place = self.place_for(0 if best is None else _age(best)[0])
        write_checkpoint(checkpoint, place)
        self._move_links(("best",), place)
        return place

    def best_or_last(self) -> Path | None:
        """Folder that a reader of the run gets; None where there is none yet."""
        return self._target("best") or self._target("last")

    def last(self) -> Path | None:
        """Folder of the newest checkpoint; None where there is none yet.

        Raises:
            InputError: something is there that leads to no folder: to begin anew would lose what the run has learned.
        """
        _check_leads_to_folder(self.folder)
        _check_leads_to_folder(self.folder / "last")
        last = self._target("last")
        if last is not None and last.resolve().parent != self.folder.resolve():
            raise InputError(
                f"{self.folder / 'last'} leads to {last}, outside of the run: point it at a checkpoint of the run, or "
                "start anew with --overwrite"
            )
        return last

    def _target(self, link: str) -> Path | None:
        path = self.folder / link
        if not path.is_dir():
            return None
        return self.folder / path.readlink() if path.is_symlink() else path

    def _new_directory(self, step: int) -> Path:
        """Free name for a step, which may have a checkpoint already: readers rely on a name for one content."""
        directory, number = self.folder / f"step-{step:08d}", 1
        while directory.exists():
            number += 1
            directory = self.folder / f"step-{step:08d}-{number}"
        return directory

    def _point(self, link: str, directory: Path) -> None:
        draft = self.folder / f"tmp-{link}"
        draft.symlink_to(directory.name, target_is_directory=True)
        place = self.folder / link
        if place.is_dir() and not place.is_symlink():
            # The output folder was copied by a tool that turns symlinks into what they name.
            place.rename(self.folder / f"tmp-copied-{link}")
        draft.replace(place)
        flush_folder(self.folder)

    def _move_links(self, links: Iterable[Literal["best", "last"]], place: Path) -> None:
        before = {self._target("last"), self._target("best")}
        for link in links:
            self._point(link, place)
        last, best = self._target("last"), self._target("best")
        # what lies beyond `last` was written by a run that was killed before it was of use, or is another form of best
        newest = [path for path in self.folder.glob("step-*") if last is not None and _age(path) <= _age(last)]
        self._prune(before | {last, best, *sorted(newest, key=_age)[-self.keep :]})

    def _prune(self, needed: set[Path | None]) -> None:
        for directory in self.folder.glob("step-*"):
            if directory not in needed:
                # Renamed first, so that a kill while files go leaves no half of a checkpoint under its name.
                doomed = directory.rename(directory.with_name(f"tmp-{directory.name}"))
                delete(doomed)


def _check_leads_to_folder(path: Path) -> None:
    """Refuse a symlink to nowhere or to itself, and what is no folder, such as the text of a symlink that was copied.

    Raises:
        InputError: so it is.
    """
    if not os.path.lexists(path) or path.is_dir():
        return
    found = f"is a symlink to {path.readlink()}, where there is no folder" if path.is_symlink() else "is no folder"
    newest = max(path.parent.glob("step-*"), key=_age, default=None)
    remedy = f"point it at the newest checkpoint, {newest.name}" if newest is not None else "copy the run again"
    raise InputError(
        f"{path} {found}: the checkpoints of the run are damaged; {remedy}, or start anew with --overwrite"
    )


def _age(directory: Path) -> tuple[int, int]:
    """Step of a checkpoint, and which of those of its step it is; (-1, 0) for a folder that is none."""
    found = re.fullmatch(r"step-(\d+)(?:-(\d+))?", directory.name)
    return (int(found[1]), int(found[2] or 1)) if found else (-1, 0)


def write_checkpoint(checkpoint: Checkpoint, directory: Path, beside: Mapping[str, bytes] | None = None) -> None:
    """Write a checkpoint to a folder that does not exist yet; it appears there whole or not at all.

    Args:
        checkpoint: what to write.
        directory: the folder.
        beside: other files to write there, by name, of which the checkpoint knows nothing.

    Raises:
        InputError: the folder exists.
        ValueError: a document is not JSON (NaN, infinity) or has a name that is taken or no file name.
    """
    if directory.exists():
        raise InputError(f"{directory} exists already: give a new folder, or delete it first")
    write_folder(_serialize(checkpoint), checkpoint.kind, directory, beside)


def read_checkpoint(
    path: Path, with_state: bool = False, kind: Kind | None = None, with_weights: bool = True
) -> Checkpoint:
    """Read a checkpoint and verify every file that is read against the manifest.

    Args:
        path: an output folder (its best checkpoint is read, or the last where no validation chose one), ``last`` or
            ``best`` in its ``checkpoints``, a checkpoint folder, or a model of the Hugging Face Hub (`HubModel`).
        with_state: also read what resuming needs.
        kind: the kind that is needed.
        with_weights: without, `model` and `optimizer` stay empty, and a sharded checkpoint can be read too.

    Raises:
        InputError: no checkpoint is there, it is damaged, of another kind, of a newer aam, has no state, or is sharded.
    """
    return _follow(path, lambda directory: _read(directory, with_state, kind, with_weights))


def verify_checkpoint(path: Path, kind: Kind | None = None, with_state: bool = False) -> Verified:
    """Verify all files of a checkpoint that are needed, to read them afterwards; arguments as in `read_checkpoint`.

    Raises:
        InputError: no checkpoint is there, it is damaged, of another kind, of a newer aam, or has no state.
    """
    return _follow(path, lambda directory: _verify(directory, kind, with_state))


def manifest_of(path: Path) -> Path:
    """The manifest of the checkpoint that a path means, which has the hashes of all its files.

    Raises:
        InputError: no checkpoint is there.
    """
    return _locate(path) / MANIFEST


def _serialize(checkpoint: Checkpoint) -> dict[str, bytes]:
    files = text_files(checkpoint) | {MODEL: tensor_bytes(checkpoint.model)}
    if checkpoint.optimizer is not None:
        files[OPTIMIZER] = tensor_bytes(checkpoint.optimizer)
    return files


def text_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Encode all of a checkpoint but the tensors, as files by name.

    Raises:
        ValueError: a document is not JSON (NaN, infinity) or has a name that is taken or no file name.
    """
    files = {CONFIG: json_bytes(checkpoint.config)}
    for name, document in checkpoint.documents.items():
        file = f"{name}.json"
        if file in (CONFIG, MANIFEST) or not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{name!r} cannot name a document of a checkpoint")
        files[file] = json_bytes(document)
    if checkpoint.state is not None:
        files[STATE] = json_bytes(checkpoint.state)
    return files


def _locate(path: Path) -> Path:
    """Find the checkpoint that a path means: a folder, a symlink to one, or a model of the hub."""
    if not path.is_dir():
        model = HubModel.named(path)
        if model is None:
            raise InputError(f"{path}: no such folder; give an output folder of aam, or one of its checkpoints")
        path = model.fetch()
    if (path / MANIFEST).is_file():
        return path
    for folder in (RunFolder(path).checkpoints, path):
        for link in ("best", "last"):
            _check_leads_to_folder(folder / link)
            if (folder / link).is_dir():
                return folder / link
    raise InputError(
        f"{path} holds no checkpoint: give an output folder of `aam pretrain` or `aam train` that has written its "
        f"first one, or a checkpoint folder with its {MANIFEST}"
    )


def _follow(path: Path, read: Callable[[Path], T]) -> T:
    """Read the checkpoint that a path means, and the next one where a running run replaces it meanwhile."""
    while True:
        place = _locate(path)
        directory = place.resolve()
        try:
            return read(directory)
        except InputError:
            # The run may have moved the symlink on and deleted the old checkpoint while it was read here.
            if _locate(path).resolve() == directory:
                raise


def _open(directory: Path, with_state: bool, kind: Kind | None) -> VerifiedFolder:
    folder = VerifiedFolder(directory)
    found, names = folder.manifest.kind, set(folder.manifest.files)
    if kind is not None and found != kind:
        by = "train --learner" if found == "learner" else found
        raise InputError(f"{directory} was written by `aam {by}`; needed here is a checkpoint of `aam {kind}`")
    moments = {OPTIMIZER} if folder.manifest.layout == "full" else set()
    if with_state and not {STATE} | moments <= names:
        raise InputError(f"{directory} has weights only, nothing to resume from: start a new run from it instead")
    return folder


def _read(directory: Path, with_state: bool, kind: Kind | None, with_weights: bool) -> Checkpoint:
    folder = _open(directory, with_state, kind)
    if with_weights and folder.manifest.layout == "sharded":
        raise InputError(
            f"{directory} is sharded, each process of its run wrote a part: it can only be resumed (--resume). At its "
            "end the run writes its best weights as a whole checkpoint; to have them now, resume it to its end"
        )
    documents = sorted(name for name in folder.manifest.files if name.endswith(".json") and name not in (CONFIG, STATE))
    return Checkpoint(
        kind=folder.manifest.kind,
        config=folder.json(CONFIG),
        documents={name.removesuffix(".json"): folder.json(name) for name in documents},
        model=folder.tensors(MODEL) if with_weights else {},
        optimizer=folder.tensors(OPTIMIZER) if with_weights and with_state else None,
        state=folder.json(STATE) if with_state else None,
    )


def _verify(directory: Path, kind: Kind | None, with_state: bool) -> Verified:
    folder = _open(directory, with_state, kind)
    layout, names = folder.manifest.layout, list(folder.manifest.files)
    if layout == "full":
        names = [MODEL, OPTIMIZER] if with_state else [MODEL]
    folder.verify(names)
    return Verified(directory, layout, folder.json(STATE) if with_state else None)

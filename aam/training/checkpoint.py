"""Checkpoints: a folder of safetensors and JSON that a reader sees whole or not at all.

A checkpoint is a folder::

    config.json                   the run config that rebuilds the model
    NAME.json                     other documents: encoders, transforms
    model.safetensors             weights by parameter name
    state/optimizer.safetensors   moments of the optimizer, as KIND/PARAMETER     (to resume; optional)
    state/state.json              counters, schedule, param groups                (to resume; optional)
    manifest.json                 format, kind, size and SHA-256 of every file; written last

Nothing is pickled, so that reading a stranger's checkpoint runs none of their code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from aam.errors import InputError, first_ids
from aam.training.checkpoint_files import (
    MANIFEST,
    Kind,
    VerifiedFolder,
    delete,
    flush_folder,
    json_bytes,
    tensor_bytes,
    write_folder,
)

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "Kind",
    "flatten_optimizer",
    "load_optimizer",
    "read_checkpoint",
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


class CheckpointStore:
    """The ``checkpoints`` folder of one run, which alone writes there.

    Checkpoints are folders such as ``step-00000123``; the symlinks ``last`` and ``best`` name two of them and are
    swapped atomically. Others are deleted, but for those that the symlinks named before, which somebody may be reading
    now: at most three are there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, checkpoint: Checkpoint, step: int, best: bool) -> Path:
        """Write a checkpoint, make it ``last`` (and ``best``), delete what is not needed any more.

        A kill at any moment leaves a folder that reads well; what it leaves besides goes at the next write.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("tmp-*"):
            delete(leftover)
        previous = {self._target("last"), self._target("best")}
        directory = self._new_directory(step)
        write_checkpoint(checkpoint, directory)
        # best before last: a run killed in between resumes from the old last and comes to this step again, while in the
        # other order it would resume after this step and never point best at it.
        if best:
            self._point("best", directory)
        self._point("last", directory)
        self._prune(previous | {directory, self._target("best")})
        return directory

    def last(self) -> Path | None:
        """Folder of the newest checkpoint; None where there is none yet."""
        return self._target("last")

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

    def _prune(self, needed: set[Path | None]) -> None:
        for directory in self.folder.glob("step-*"):
            if directory not in needed:
                # Renamed first, so that a kill while files go leaves no half of a checkpoint under its name.
                doomed = directory.rename(directory.with_name(f"tmp-{directory.name}"))
                delete(doomed)


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to a folder that does not exist yet; it appears there whole or not at all.

    Raises:
        InputError: the folder exists.
        ValueError: a document is not JSON (NaN, infinity) or has a name that is taken or no file name.
    """
    if directory.exists():
        raise InputError(f"{directory} exists already: give a new folder, or delete it first")
    write_folder(_serialize(checkpoint), checkpoint.kind, directory)


def read_checkpoint(path: Path, with_state: bool = False, kind: Kind | None = None) -> Checkpoint:
    """Read a checkpoint and verify every file that is read against the manifest.

    Args:
        path: an output folder (its best checkpoint is read, or the last where no validation chose one), ``last`` or
            ``best`` in its ``checkpoints``, or a checkpoint folder.
        with_state: also read what resuming needs.
        kind: the kind that is needed.

    Raises:
        InputError: no checkpoint is there, it is damaged, of another kind, of a newer aam, or has no state.
    """
    while True:
        place = _locate(path)
        directory = place.resolve()
        try:
            return _read(directory, with_state, kind)
        except InputError:
            # The run may have moved the symlink on and deleted the old checkpoint while it was read here.
            if _locate(path).resolve() == directory:
                raise


def flatten_optimizer(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Give the state of an optimizer by parameter name, so that it does not depend on how ranks share parameters.

    Returns:
        Tensors as ``exp_avg/encoder.weight``, and the param groups as JSON with names for parameters. Choices of the
        machine (fused, foreach, ...) are left out.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {
        f"{key}/{names[parameter]}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }
    groups = [
        {key: value for key, value in group.items() if key not in _OF_THE_MACHINE}
        | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return tensors, groups


def load_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restore what `flatten_optimizer` gave, bit for bit, into an optimizer over the same parameters.

    Raises:
        InputError: the parameters are not the same.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    order = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    saved = [group["params"] for group in groups]
    if saved != order:
        differing = set(chain(*saved)) ^ set(chain(*order))
        raise InputError(
            "the optimizer in the checkpoint is of another model or freezes other parameters "
            f"(differing: {first_ids(sorted(differing))}): resume with the options of the first run"
        )
    number = {name: index for index, name in enumerate(chain(*order))}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, name = full_name.split("/", 1)
        state.setdefault(number[name], {})[key] = tensor
    numbered = [
        current | _tuples(group) | {"params": [number[name] for name in group["params"]]}
        for current, group in zip(optimizer.param_groups, groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": numbered})


_OF_THE_MACHINE = {"params", "foreach", "fused", "capturable", "differentiable"}


def _tuples(group: dict[str, Any]) -> dict[str, Any]:
    """Undo JSON's one change to a param group: the pair of betas comes back as a list."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}


def _serialize(checkpoint: Checkpoint) -> dict[str, bytes]:
    files = {CONFIG: json_bytes(checkpoint.config), MODEL: tensor_bytes(checkpoint.model)}
    for name, document in checkpoint.documents.items():
        file = f"{name}.json"
        if file in (CONFIG, MANIFEST) or not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{name!r} cannot name a document of a checkpoint")
        files[file] = json_bytes(document)
    if checkpoint.state is not None:
        files[STATE] = json_bytes(checkpoint.state)
    if checkpoint.optimizer is not None:
        files[OPTIMIZER] = tensor_bytes(checkpoint.optimizer)
    return files


def _locate(path: Path) -> Path:
    """Find the checkpoint that a path means: a folder, or a symlink to one."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give an output folder of aam, or one of its checkpoints")
    if (path / MANIFEST).is_file():
        return path
    for folder in (path / "checkpoints", path):
        for link in ("best", "last"):
            if (folder / link).is_dir():
                return folder / link
    raise InputError(
        f"{path} holds no checkpoint: give an output folder of `aam pretrain` or `aam train` that has written its "
        f"first one, or a checkpoint folder with its {MANIFEST}"
    )


def _read(directory: Path, with_state: bool, kind: Kind | None) -> Checkpoint:
    folder = VerifiedFolder(directory)
    found, names = folder.manifest.kind, set(folder.manifest.files)
    if kind is not None and found != kind:
        raise InputError(f"{directory} was written by `aam {found}`; needed here is a checkpoint of `aam {kind}`")
    if with_state and not {STATE, OPTIMIZER} <= names:
        raise InputError(f"{directory} has weights only, nothing to resume from: start a new run from it instead")
    documents = sorted(name for name in names - {CONFIG, STATE} if name.endswith(".json"))
    return Checkpoint(
        kind=found,
        config=folder.json(CONFIG),
        documents={name.removesuffix(".json"): folder.json(name) for name in documents},
        model=folder.tensors(MODEL),
        optimizer=folder.tensors(OPTIMIZER) if with_state else None,
        state=folder.json(STATE) if with_state else None,
    )

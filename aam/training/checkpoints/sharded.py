"""Tensors that ranks share: gathered to one rank, written as they are, and read by any number of ranks.

The folder of a sharded checkpoint holds a file for each rank and ``.metadata``, which says where each part of each
tensor is; both are torch.distributed.checkpoint's, so that any number of ranks can read what any other number wrote.
``.metadata`` is a pickle: it is read by a reader that knows the few classes it may name, and refuses all else.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from aam.errors import InputError, quoted, shown
from aam.training.checkpoints.files import REMEDY, Entry, entry_of
from aam.training.distributed.sharding import fill

METADATA: Final = ".metadata"

_KNOWN: Final = {
    "torch": {"Size", "device"}
    | {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype | torch.layout)},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
"""All that the metadata of tensors names, by module."""


def stage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy each rank's parts to main memory, where the optimizer does not reach them."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def write_shards(tensors: Mapping[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> dict[str, Entry]:
    """Write each rank's parts; every rank calls this, and all fail if one does.

    Args:
        tensors: of the same names on every rank.
        folder: the same on every rank.
        group: communicates between main memories; None without other processes.

    Returns:
        What the manifest says of the files of all ranks.
    """
    _expect_no_group(group)
    writer = _Writer(folder)
    planner = DefaultSavePlanner(flatten_state_dict=False)
    try:
        save(dict(tensors), storage_writer=writer, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        _raise_of_system(error)
        raise
    everybody = [writer.entries]
    if group is not None:
        everybody *= dist.get_world_size(group)
        dist.all_gather_object(everybody, writer.entries, group=group)
    return {name: entry for entries in everybody for name, entry in entries.items()}


def _raise_of_system(error: CheckpointException) -> None:
    """Raise what the system said, such as of a full disk, in the place of what collects it from all ranks."""
    for cause, _ in error.failures.values():
        if isinstance(cause, OSError):
            raise cause from None


class _Writer(FileSystemWriter):
    """Also hashes what it writes, where a failure is one of the whole write, and tells nothing of the place."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.entries: dict[str, Entry] = {}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        results = super().write_data(plan, planner)
        self._hash(f"{plan.storage_data.prefix}*")
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        self._hash(METADATA)

    def storage_meta(self) -> StorageMeta | None:
        return None

    def _hash(self, pattern: str) -> None:
        for path in sorted(self.folder.glob(pattern)):
            self.entries[f"{self.folder.name}/{path.name}"] = entry_of(path)


class WholeFiles:
    """The tensors of a full checkpoint, of which each rank reads what it needs."""

    def __init__(self, *paths: tuple[str, Path]) -> None:
        # mapped files: what is not copied is not read
        self.tensors = {f"{prefix}/{name}": value for prefix, path in paths for name, value in _mapped(path).items()}

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the tensors of these names into each rank's parts."""
        for name, target in targets.items():
            fill(target, self.tensors[name])


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} holds what no aam writes ({shown(error)}); {REMEDY}") from None


class ShardFiles:
    """The tensors of a sharded checkpoint, to be read by ranks together; its files agree with the manifest.

    Attributes:
        tensors: their names, shapes and types, without memory.

    Raises:
        InputError: the metadata names what tensors do not need.
    """

    def __init__(self, folder: Path, group: dist.ProcessGroup | None) -> None:
        self._reader, self._group = _Reader(folder), group
        self.tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in self._reader.metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the tensors of these names into each rank's parts; every rank calls this."""
        _expect_no_group(self._group)
        planner, group = DefaultLoadPlanner(flatten_state_dict=False), self._group
        load(dict(targets), storage_reader=self._reader, planner=planner, process_group=group, no_dist=group is None)


class _Reader(FileSystemReader):
    """Reads the metadata once, and none but that of tensors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / METADATA).open("rb") as file:
            self.metadata: Metadata = _unpickled(file, folder)

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self.metadata


_BROKEN: Final = (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, OverflowError)
"""What a pickle raises that is none, or calls a class with what it does not take."""


def _unpickled(file: BinaryIO, folder: Path) -> Metadata:
    """Read metadata whose parts of tensors lie in files of the folder.

    Raises:
        InputError: they do not, or it is no such metadata.
    """
    try:
        found = _Unpickler(file).load()
    except InputError:
        raise
    except (*_BROKEN, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"{folder / METADATA} holds what no aam writes ({shown(error)}); {REMEDY}") from None
    if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
        raise InputError(f"{folder / METADATA} is no metadata of tensors; {REMEDY}")
    places = found.storage_data if isinstance(found.storage_data, dict) else {None: None}
    for place in places.values():
        name = getattr(place, "relative_path", None)
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or not (folder / name).is_file():
            raise InputError(
                f"{folder / METADATA} names a file that is none of the checkpoint, {quoted(name)}; {REMEDY}"
            )
    return found


class _Unpickler(pickle.Unpickler):
    """Knows the classes of `_KNOWN` and no others, so that it runs nobody's code."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _KNOWN.get(module, ()):
            raise InputError(
                f"a file {METADATA} names {module}.{name}, which the metadata of tensors does not: no aam wrote it, or "
                "one with another version of PyTorch"
            )
        return super().find_class(module, name)


def _expect_no_group(group: dist.ProcessGroup | None) -> None:
    """Keep torch from warning of what is intended."""
    if group is None:
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")

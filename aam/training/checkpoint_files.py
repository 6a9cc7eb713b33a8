"""The files of a checkpoint folder: written so that the folder appears whole or not at all, verified when read.

A folder is written beside its place under a name that starts with ``tmp-``, flushed to the disk, and renamed. Its
manifest is written last and holds format, kind, and size and SHA-256 of every file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from aam.errors import InputError

Kind = Literal["pretrain", "train"]

FORMAT = 1
"""Raised by one whenever an older aam could not read what this one writes."""

MANIFEST = "manifest.json"

REMEDY = "use another checkpoint, or copy this one again"

FileName = Annotated[str, Field(pattern=r"^(state/)?\w[\w.-]*$")]


class Entry(BaseModel):
    """One file of the manifest."""

    model_config = ConfigDict(extra="forbid")

    bytes: int
    sha256: str


class Header(BaseModel):
    """The part of a manifest that every format has."""

    format: int


class Manifest(Header):
    """What makes a folder a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    files: dict[FileName, Entry]


class VerifiedFolder:
    """Reads the files of a checkpoint folder, each checked against the manifest.

    Raises:
        InputError: there is no manifest, it is damaged, or a newer aam wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder / MANIFEST)

    def json(self, name: str) -> Any:
        """Read a JSON document.

        Raises:
            InputError: the file is missing, truncated or altered.
        """
        return json.loads(self._read(name))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a safetensors file, to the CPU.

        Raises:
            InputError: the file is missing, truncated or altered.
        """
        return safetensors.torch.load(self._read(name))

    def _read(self, name: str) -> bytes:
        """Read a file once and check what was read, so that nothing can change in between."""
        path = self.folder / name
        if name not in self.manifest.files:
            raise InputError(f"{self.folder / MANIFEST} does not list {name}, which is needed; {REMEDY}")
        entry = self.manifest.files[name]
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path} is missing: the checkpoint is not whole; {REMEDY}") from None
        if len(content) < entry.bytes:
            raise InputError(f"{path} is truncated ({len(content)} of {entry.bytes} bytes); {REMEDY}")
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise InputError(f"{path} was altered after it was written (SHA-256 differs from the manifest); {REMEDY}")
        return content


def _read_manifest(path: Path) -> Manifest:
    try:
        content = path.read_bytes()
        header = Header.model_validate_json(content)
        if header.format > FORMAT:
            raise InputError(
                f"{path}: the checkpoint has format {header.format}, this aam reads up to {FORMAT}: update aam"
            )
        return Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the checkpoint is not whole; {REMEDY}") from None
    except ValidationError:
        raise InputError(f"{path} is damaged (not a manifest of aam); {REMEDY}") from None


def write_folder(files: Mapping[str, bytes], kind: Kind, folder: Path) -> None:
    """Write files and their manifest to a folder that does not exist yet; it appears whole or not at all."""
    entries = {
        name: Entry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    manifest = Manifest(format=FORMAT, kind=kind, files=entries)
    draft = folder.with_name(f"tmp-{folder.name}")
    delete(draft)
    try:
        (draft / "state").mkdir(parents=True)
        for name, content in files.items():
            _write_flushed(draft / name, content)
        flush_folder(draft / "state")
        _write_flushed(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
        flush_folder(draft)
        draft.rename(folder)
        flush_folder(folder.parent)
    finally:
        delete(draft)


def json_bytes(document: Any) -> bytes:
    """Encode JSON so that floats come back exactly.

    Raises:
        ValueError: the document holds NaN or an infinity, which JSON has no word for.
    """
    return json.dumps(document, indent=1, allow_nan=False).encode()


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Encode tensors of any device as safetensors."""
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a folder, a file or a symlink, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

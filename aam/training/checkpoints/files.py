"""The files of a checkpoint folder: written so that the folder appears whole or not at all, verified when read.

A folder is written beside its place under a name that starts with ``tmp-``, flushed to the disk, and renamed. Its
manifest is written last and holds format, kind, and size and SHA-256 of every file.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from aam.errors import InputError, shown

Kind = Literal["pretrain", "train", "learner"]

Layout = Literal["full", "sharded"]
"""Whether the weights are one safetensors file, or files of torch.distributed.checkpoint, one or more for each rank."""

FORMATS: dict[Layout, int] = {"full": 1, "sharded": 2}
"""Format of what this aam writes; raised whenever an older one could not read it."""

MANIFEST = "manifest.json"

REMEDY = "use another checkpoint, or copy this one again"

FileName = Annotated[str, Field(pattern=r"^((state/|sharded/)?\w[\w.-]*|sharded/\.metadata)$")]


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
    layout: Layout = "full"
    """Not written where it is ``full``, so that an older aam reads those."""


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
        try:
            return json.loads(self._read(name), parse_constant=_refuse_constant, parse_float=_finite)
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise _foreign(self.folder / name, error) from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a safetensors file, to the CPU.

        Raises:
            InputError: the file is missing, truncated or altered.
        """
        try:
            return safetensors.torch.load(self._read(name))
        except SafetensorError as error:
            raise _foreign(self.folder / name, error) from None

    def verify(self, names: Iterable[str]) -> None:
        """Check files without holding them in memory.

        Raises:
            InputError: a file is missing, truncated or altered.
        """
        for name in names:
            expected, path = self._entry(name), self.folder / name
            _check_size(path, expected)
            _compare(path, entry_of(path), expected)

    def _read(self, name: str) -> bytes:
        """Read a file once and check what was read, so that nothing can change in between."""
        expected, path = self._entry(name), self.folder / name
        _check_size(path, expected)
        content = path.read_bytes()
        _compare(path, _entry_of_bytes(content), expected)
        return content

    def _entry(self, name: str) -> Entry:
        if name not in self.manifest.files:
            raise InputError(f"{self.folder / MANIFEST} does not list {name}, which is needed; {REMEDY}")
        return self.manifest.files[name]


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits)


def _foreign(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} holds what no aam writes ({shown(error)}); {REMEDY}")


def _check_size(path: Path, expected: Entry) -> None:
    """Look at a file before it is read: what a stranger put in its place may be a folder, a pipe or without an end."""
    if not path.is_file():
        if os.path.lexists(path):
            raise InputError(f"{path} is no file: the checkpoint is damaged; {REMEDY}")
        raise InputError(f"{path} is missing: the checkpoint is not whole; {REMEDY}")
    size = path.stat().st_size
    if size < expected.bytes:
        raise InputError(f"{path} is truncated ({size} of {expected.bytes} bytes); {REMEDY}")
    if size > expected.bytes:
        raise InputError(f"{path} was altered after it was written (it is longer than the manifest says); {REMEDY}")


def _compare(path: Path, found: Entry, expected: Entry) -> None:
    if found.sha256 != expected.sha256:
        raise InputError(f"{path} was altered after it was written (SHA-256 differs from the manifest); {REMEDY}")


def _read_manifest(path: Path) -> Manifest:
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path} is no file: the checkpoint is damaged; {REMEDY}")
    try:
        content = path.read_bytes()
        header = Header.model_validate_json(content)
        newest = max(FORMATS.values())
        if header.format > newest:
            raise InputError(
                f"{path}: the checkpoint has format {header.format}, this aam reads up to {newest}: update aam"
            )
        return Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the checkpoint is not whole; {REMEDY}") from None
    except ValidationError:
        raise InputError(f"{path} is damaged (not a manifest of aam); {REMEDY}") from None


@dataclass(frozen=True)
class Draft:
    """A checkpoint folder in the making, which appears at its place at once and whole."""

    place: Path
    """A folder that does not exist yet."""

    @property
    def folder(self) -> Path:
        """Where the files are meanwhile."""
        return self.place.with_name(f"tmp-{self.place.name}")

    def write(self, files: Mapping[str, bytes]) -> dict[str, Entry]:
        """Write files by name, and give their entries in the manifest."""
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write_flushed(self.folder / name, content)
        return {name: _entry_of_bytes(content) for name, content in files.items()}

    def finish(self, kind: Kind, layout: Layout, entries: Mapping[str, Entry]) -> None:
        """Write the manifest and move the folder to its place."""
        for name in sorted({str(Path(name).parent) for name in entries}):
            flush_folder(self.folder / name)
        manifest = Manifest(format=FORMATS[layout], kind=kind, files=dict(entries), layout=layout)
        _write_flushed(self.folder / MANIFEST, manifest.model_dump_json(indent=1, exclude_defaults=True).encode())
        flush_folder(self.folder)
        self.folder.rename(self.place)
        flush_folder(self.place.parent)


def write_folder(
    files: Mapping[str, bytes], kind: Kind, folder: Path, beside: Mapping[str, bytes] | None = None
) -> None:
    """Write files and their manifest to a folder that does not exist yet; it appears whole or not at all.

    Args:
        files: by name.
        kind: of the checkpoint.
        folder: where they go.
        beside: other files, which the manifest does not list.
    """
    draft = Draft(folder)
    delete(draft.folder)
    try:
        draft.write(beside or {})
        draft.finish(kind, "full", draft.write(files))
    finally:
        delete(draft.folder)


def entry_of(path: Path) -> Entry:
    """Describe a file for the manifest, without holding it in memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Entry(bytes=file.tell(), sha256=digest.hexdigest())


def _entry_of_bytes(content: bytes) -> Entry:
    return Entry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


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

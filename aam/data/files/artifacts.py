"""The bytes of an input file: plain, gzipped, or the payload of a QIIME 2 artifact, distinguished by content.

A QIIME 2 artifact (.qza) is a zip archive whose root folder is named by a UUID and holds `metadata.yaml` (uuid, type
and format, a line each) and the payload under `data/`. Reading it needs no QIIME 2.
"""

import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aam.errors import InputError, first_ids, shown

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PART = re.compile(r"[^/]+/(metadata\.yaml|data/.*[^/])")
_PROPERTIES = re.compile(r"\s*%\s*Properties\([^)]*\)")
_DAMAGE: Final = (
    *(zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError),
    *(RuntimeError, ValueError, OverflowError, MemoryError),
)
"""What zipfile raises for broken structure; data of deflate, lzma and bzip2 (OSError, since the archive is in memory);
unknown compression or encryption (RuntimeError); places outside the file, and sizes beyond the memory."""


def read_bytes(path: Path | str, kind: str, artifact_types: Sequence[str] = ()) -> bytes:
    """Content of an input file, unpacked.

    Args:
        path: plain, gzipped (.gz) or QIIME 2 artifact (.qza); the content decides, not the ending.
        kind: what the file should hold, for messages, such as ``feature table``.
        artifact_types: semantic types accepted of an artifact, such as ``FeatureTable[Frequency]``.

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, or an artifact of another type.
    """
    path = Path(path)
    content = first_bytes(path, kind)
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InputError(f"{kind} {path}: the gzip file is damaged or cut short; copy it again") from None
    elif content.startswith(_ZIP):
        content = _payload(content, path, kind, artifact_types)
    if not content.strip():
        raise InputError(f"{kind} {path}: the file is empty")
    return content


def first_bytes(path: Path | str, kind: str, count: int = -1) -> bytes:
    """The first so many bytes of an input file as it lies on the disk, by which its format is known, or all of them.

    Raises:
        InputError: the file is missing or unreadable, or stands for one that Git LFS did not download.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(count)
    except FileNotFoundError:
        raise InputError(f"{kind} {path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{kind} {path}: this is a folder; name the file in it") from None
    except OSError as error:
        raise InputError(f"{kind} {path}: cannot be read ({error.strerror})") from None
    if content.startswith(_LFS_POINTER):
        raise InputError(
            f"{kind} {path}: a Git LFS pointer, which stands for a file that was not downloaded; fetch it with "
            "`git lfs pull`"
        )
    return content


def read_text(path: Path | str, kind: str, artifact_types: Sequence[str] = ()) -> str:
    """Content of an input file as text (UTF-8, a byte-order mark dropped); arguments as for `read_bytes`.

    Raises:
        InputError: as `read_bytes`, or the content is not UTF-8 text.
    """
    try:
        return read_bytes(path, kind, artifact_types).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{kind} {path}: not a text file in UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from None


def read_json_object(path: Path | str, kind: str) -> dict[str, Any]:
    """Content of a JSON file that holds one object, ``{"name": value}``; arguments as for `read_bytes`.

    Raises:
        InputError: as `read_text`, or the content is not one JSON object, or gives a name twice.
    """
    try:
        content = json.loads(read_text(path, kind), object_pairs_hook=_without_repeats)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{kind} {path}: {error}") from None
    except (ValueError, RecursionError) as error:  # a number too long is no JSONDecodeError; or it is nested too deep
        raise InputError(f"{kind} {path}: not JSON ({shown(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f'{kind} {path}: {{"name": value}} is wanted, not {type(content).__name__}')
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{first_ids(map(repr, repeated))} is given twice; keep one of them")
    return dict(pairs)


def _payload(content: bytes, path: Path, kind: str, artifact_types: Sequence[str]) -> bytes:
    parts = _unzip(content, path, kind)
    metadata = [part for name, part in parts.items() if name.endswith("metadata.yaml") and name.count("/") == 1]
    if len(metadata) != 1:
        raise InputError(f"{kind} {path}: a zip archive, but not a QIIME 2 artifact; unpack it and name the file in it")
    _check_type(metadata[0].decode(errors="replace"), path, kind, artifact_types)
    payloads = [part for name, part in parts.items() if "/data/" in name]
    if len(payloads) != 1:
        raise InputError(f"{kind} {path}: the artifact should hold one file under data/, not {len(payloads)}")
    return payloads[0]


def _unzip(content: bytes, path: Path, kind: str) -> dict[str, bytes]:
    """Content by name of `metadata.yaml` and of what is under `data/`; provenance is left out."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if _PART.fullmatch(name)}
    except _DAMAGE as error:
        raise InputError(
            f"{kind} {path}: the archive is damaged or cut short ({shown(error)}); export it again"
        ) from None


def _check_type(metadata: str, path: Path, kind: str, wanted: Sequence[str]) -> None:
    fields = dict(line.split(":", 1) for line in metadata.splitlines() if re.match(r"\w+:", line))
    found = _PROPERTIES.sub("", fields.get("type", "of no type").strip().strip("'\""))
    if found not in wanted:
        needed = f"{first_ids(wanted)} is wanted" if wanted else "an artifact cannot be used here"
        raise InputError(f"{kind} {path}: QIIME 2 artifact {found}, but {needed}")

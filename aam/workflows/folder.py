"""The output folder of a run: made only when the input is known to be good, and never shared by two runs."""

import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aam.config import OutputConfig, RunConfig
from aam.errors import InputError

CONFIG = "config.json"

MAY_CHANGE = frozenset(
    {"output_dir", "resume", "overwrite", "log_every", "checkpoint_every", "num_workers", "device", "compile_model"}
)
"""Options that a resumed run may give anew: they do not change what is learned."""


def check_folder(config: RunConfig, output: OutputConfig) -> None:
    """Refuse an output folder before any work is done; nothing is written.

    Raises:
        InputError: the folder holds another run, is not a folder, cannot be written, or holds no run to resume.
    """
    folder = output.output_dir
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir {folder} is a file; name a folder")
    writable = folder if folder.exists() else next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(writable, os.W_OK | os.X_OK) or not writable.is_dir():
        raise InputError(f"--output-dir {folder}: {writable} cannot be written")
    if output.resume:
        _check_same_run(config, folder)
    elif _holds_files(folder) and not output.overwrite:
        raise InputError(
            f"--output-dir {folder} is not empty; continue its run with --resume, replace it with --overwrite, or name "
            "another folder"
        )
    elif _holds_files(folder) and not (folder / CONFIG).exists():
        raise InputError(
            f"--overwrite: {folder} holds files but no run of aam ({CONFIG} is missing); name another folder"
        )


def open_folder(config: RunConfig, output: OutputConfig) -> Path:
    """Make the folder and write `config.json`; what an overwritten run left there is deleted."""
    folder = output.output_dir
    if output.overwrite and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not output.resume:
        replace_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    return folder


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _holds_files(folder: Path) -> bool:
    """Whether more is there than what a run leaves that was killed in its first moment."""
    return folder.exists() and any(path.name != f"{CONFIG}.tmp" for path in folder.iterdir())


def _check_same_run(config: RunConfig, folder: Path) -> None:
    stored = folder / CONFIG
    if not stored.exists():
        raise InputError(f"--resume: {folder} holds no run ({CONFIG} is missing); start one without --resume")
    before, now = _flat(stored.read_bytes(), stored), _flat(config.model_dump_json(), stored)
    changed = [name for name in now if name not in MAY_CHANGE and before.get(name) != now[name]]
    if set(before) != set(now) or changed:
        named = ", ".join(f"--{name.replace('_', '-')} (was {before.get(name)}, now {now[name]})" for name in changed)
        raise InputError(f"--resume: {folder} was started with other options: {named or 'another command'}")


def _flat(text: bytes | str, source: Path) -> dict[str, Any]:
    """Options by flat name, from the JSON of a config."""
    try:
        nested = TypeAdapter(dict[str, dict[str, Any]]).validate_json(text)
    except ValidationError:
        raise InputError(f"--resume: {source} is damaged (not the options of a run); use --overwrite") from None
    return {name: value for section in nested.values() for name, value in section.items()}

"""The options that are tried: read from a file, checked as the options of a command are, and written as one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aam.config import TuneConfig, flag
from aam.config.search_space import SPACES, Choices, Range, Space, Value
from aam.config.toml_files import read_toml
from aam.config.training import options_read
from aam.config.tune import TUNED_SECTIONS
from aam.errors import InputError, quoted


def space_of(config: TuneConfig) -> Space:
    """The search space of a tuning, checked: that of the file, or that of the learner but for options that are given.

    Raises:
        InputError: the file cannot be read, names an option or a value that cannot be; or nothing is left to try.
    """
    path = config.tuning.space
    space = _usual(config) if path is None else _read(path)
    for name, entry in space.items():
        _check(config, "the search space" if path is None else f"--space {path}", name, entry)
    return space


def _usual(config: TuneConfig) -> Space:
    learner = config.tuning.learner
    given = {name for section in TUNED_SECTIONS for name in getattr(config, section).model_fields_set}
    space = {name: entry for name, entry in SPACES[learner].items() if name not in given}
    if not space:
        raise InputError(
            f"all options that are tried of {learner} are given: drop one of them, or name others by --space"
        )
    return space


def _read(path: Path) -> Space:
    read = read_toml(path, f"--space {path}", "trees = {low = 100, high = 1000}")
    space = {name.replace("-", "_"): _entry(path, name, value) for name, value in read.items()}
    if not space:
        raise InputError(f"--space {path} names no option: `aam tune --show-space` writes one to begin with")
    return space


def _entry(path: Path, name: str, value: Any) -> Range | Choices:
    if not isinstance(value, dict):
        raise InputError(
            f"--space {path}: {name} = {quoted(value)}: an option is given as {{low = ..., high = ...}} or {{choices = "
            f"[...]}}; one that does not change is an option of the command, {flag(name)}"
        )
    kind = Choices if "choices" in value else Range
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"--space {path}: {where}: {said}; an option is given by {kind.form}") from None


def _check(config: TuneConfig, source: str, name: str, entry: Range | Choices) -> None:
    """Refuse an option that this learner does not read, and values that it cannot have."""
    known = readable_options(config)
    if name not in known:
        raise InputError(
            f"{source}: {name} is no option of {config.tuning.learner} that can be tuned; these are: {', '.join(known)}"
        )
    for value in entry.ends:
        try:
            config.evaluation({name: value})
        except InputError as error:
            raise InputError(f"{source}: {name} = {quoted(value)}: {error}") from None
    if isinstance(entry, Range) and not _is_number(config, name, entry.low):
        raise InputError(f"{source}: {name} is no number, so give choices = [...]")


def _is_number(config: TuneConfig, name: str, value: Value) -> bool:
    taken = taken_value(config, name, value)
    return isinstance(taken, int | float) and not isinstance(taken, bool)


def taken_value(config: TuneConfig, name: str, value: Value) -> Any:
    """An option's value as the command has it: numbers and texts in their types, lists as such."""
    return config.evaluation({name: value}).flat()[name]


def readable_options(config: TuneConfig) -> list[str]:
    """Options that the learner reads, with members of the ensemble, and that a search space may name."""
    learner, members = config.tuning.learner, config.ensemble.ensemble_members
    tunable, sections = config.tunable(), config.sections()
    return [
        name
        for name, (section, _) in config.options().items()
        if name in tunable and name in options_read(learner, section, sections[section], members)
    ]


def as_toml(values: Mapping[str, Any]) -> str:
    """Lines ``option = value``; a list is one text with commas, as on the command line."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def space_toml(space: Space) -> str:
    """The search space as a file that `space_of` reads."""
    lines = []
    for name, entry in space.items():
        parts = {key: value for key, value in entry.model_dump().items() if value is not False}
        inside = ", ".join(f"{key} = {_toml(value, nested=True)}" for key, value in parts.items())
        lines.append(f"{name} = {{{inside}}}\n")
    return "".join(lines)


def _toml(value: Any, nested: bool = False) -> str:
    """JSON's numbers, truth values and texts are TOML's too."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]" if nested else json.dumps(",".join(map(str, value)))
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)

"""Options from a TOML file: flat keys, spelled as on the command line or with underscores."""

import difflib
import json
import keyword
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from aam.config import COMMAS, RunConfig, flag, refuse_renamed, split_commas
from aam.config.toml_files import read_toml
from aam.errors import InputError, quoted


def read_config_file(path: Path, config: type[RunConfig]) -> dict[str, Any]:
    """Read the options of one command from a TOML file.

    Relative paths in it stay relative to the working directory, as on the command line.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds an unknown option, one option twice, or a value of
            the wrong type or out of range.
    """
    options = {name: field for name, (_, field) in config.options().items()}
    values: dict[str, Any] = {}
    for key, value in read_toml(path, str(path), "epochs = 20").items():
        name = key.replace("-", "_")
        name += "_" if keyword.iskeyword(name) else ""
        refuse_renamed(name, options)
        if name not in options:
            raise InputError(f"{path}: unknown option {key!r}; {_suggestion(name, options)}")
        if name in values:
            raise InputError(f"{path}: option {key!r} is given twice, with a dash and with an underscore: keep one")
        values[name] = _checked(path, key, value, options[name])
    return values


def _suggestion(name: str, options: dict[str, FieldInfo]) -> str:
    close = difflib.get_close_matches(name, options)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "the help of the command lists its options"


def _checked(path: Path, key: str, value: Any, field: FieldInfo) -> Any:
    """The value in the type of its option, by strict rules: no number from text but in a list, no true from 1."""
    annotation: Any = Annotated[field.annotation, Field(), *(part for part in field.metadata if part != COMMAS)]
    commas = COMMAS in field.metadata
    of_text = commas and isinstance(value, str)
    given = split_commas(value) if of_text else value
    if isinstance(given, str) and isinstance(field.default, tuple):
        given = [given]
    try:
        checked = TypeAdapter(annotation).validate_json(json.dumps(given, default=str), strict=not of_text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(f"{path}: {key} = {quoted(value)}: {problem} ({flag(key)}: {field.description})") from None
    # each a list of one, as an option that is given several times: its commas are not split again
    return [(part,) for part in checked] if commas else checked

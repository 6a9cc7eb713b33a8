"""What sections and run configs are made of."""

import csv
from collections.abc import Container, Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from aam.config.paths import check_texts
from aam.errors import InputError, shown

RENAMED: Final[Mapping[str, str]] = {"test_size": "val_fraction", "nuc_asv_share": "nuc_asv_fraction"}
"""Options that have another name now, which are refused with it."""
WHY_RENAMED: Final[Mapping[str, str]] = {"test_size": "these samples choose the checkpoint, so they are no test of it"}

Positive = Annotated[int, Field(gt=0, le=10**9)]
Reads = Annotated[int, Field(gt=0, lt=2**63)]
"""A number of reads, as counts are kept."""
Processes = Annotated[int, Field(ge=1, le=256)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def split_commas(value: Any) -> Any:
    """Split a text at its commas; one in double quotes is part of a name. Lists stay, mappings become KEY=VALUE."""
    if isinstance(value, dict):
        return tuple(f"{key}={part}" for key, part in value.items())
    if not isinstance(value, str):
        return value
    cells = next(csv.reader([value], skipinitialspace=True), [])
    return tuple(cell.strip() for cell in cells if cell.strip())


COMMAS = BeforeValidator(split_commas)
"""Marks options that take a list as one text, with commas."""
Names = Annotated[tuple[str, ...], COMMAS]


class Main:
    """Marks an option that the short help of a command shows, as are all that are required."""


MAIN = Main()
FEW: Final = 15
"""A command with no more options than this shows them all."""


class Section(BaseModel):
    """A frozen group of options, shown as one panel of the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    panel: ClassVar[str]

    def _refuse_unused(self, option: str, needed: str) -> None:
        """Refuse an option that has no effect here and yet is not left at its default."""
        value = getattr(self, option)
        if value != type(self).model_fields[option].default:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise ValueError(f"{flag(option)} {shown} only has an effect with {needed}")


class RunConfig(BaseModel):
    """The sections of one command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """Section classes by attribute name, in the order of the help."""
        names = list(cls.model_fields)
        if "output" in names:  # follows the input, whichever class declares it
            names.remove("output")
            names.insert(names.index("inputs") + 1, "output")
        kinds = {name: cls.model_fields[name].annotation for name in names}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    @classmethod
    def options(cls) -> dict[str, tuple[str, FieldInfo]]:
        """Every option by its flat name: the section that holds it, and its declaration."""
        return {
            option: (section, field)
            for section, kind in cls.sections().items()
            for option, field in kind.model_fields.items()
        }

    @classmethod
    def main_options(cls) -> tuple[str, ...]:
        """The options that the short help shows, by flat name in the order of the sections."""
        options = {name: field for name, (_, field) in cls.options().items()}
        few = len(options) <= FEW
        return tuple(name for name, field in options.items() if few or field.is_required() or MAIN in field.metadata)

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Self:
        """Build the config from flat option names.

        Raises:
            InputError: an option is unknown, missing, out of range, or contradicts another.
        """
        options = cls.options()
        unknown = sorted(set(values) - set(options))
        for option in unknown:
            refuse_renamed(option, options)
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(options))}")
        nested: dict[str, dict[str, Any]] = {section: {} for section in cls.sections()}
        for option, value in values.items():
            nested[options[option][0]][option] = value
        return cls.checked(nested)

    @classmethod
    def checked(cls, nested: dict[str, Any]) -> Self:
        """Build the config from its sections, each as such or as a mapping of its options.

        Raises:
            InputError: an option is missing, out of range, or contradicts another.
        """
        try:
            config = cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(_explain(error)) from None
        check_texts((flag(option), value) for option, value in config.flat().items())
        return config

    def flat(self) -> dict[str, Any]:
        """Every option by its flat name."""
        return {option: value for section in self.sections() for option, value in getattr(self, section)}


def flag(option: str) -> str:
    """Spelling of an option on the command line: ``max_bp`` -> ``--max-bp``; a word of Python ends with _ there."""
    return "--" + option.rstrip("_").replace("_", "-")


def refuse_renamed(option: str, known: Container[str]) -> None:
    """Refuse the old name of an option of a command; any other name passes.

    Raises:
        InputError: the option has another name now.
    """
    if option not in known and RENAMED.get(option) in known:
        raise InputError(f"{flag(option)} is now called {flag(RENAMED[option])}: {WHY_RENAMED[option]}")


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":
            lines.append(message)
        elif item["type"] == "missing":
            lines.append(f"{flag(str(item['loc'][-1]))} is needed")
        else:
            lines.append(f"{flag(str(item['loc'][1]))} {shown(item['input'])}: {message}")
    return "; ".join(lines)

"""The bridge from the typed configs to click: the options of a command are the fields of its config."""

from collections.abc import Collection, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from pydantic.fields import FieldInfo
from rich_click import RichArgument, RichOption

from aam.config import COMMAS, MAIN, RunConfig, flag, split_commas

_SHOWN_LIMIT = 1000  # a bound from it on guards the machine and says nothing to a reader; pydantic still holds it
_LONG_CHOICES = 28  # characters; longer lists would be broken within a name where the help is 100 columns wide


class _Kind(NamedTuple):
    """What one option takes."""

    type: Any
    limits: tuple[Any, ...] = ()
    multiple: bool = False
    commas: bool = False
    words: tuple[str, ...] = ()
    """What may stand in the place of a number."""


class _NumberOrWord(click.ParamType[Any]):
    """A number, or one of a few words in its place."""

    name = "number"

    def __init__(self, words: tuple[str, ...], number: click.ParamType[Any]) -> None:
        self.words, self.number = words, number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in self.words else self.number.convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class _Commas(click.ParamType[Any]):
    """A list in one text, with commas; what a config file gave is a tuple already."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = split_commas(value)
        return parts if isinstance(parts, tuple) else (parts,)


def _join(_: click.Context, __: click.Parameter, values: Any) -> Any:
    """One list of what an option was given in several."""
    return tuple(part for parts in values for part in parts)


class _QuietSwitch(RichOption):
    """A flag that also obeys its ``--no-`` form, unshown in the help, so that the command line can undo a file."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        negation = f"--no-{self.opts[0].removeprefix('--')}"
        parser.add_option(obj=self, opts=[negation], dest=self.name, action="store_const", const=False)


def parameters(config: type[RunConfig], positional: Collection[str] = ()) -> list[click.Parameter]:
    """One click parameter per option of a config, in the order of its sections.

    Args:
        config: the run config of a command.
        positional: options to take as arguments, without a flag.
    """
    return [
        _argument(name, field) if name in positional else _option(name, field)
        for name, (_, field) in config.options().items()
    ]


def given_values(context: click.Context, config: type[RunConfig]) -> dict[str, Any]:
    """Options that the command line or the config file gave; the others keep the defaults of the config."""
    return {
        name: context.params[name]
        for name in config.options()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def _argument(name: str, field: FieldInfo) -> RichArgument:
    kind = _kind(field.annotation, field.metadata)
    several: dict[str, Any] = {"nargs": -1, "required": True} if kind.multiple else {}
    shown = f"{name.removesuffix('s').upper()}..." if kind.multiple else name.upper()
    return RichArgument([name], type=_click_type(kind), metavar=shown, help=field.description, **several)


def _option(name: str, field: FieldInfo) -> RichOption:
    kind = _kind(field.annotation, field.metadata)
    common: dict[str, Any] = {"help": _help(field, kind), "required": field.is_required()}
    if kind.type is bool:
        return _switch(name, default=field.default, **common)
    if not field.is_required() and field.default not in (None, ()):
        common |= {"default": field.default, "show_default": True}
    if kind.commas:
        common |= {"callback": _join}
    return RichOption(
        [flag(name), name], type=_click_type(kind), multiple=kind.multiple, metavar=_metavar(kind), **common
    )


def _switch(name: str, default: bool | None, **common: Any) -> RichOption:
    if default is not False:
        spelling = f"{flag(name)}/--no-{flag(name).removeprefix('--')}"
        return RichOption([spelling, name], is_flag=True, default=default, show_default=bool(default), **common)
    return _QuietSwitch([flag(name), name], is_flag=True, default=False, **common)


def _kind(annotation: Any, metadata: Collection[Any] = ()) -> _Kind:
    """See through ``Annotated``, ``| None`` and ``tuple[..., ...]`` to the type of one value and its limits."""
    if COMMAS in metadata:
        return _Kind(str, multiple=True, commas=True)
    each = (limit for item in metadata for limit in (item.metadata if isinstance(item, FieldInfo) else (item,)))
    limits = tuple(limit for limit in each if limit is not MAIN)
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return _kind(arguments[0], (*limits, *arguments[1:]))
        case origin if origin in (Union, UnionType):
            one, *words = (argument for argument in arguments if argument is not NoneType)
            return _kind(one, limits)._replace(words=tuple(word for each in words for word in get_args(each)))
        case origin if origin is tuple:
            return _kind(arguments[0], limits)._replace(multiple=True)
    return _Kind(annotation, limits)


def _click_type(kind: _Kind) -> click.ParamType[Any]:
    if kind.commas:
        return _Commas()
    if kind.words:
        return _NumberOrWord(kind.words, _click_type(kind._replace(words=())))
    if get_origin(kind.type) is Literal:
        return click.Choice(get_args(kind.type))
    if kind.type is Path:
        return click.Path(path_type=Path)
    if kind.type in (int, float):
        return (click.IntRange if kind.type is int else click.FloatRange)(**_bounds(kind.limits))
    if kind.type is str:
        return click.STRING
    raise TypeError(f"no command-line form for an option of type {kind.type}")


def _bounds(limits: Iterable[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for limit in limits:
        side, is_open, value = _bound(limit)
        if abs(value) < _SHOWN_LIMIT:
            bounds |= {side: value, f"{side}_open": is_open}
    return bounds


def _bound(limit: Any) -> tuple[str, bool, Any]:
    match limit:
        case annotated_types.Gt(value):
            return "min", True, value
        case annotated_types.Ge(value):
            return "min", False, value
        case annotated_types.Lt(value):
            return "max", True, value
        case annotated_types.Le(value):
            return "max", False, value
    raise TypeError(f"no command-line form for the limit {limit}")


def _metavar(kind: _Kind) -> str:
    if kind.commas:
        return "A,B,..."
    if kind.words:
        return f"{_metavar(kind._replace(words=()))}|{'|'.join(kind.words)}"
    if get_origin(kind.type) is Literal:
        choices = "|".join(get_args(kind.type))
        return f"[{choices}]" if len(choices) <= _LONG_CHOICES else "NAME"
    return {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}.get(kind.type, "")


def _help(field: FieldInfo, kind: _Kind) -> str:
    text = field.description or ""
    return f"{text} One of {', '.join(get_args(kind.type))}." if _metavar(kind) == "NAME" else text

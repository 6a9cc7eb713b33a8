"""The help of a command, in panels: the options that matter, all of them, or one."""

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Final

import click
from rich_click import RichCommand, RichContext, RichOptionPanel

from aam.cli.command import SETTINGS, Command
from aam.config import flag
from aam.errors import InputError

_RENDERING: Final = {"text_paragraph_linebreaks": "\n\n"}
_GENERAL: Final = ("config", "quiet", "help", "help_all", "help_option")
_WIDTH: Final = 100


def render(command: click.Command, context: click.Context, everything: bool) -> str:
    """The help of a command as a text for the terminal.

    Args:
        command: the command.
        context: its context.
        everything: show every option in the panel of its section; otherwise those that matter, each by the first
            sentence of its help.
    """
    assert isinstance(command, Command)
    sections = command.config.sections()
    if everything:
        panels = [RichOptionPanel(kind.panel, options=list(kind.model_fields)) for kind in sections.values()]
        return _rendered(command, context, command.params, panels)
    main = command.config.main_options()
    shown = [parameter for parameter in command.params if parameter.name in main or parameter.name in _GENERAL]
    panels = [RichOptionPanel("Options", options=list(main))]
    return _rendered(command, context, map(_in_a_sentence, shown), panels, _rest(command, context, len(main)))


def _rest(command: Command, context: click.Context, shown: int) -> str | None:
    """What the help leaves out, and where that stands."""
    left = len(command.config.options()) - shown
    path = context.command_path
    return f"{left} more options: {path} --help-all. All about one: {path} --help-option NAME." if left else None


def _rendered(
    command: Command,
    context: click.Context,
    shown: Iterable[click.Parameter],
    panels: Sequence[RichOptionPanel],
    epilog: str | None = None,
) -> str:
    general = RichOptionPanel("General", options=list(_GENERAL))
    drawn = RichCommand(
        name=command.name,
        params=list(shown),
        help=command.help,
        epilog=epilog,
        panels=[*panels, general],
        context_settings=SETTINGS,
    )
    within = RichContext(
        drawn, parent=context.parent, info_name=context.info_name, rich_help_config=_RENDERING, **SETTINGS
    )
    return drawn.get_help(within).rstrip("\n")


def _in_a_sentence(parameter: click.Parameter) -> click.Parameter:
    """A parameter whose help is the first sentence of its own, and those about default and choices."""
    shown: Any = copy(parameter)
    first, *others = str(shown.help).removesuffix(".").split(". ")
    shown.help = ". ".join([first, *(each for each in others if each.startswith(("Default", "One of ")))]) + "."
    return shown  # type: ignore[no-any-return]


def tell_option(command: click.Command, context: click.Context, asked: str) -> str:
    """One option with its whole paragraph, its default, range and choices, and the commands that have it.

    Args:
        command: the command.
        context: its context.
        asked: the name as on the command line, with or without dashes before it, or as in a file.

    Raises:
        InputError: the command has no such option.
    """
    known = {_spelled(parameter): parameter for parameter in command.params}
    name = asked.strip().lstrip("-").replace("_", "-")
    name = name if name in known else name.removeprefix("no-")
    if name not in known:
        raise InputError(_unknown(context, asked, list(known)))
    parameter = known[name]
    told = {**_values(parameter, context), "commands": ", ".join(_commands_with(context.find_root(), parameter))}
    first = max(map(len, told)) + 2
    lines = [_heading(parameter, context), "", *textwrap.wrap(_paragraph(parameter), _WIDTH), ""]
    for what, says in told.items():
        lines += textwrap.wrap(says, _WIDTH, initial_indent=f"{what:{first}}", subsequent_indent=" " * first)
    return "\n".join(lines)


def _spelled(parameter: click.Parameter) -> str:
    return flag(str(parameter.name)).removeprefix("--")


def _paragraph(parameter: click.Parameter) -> str:
    return str(getattr(parameter, "help", "")).rpartition(" One of ")[0] or str(getattr(parameter, "help", ""))


def _heading(parameter: click.Parameter, context: click.Context) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(context)
    spellings = "/".join((*parameter.opts, *parameter.secondary_opts))
    return spellings if getattr(parameter, "is_flag", False) else f"{spellings} {parameter.make_metavar(context)}"


def _values(parameter: click.Parameter, context: click.Context) -> dict[str, str]:
    """What an option may be, and is if it is not given."""
    told = {"default": "none: it is needed"} if parameter.required else {}
    default = parameter.get_default(context)
    if not parameter.required and default not in (None, ()) and isinstance(default, bool | int | float | str | tuple):
        told = {"default": _value(default)}
    kind = getattr(parameter.type, "number", parameter.type)
    if isinstance(kind, click.IntRange | click.FloatRange) and (kind.min is not None or kind.max is not None):
        told["range"] = kind._describe_range()
    words = parameter.type.choices if isinstance(parameter.type, click.Choice) else getattr(kind, "words", ())
    words = words or getattr(parameter.type, "words", ())
    if words:
        told["choices" if isinstance(parameter.type, click.Choice) else "or"] = ", ".join(map(str, words))
    return told


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _commands_with(context: click.Context, parameter: click.Parameter) -> list[str]:
    """The commands below a context that have an option of this name."""
    assert isinstance(context.command, click.Group)
    return [
        path
        for path, command in commands_below(context.command, str(context.info_name))
        if parameter.name in {each.name for each in command.params}
    ]


def commands_below(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group, and of the groups in it, with the words that call them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_below(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _unknown(context: click.Context, asked: str, known: list[str]) -> str:
    close = difflib.get_close_matches(asked.strip("- ").replace("_", "-"), known)
    meant = f"did you mean {' or '.join(close)}?" if close else f"{context.command_path} --help-all lists them"
    return f"--help-option {asked}: {context.command_path} has no such option; {meant}"

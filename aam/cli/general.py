"""What every command has besides the options of its config: a file of options, quiet, and three kinds of help."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich_click import RichOption

from aam.cli.config_file import read_config_file
from aam.cli.help import render, tell_option
from aam.config import RunConfig, flag


def general_options(config: type[RunConfig]) -> list[click.Parameter]:
    """The options that every command has, of a command that takes a config."""
    return [
        _config_file(config),
        RichOption(["--quiet"], is_flag=True, help="Show warnings and errors only."),
        _help("--help-all", _show_all, "Show all options, in groups.", is_flag=True),
        _help("--help-option", _show_one, "Tell all about one option, such as seed.", metavar="NAME", type=_Name()),
    ]


class _Name(click.ParamType[str]):
    """The name of an option of the command."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [flag(str(option.name)).removeprefix("--") for option in ctx.command.params]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _config_file(config: type[RunConfig]) -> RichOption:
    def take_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is not None:
            context.default_map = read_config_file(path, config)

    return RichOption(
        ["--config"],
        type=click.Path(path_type=Path),
        metavar="PATH",
        is_eager=True,  # before the options whose values it may hold
        expose_value=False,
        callback=take_file,
        help="TOML file of options, such as epochs = 20. Options given here win, such as --no-overwrite.",
    )


def _help(spelling: str, callback: Any, text: str, **settings: Any) -> RichOption:
    return RichOption([spelling], is_eager=True, expose_value=False, callback=callback, help=text, **settings)


def _show_all(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(render(context.command, context, everything=True))
        context.exit()


def _show_one(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None and not context.resilient_parsing:
        click.echo(tell_option(context.command, context, name))
        context.exit()

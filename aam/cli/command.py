"""Commands whose options are read from their config when they are first needed, and groups of commands.

The list of commands is shown without pydantic or Rich: a user waits for it.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from aam.cli.interrupts import at_once

if TYPE_CHECKING:
    from aam.config import RunConfig

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Started:
    """What was started: the object of click's context."""

    words: Sequence[str]
    """The words after ``aam``."""
    alone: bool
    """Whether the process does nothing else, so that its garbage is no one else's business."""


class Command(click.Command):
    """A command that takes the options of a config; its help is the docstring of its function."""

    def __init__(self, function: Callable[[Any], None], name: str, positional: Sequence[str] = ()) -> None:
        super().__init__(name, callback=self._run, help=function.__doc__, context_settings=SETTINGS)
        self.function, self.positional = function, positional
        del self.params  # an empty list, which would stand before the property

    @cached_property
    def config(self) -> type[RunConfig]:
        """The config that the function is annotated with."""
        found: type[RunConfig] = getattr(import_module("aam.config"), self.function.__annotations__["config"])
        return found

    @cached_property
    def params(self) -> list[click.Parameter]:  # type: ignore[override]
        """One parameter for each option of the config, and what every command has besides."""
        with importing():
            from aam.cli.general import general_options
            from aam.cli.options import parameters

        return [*parameters(self.config, self.positional), *general_options(self.config)]

    def get_help(self, ctx: click.Context) -> str:
        """The options that matter, in a panel."""
        from aam.cli.help import render

        return render(self, ctx, everything=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; an option that has another name now is refused with it."""
        from aam.config import refuse_renamed

        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            refuse_renamed(error.option_name.removeprefix("--").replace("-", "_"), {each.name for each in self.params})
            raise

    def _run(self, quiet: bool, **_: Any) -> None:
        from aam.cli.options import given_values
        from aam.config.launch import invoked, launched_rank

        context = click.get_current_context()
        # what the others would say, rank 0 says too; `aam.cli.main` prints their errors
        level = logging.WARNING if quiet else logging.INFO
        started = context.find_object(Started)
        with invoked(started.words if started else ()), messages_to_stderr(logging.ERROR if launched_rank() else level):
            self.function(self.config.from_flat(given_values(context, self.config)))


class Group(click.Group):
    """A group that shows its commands by what they are for, and its help where no command is named."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **settings: Any) -> None:
        wide = SETTINGS | {"max_content_width": 100}
        super().__init__(*args, **settings | {"no_args_is_help": False, "context_settings": wide})
        self.sections = sections

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what comes before the command; where nothing is given show the help, and leave with 2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of commands for each section."""
        longest = max(map(len, self.commands))
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{longest}}", _first_sentence(self.commands[name])) for name in names])


def _first_sentence(command: click.Command) -> str:
    """What the list says of a command, whole: click cuts it at 45 characters."""
    return (command.help or "").split("\n\n")[0].replace("\n", " ").strip()


@contextmanager
def importing() -> Iterator[None]:
    """Import without searching for garbage, neither now nor, among what is imported, later: a fourth of the time.

    An interrupt ends the process at once.
    """
    searches = gc.isenabled()
    gc.disable()
    try:
        with at_once():
            yield
    finally:
        context = click.get_current_context(silent=True)
        started = context and context.find_object(Started)
        if started and started.alone:
            gc.freeze()
        if searches:
            gc.enable()


@contextmanager
def messages_to_stderr(level: int) -> Iterator[None]:
    """Show what aam logs, from a level on."""
    logger = logging.getLogger("aam")
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)

"""Completion by the shell, by click's own scripts: they ask ``aam`` itself what may come next."""

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
_ASKS: Final = "_AAM_COMPLETE"
"""The variable by which a shell asks; click makes it of the program's name."""


def script(app: click.Command, shell: str) -> str:
    """The script for a shell, one of `SHELLS`.

    Args:
        app: the group of all commands.
        shell: bash (4.4 or later), zsh or fish.
    """
    of_shell = get_completion_class(shell)
    assert of_shell is not None
    return of_shell(app, {}, "aam", _ASKS).source()

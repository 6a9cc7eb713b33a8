"""The command line of aam."""

from collections.abc import Sequence
from typing import NoReturn

from aam.cli.interrupts import at_once


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code: see `aam.cli.entry.run`.

    Args:
        arguments: the words after ``aam``; by default those of the process.
    """
    with at_once():
        from aam.cli.entry import run
    run(arguments)

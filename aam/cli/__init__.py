"""The command line of aam."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from aam.cli.app import app
from aam.errors import InputError, TrainingDivergedError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code.

    One message and a code stand for what the user can mend: 2 for input, 1 for a training that diverged, 130 for an
    interrupt. Any other exception is a defect of aam and keeps its traceback.

    Args:
        arguments: the words after ``aam``; by default those of the process.
    """
    try:
        code = app.main(arguments, prog_name="aam", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
        sys.exit(error.exit_code)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except TrainingDivergedError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    sys.exit(code or 0)

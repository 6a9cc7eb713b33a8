"""The command line of aam."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from aam.cli.app import app
from aam.cli.command import Started
from aam.errors import InputError, PeerFailedError, ReportedInputError, StoppedBySignalError, TrainingDivergedError

STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: not done, worth another try."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code.

    One message and a code stand for what the user can mend: 2 for input, 1 for a training that diverged or another
    process that failed, 75 for a run that a signal stopped after a checkpoint, 130 for an interrupt. Any other
    exception is a defect of aam and keeps its traceback.

    Args:
        arguments: the words after ``aam``; by default those of the process.
    """
    before, InputError.names_options = InputError.names_options, True
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        code = app.main(words, prog_name="aam", standalone_mode=False, obj=Started(words, alone=arguments is None))
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
        sys.exit(error.exit_code)
    except ReportedInputError:
        sys.exit(2)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except TrainingDivergedError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except PeerFailedError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.code)
    except StoppedBySignalError as error:
        from aam.config.launch import launched_rank

        if launched_rank() == 0:
            click.echo(str(error), err=True)
        sys.exit(STOPPED)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    finally:
        InputError.names_options = before
    sys.exit(code or 0)

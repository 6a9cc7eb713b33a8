"""One command, from its words to its exit code."""

import errno
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from aam.cli.app import app
from aam.cli.command import Started
from aam.cli.interrupts import INTERRUPTED
from aam.errors import (
    InputError,
    PeerFailedError,
    ReportedInputError,
    StoppedBySignalError,
    TrainingDivergedError,
    shown,
)

STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: not done, worth another try."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
OUT_OF_REACH: Final = FULL | {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""What the system says where a disk is full, of a limited size for files, gone, or not to be written any more."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code.

    One message and a code stand for what the user can mend: 2 for input, 1 for a training that diverged, a disk that is
    full or gone, or another process that failed, 75 for a run that a signal stopped after a checkpoint, 130 for an
    interrupt. Any other exception is a defect of aam and keeps its traceback.

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
    except OSError as error:
        if error.errno not in OUT_OF_REACH:
            raise
        click.echo(f"Error: {_said_of(error)}", err=True)
        sys.exit(1)
    except StoppedBySignalError as error:
        from aam.config.launch import launched_rank

        if launched_rank() == 0:
            click.echo(str(error), err=True)
        sys.exit(STOPPED)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    finally:
        InputError.names_options = before
    sys.exit(code or 0)


def _said_of(error: OSError) -> str:
    place = "a file" if error.filename is None else shown(error.filename)
    remedy = "make room" if error.errno in FULL else "make it so that it can"
    return (
        f"{place} cannot be written or read: {error.strerror}. What is there is whole; {remedy}, and run the command "
        "again, with --resume where it has that option"
    )

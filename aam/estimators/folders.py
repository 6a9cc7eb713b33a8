"""Output folders of fits that share one `output_dir`, as those of a cross-validation do."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from aam.errors import InputError


@contextmanager
def folder_of_clone(parent: Path) -> Iterator[Path]:
    """Make a folder ``fit-1``, ``fit-2``, ... that nobody has, and take it away again if nothing comes into it.

    Making a folder is atomic, so that fits in several processes do not come to the same one.

    Raises:
        InputError: it cannot be made.
    """
    existed = parent.exists()
    folder = _claim(parent)
    try:
        yield folder
    finally:
        with suppress(OSError):  # a run is in it, or another fit is beside it
            folder.rmdir()
            if not existed:
                parent.rmdir()


def _claim(parent: Path) -> Path:
    for number in count(1):
        folder = parent / f"fit-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"--output-dir {parent}: no folder can be made in it ({error.strerror})") from None
        return folder
    raise AssertionError("numbers have no end")

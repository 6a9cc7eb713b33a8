"""The metrics of a run by step, a line of JSON each."""

import json
import math
from pathlib import Path

from aam.data.files.whole_files import whole_file
from aam.errors import InputError
from aam.training.checkpoints.files import delete
from aam.training.sinks.sink import Sink, Values


class JsonLines(Sink):
    """Writes each line at once; what is undefined or not finite is null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, total_steps: int, resumed_step: int | None) -> None:
        """See `Sink`.

        Raises:
            InputError: the file of the run to resume is damaged.
        """
        if resumed_step is None:
            delete(self._path)
        elif self._path.exists():
            cut_metrics(self._path, resumed_step)
        self._lines = self._path.open("a", encoding="utf-8", buffering=1)

    def log(self, step: int, epoch: int, values: Values) -> None:
        """See `Sink`."""
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "epoch": epoch, **finite}, allow_nan=False) + "\n")

    def close(self) -> None:
        """See `Sink`."""
        self._lines.close()


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill left unfinished, atomically.

    Raises:
        InputError: another line is not what aam writes.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    kept = [line for number, line in enumerate(lines, 1) if _step_of(line, number, path) <= step]
    with whole_file(path) as draft:
        draft.write_bytes(b"".join(kept))


def _step_of(line: bytes, number: int, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}, line {number}: not a line of metrics with a step; delete the line, or start anew with --overwrite"
        ) from None

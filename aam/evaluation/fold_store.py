"""Folds that are done, kept as files: what was stopped goes on where it was, and jobs of an array share the work."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aam.data.files.whole_files import write_text
from aam.errors import InputError
from aam.evaluation.fold_fits import FoldResult

_RESULT: TypeAdapter[FoldResult] = TypeAdapter(FoldResult)


@dataclass(frozen=True)
class FoldStore:
    """The folder of an evaluation's folds. Numbers are written so that reading gives the same ones, to the last bit."""

    folder: Path
    fingerprint: str
    """Hash of the samples, the folds and the options."""

    def path(self, variant: str, name: str) -> Path:
        """File of a fold, by the name of its variant and its own."""
        return self.folder / f"{variant}-{name}.json"

    def read(self, variant: str, name: str) -> FoldResult | None:
        """A fold that is done, or None.

        Raises:
            InputError: it is damaged, or of other samples or options.
        """
        path = self.path(variant, name)
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            result = _RESULT.validate_python(document["result"])
        except (ValueError, KeyError, TypeError, ValidationError):
            raise InputError(f"{path} is damaged; delete it, and its fold is computed again") from None
        if document.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"--resume: {path} is of other data: table, tree, metadata or folds have changed since; start anew "
                "with --overwrite, or name another folder"
            )
        return result

    def write(self, result: FoldResult) -> None:
        """Keep a fold."""
        document = {"fingerprint": self.fingerprint, "result": asdict(result)}
        path = self.path(result.variant, f"{result.repeat}.{result.fold}")
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(document) + "\n")

    def missing(self, variant: str, names: Iterator[str]) -> list[str]:
        """Folds that are not done, of some."""
        return [name for name in names if not self.path(variant, name).exists()]

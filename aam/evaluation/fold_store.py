"""Folds that are done, kept as files: what was stopped goes on where it was, and jobs of an array share the work."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aam.data.files.whole_files import write_text
from aam.errors import InputError
from aam.evaluation.fold_fits import FoldResult
from aam.evaluation.fold_models import FoldModels

_RESULT: TypeAdapter[FoldResult] = TypeAdapter(FoldResult)


@dataclass(frozen=True)
class FoldStore:
    """The folder of an evaluation's folds. Numbers are written so that reading gives the same ones, to the last bit."""

    folder: Path
    fingerprint: str
    """Hash of the samples, the folds and the options."""
    models: FoldModels | None = None
    """Where what was learned is kept; None where it is not."""

    def recorded(self, provenance: Mapping[str, Any]) -> "FoldStore":
        """The same, which keeps with what was learned where it comes from."""
        return self if self.models is None else replace(self, models=replace(self.models, provenance=provenance))

    def path(self, variant: str, name: str) -> Path:
        """File of a fold, by the name of its variant and its own."""
        return self.folder / f"{variant}-{name}.json"

    def has(self, variant: str, name: str, learners: Collection[str]) -> bool:
        """Whether a fold is done, and what these learners have learned in it is kept where it is to be."""
        whole = self.models is None or self.models.complete(variant, name, learners)
        return whole and self.path(variant, name).exists()

    def read(self, variant: str, name: str, learners: Collection[str]) -> FoldResult | None:
        """A fold that is done, or None.

        Raises:
            InputError: it is damaged, or of other samples or options.
        """
        path = self.path(variant, name)
        if not self.has(variant, name, learners):
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

"""Output folders as a report reads them: of which command, its options, documents, tables, and its study."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pandas as pd

from aam.config import UnifracConfig
from aam.data.study import Study
from aam.errors import InputError
from aam.report.distances import Distances
from aam.report.ordination import Compared, compare
from aam.report.studies import NoStudy, differing, load_run_study
from aam.training.run_folder import SIDES, RunFolder

Kind: TypeAlias = Literal["pretrain", "train", "evaluate", "explanation", "tuning"]
TITLES: Final[Mapping[Kind, str]] = {
    "pretrain": "pretraining",
    "train": "training",
    "evaluate": "evaluation",
    "explanation": "explanation",
    "tuning": "tuning",
}


@dataclass(frozen=True, eq=False)
class Run:
    """One output folder."""

    folder: RunFolder
    kind: Kind
    config: Mapping[str, Mapping[str, Any]]
    """Options by section, as they were given; empty where the command keeps none."""
    distances: Distances | str | None = None
    """Of a pretraining, true and predicted distances of samples, or why there are none."""
    errors_by: tuple[str, ...] = ()
    """Columns of the metadata by which errors are shown; none for those that tell errors apart the most."""
    _read: dict[Path, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """See what a folder holds.

        Raises:
            InputError: it holds nothing that a report is made from, or a file in it is damaged.
        """
        folder = RunFolder(path)
        if not path.is_dir():
            raise InputError(f"{path} is no folder: name output folders of aam pretrain, train, evaluate or explain")
        config = _json(folder.config) if folder.config.exists() else {}
        if any(not isinstance(section, dict) for section in config.values()):
            raise InputError(f"{folder.config} is damaged (not the options of a run): make the run anew")
        if folder.explanation.exists():
            return cls(folder, "explanation", config)
        if folder.tuning.exists():
            return cls(folder, "tuning", config)
        found = _kind_of(config)
        if found is None:
            raise InputError(
                f"{path} holds no run that a report is made from: name output folders of aam pretrain, train, evaluate "
                "or explain"
            )
        _check_finished(folder, found)
        return cls(folder, found, config)

    @property
    def name(self) -> str:
        """What the run is called on a page of several."""
        return f"{TITLES[self.kind]} {self.folder.path.name or self.folder.path}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the metadata that the run predicts."""
        return tuple(self.config.get("target", {}).get("metadata_column") or ())

    @property
    def group_column(self) -> str | None:
        """Column whose groups are never on two sides."""
        section = self.config.get("folds", self.config.get("split", {}))
        group: str | None = section.get("group_column") or section.get("fold_column")
        return group

    def document(self, path: Path) -> dict[str, Any] | None:
        """A JSON file of the folder; None where it is not there.

        Raises:
            InputError: it is damaged.
        """
        if path not in self._read:
            self._read[path] = _json(path) if path.exists() else None
        document: dict[str, Any] | None = self._read[path]
        return document

    def table(self, path: Path, text: tuple[str, ...] = ()) -> pd.DataFrame | None:
        """A tab-separated file of the folder; None where it is not there.

        Args:
            path: the file.
            text: columns whose values stay as they are written.

        Raises:
            InputError: it is damaged.
        """
        if path not in self._read:
            self._read[path] = _table(path, text) if path.exists() else None
        table: pd.DataFrame | None = self._read[path]
        return table

    @cached_property
    def sample_ids(self) -> tuple[str, ...] | None:
        """Samples of the run; None where the folder does not tell."""
        for path in (self.folder.fold_table, self.folder.split):
            table = self.table(path, ("sample_id", "group", "split"))
            if table is not None:
                return tuple(dict.fromkeys(table["sample_id"]))
        return None

    @cached_property
    def study(self) -> Study | NoStudy:
        """The samples of the run, read from its input files, or why that cannot be done."""
        if self.kind in ("explanation", "tuning"):
            return NoStudy("the folder names no input files")
        study = load_run_study(self.kind, self.config, self.sample_ids)
        if isinstance(study, NoStudy) or study.metadata is None:
            return study
        for column, true in self._truth().items():
            changed = differing(study.metadata, column, true)
            if changed:
                told = f"{column} of {changed} of {len(true)} samples is not what the run saw"
                return NoStudy(f"the files have changed: {told}")
        return study

    def _truth(self) -> dict[str, "pd.Series[Any]"]:
        """True values of held-out samples as the run wrote them, by column and sample id."""
        classes = bool(self.config.get("target", {}).get("classifier"))
        text = ("sample_id", "learner", *(("true", "prediction") if classes else ()))
        paths = [self.folder.predictions("")] if self.kind == "evaluate" else map(self.folder.side_predictions, SIDES)
        tables = [table for path in paths if (table := self.table(path, text)) is not None]
        several = len(self.columns) > 1
        found = {}
        for column in self.columns if tables else ():
            parts = [table.set_index("sample_id")[f"true_{column}" if several else "true"] for table in tables]
            true = pd.concat(parts)
            found[column] = true[~true.index.duplicated()].dropna()
        return found

    @cached_property
    def compared(self) -> Compared | None:
        """UniFrac between the samples of the study, or some of them; None where it cannot be read."""
        return None if isinstance(self.study, NoStudy) else compare(self.study, UnifracConfig())


def _kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The command of a config by sections that it alone has."""
    if "comparison" in config:
        return "evaluate"
    if "masking" in config and "output" in config and "search" not in config:
        return "pretrain"
    return "train" if "choice" in config and "output" in config else None


def _check_finished(folder: RunFolder, kind: Kind) -> None:
    marks: dict[Kind, Path] = {"evaluate": folder.evaluation, "pretrain": folder.split, "train": folder.split}
    if not marks[kind].exists():
        raise InputError(f"the {TITLES[kind]} in {folder} is not finished: continue it with --resume")


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        raise InputError(f"{path} is damaged (no JSON): make the run anew") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged (no JSON object): make the run anew")
    return document


def _table(path: Path, text: tuple[str, ...]) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # pandas' own errors of parsing are ValueErrors
        raise InputError(f"{path} is damaged or cannot be read ({error}): make the run anew") from None

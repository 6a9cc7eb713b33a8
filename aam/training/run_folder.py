"""The output folder of a run: one object that knows every file in it by name.

It lies on this floor because nothing below writes to such a folder: checkpoints, sinks and the memory profile do, and
the floors above. What writes takes its path from here, so that ``--overwrite`` forgets no file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Generic, Literal, TypeAlias, TypeVar

Side: TypeAlias = Literal["val", "test"]
"""Samples that do not train: those that validate, and those of a test."""
Ending: TypeAlias = Literal["png", "svg"]
SIDES: Final[tuple[Side, ...]] = ("val", "test")
ENDINGS: Final[tuple[Ending, ...]] = ("png", "svg")
VARIANTS: Final = ("", "_rarefied", "_random")
"""Ends of the names of an evaluation's tables: one for each way to look at the samples."""

Kind = TypeVar("Kind", bound=str | int)


class Known:
    """What a `RunFolder` has, under one name or several, which may have a ``*``.

    Args:
        names: within the folder.
        stays: whether ``--overwrite`` leaves it to those who hold or write it.
    """

    def __init__(self, *names: str, stays: bool = False) -> None:
        self.names, self.stays = names, stays


class File(Known):
    """A file; of a `RunFolder`, its path."""

    def __get__(self, folder: "RunFolder", owner: type["RunFolder"]) -> Path:
        return folder.path / self.names[0]


class Folder(File):
    """A folder with all that is in it."""


class Files(Known, Generic[Kind]):
    """A file of each of several kinds; of a `RunFolder`, the function that gives the path of a kind.

    Args:
        pattern: name, with ``{}`` for the kind.
        kinds: all that there are; none for as many as there happen to be.
    """

    def __init__(self, pattern: str, *kinds: Kind) -> None:
        super().__init__(*(pattern.format(kind) for kind in kinds or ("*",)))
        self._pattern, self._kinds = pattern, kinds

    def __get__(self, folder: "RunFolder", owner: type["RunFolder"]) -> Callable[[Kind], Path]:
        def path_of(kind: Kind) -> Path:
            if self._kinds and kind not in self._kinds:
                raise ValueError(f"{self._pattern} has no {kind!r}: list it in {__name__}")
            return folder.path / self._pattern.format(kind)

        return path_of


@dataclass(frozen=True)
class RunFolder:
    """The folder that ``--output-dir`` names; it need not exist."""

    path: Path

    checkpoints = Folder("checkpoints")  # the first to go: nobody finds them beside the options of another run
    config = File("config.json", stays=True)
    """The options, as they were given."""
    lock = File(".lock", stays=True)
    """Locked by the process that works in the folder, or by several."""
    launch = File(".launch")
    """Which launch began the run, so that a restart of it by torchrun resumes."""
    begin = File(".begin", stays=True)
    """Locked for a moment by each of several processes that work in one folder, so that one of them begins it."""
    replaced = Folder(".replaced", stays=True)
    """Where the files of an overwritten run go at once, to be deleted from there."""

    provenance = File("provenance.json")
    """By which software, from which files, where and when the results came to be."""
    metrics = File("metrics.jsonl")
    tensorboard = Folder("tensorboard")
    tracked_run = File("tracked_run.json")
    """Which run of a tracker of experiments this one is."""
    log = File("training.log")
    rank_log = Files[int]("training-rank{}.log")
    memory_profile = File("memory_profile.tsv")
    memory_snapshot = File("memory_snapshot.pickle")

    split = File("split.tsv")
    left_out = File("left_out.tsv")
    distances = File("val_distances.json")
    distances_plot = File("plots/val_distances.png")
    side_predictions = Files[Side]("{}_predictions.tsv", *SIDES)
    side_metrics = Files[Side]("{}_metrics.json", *SIDES)
    side_plot = Files[Side]("plots/{}_predictions.png", *SIDES)
    report = File("report.html")
    leakage = File("leakage.json")
    baselines = File("baselines.json")

    find_lr = File("find_lr.tsv")
    find_lr_plot = File("plots/find_lr.png")

    folds = Folder("folds")
    """Folds of `aam evaluate` that are done."""
    models = Folder("models")
    """What the learners of these folds have learned, with ``--keep-models``."""
    evaluation = File("evaluation.json")
    fold_table = File("folds.tsv")
    predictions = Files[str]("predictions{}.tsv", *VARIANTS)
    scores = Files[str]("scores{}.tsv", *VARIANTS)
    differences = Files[str]("differences{}.tsv", *VARIANTS)
    errors_by_group = Files[str]("errors_by_group{}.tsv", *VARIANTS)
    coverage = Files[str]("coverage{}.tsv", *VARIANTS)
    predictions_plot = Files[Ending]("plots/predictions.{}", *ENDINGS)
    scores_plot = Files[Ending]("plots/scores.{}", *ENDINGS)

    study = File("study.journal")
    """Trials of `aam tune`, unless a database keeps them."""
    study_lock = File("study.journal.flock")
    workers = Folder(".workers")
    """A file of each process that works here beside others, locked for as long as it lives."""
    study_id = File("study.id")
    """What the searches of this tuning are called in the study file."""
    trials = File("trials.tsv")
    best_options = File("best.toml")
    tuning = File("tuning.json")
    history_plot = Files[Ending]("plots/tuning_history.{}", *ENDINGS)
    tuning_importance_plot = Files[Ending]("plots/tuning_importance.{}", *ENDINGS)
    explanation = File("explanation.json")
    importance = File("importance.tsv")
    importance_plot = Files[Ending]("plots/importance.{}", *ENDINGS)
    importance_itol = File("importance_itol.txt")
    importance_tree = File("importance.nwk")
    robustness = File("robustness.tsv")
    robustness_plot = Files[Ending]("plots/robustness.{}", *ENDINGS)
    log_ratio = File("log_ratio.tsv")
    log_ratio_taxa = File("log_ratio_taxa.tsv")
    log_ratio_plot = Files[Ending]("plots/log_ratio.{}", *ENDINGS)
    attribution = File("attribution.tsv")
    attribution_samples = File("attribution_samples.tsv")
    attribution_plot = Files[Ending]("plots/attribution.{}", *ENDINGS)
    attribution_sample_plot = Files[Ending]("plots/attribution_sample.{}", *ENDINGS)
    attention = File("attention.tsv")
    attention_nucleotides = File("attention_nucleotides.tsv")
    attention_plot = Files[Ending]("plots/attention.{}", *ENDINGS)
    deletion = File("deletion.tsv")
    deletion_plot = Files[Ending]("plots/deletion.{}", *ENDINGS)

    def __str__(self) -> str:
        return str(self.path)

    def owns(self, place: Path) -> bool:
        """Whether a path, links followed, is a file of a run or lies in one of its folders, there or not."""
        place, root = place.resolve(), self.path.resolve()
        return any(
            place.is_relative_to((root / name).resolve()) or (place.parent == root and fnmatchcase(place.name, name))
            for each in KNOWN
            for name in each.names
        )

    def misplaced(self) -> Path | None:
        """A folder where a run has a file, or a file where it has a folder; None where all is as it should be."""
        for each in KNOWN:
            for place in (place for name in each.names for place in self.path.glob(name)):
                if place.is_dir() is not isinstance(each, Folder):
                    return place
        plots = self.path / "plots"
        return plots if plots.exists() and not plots.is_dir() else None


KNOWN: Final = tuple(each for each in vars(RunFolder).values() if isinstance(each, Known))
RUN_FILES: Final = tuple(name for each in KNOWN if not each.stays for name in each.names)
"""What ``--overwrite`` takes away, in this order; a name may have a ``*``."""

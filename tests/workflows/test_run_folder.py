"""All that runs leave has a name in `RunFolder`, and only there."""

import ast
from pathlib import Path

import pytest

import aam as package
from aam.config import EvaluateConfig, ExplainConfig, PretrainConfig, PretrainFindLrConfig, TrainConfig, TuneConfig
from aam.training import run_folder
from aam.training.run_folder import KNOWN, RUN_FILES, RunFolder
from aam.workflows.evaluate import evaluate
from aam.workflows.explain import explain
from aam.workflows.find_lr import find_lr
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train
from aam.workflows.tune import tune

PACKAGE = Path(package.__file__).parent


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, pretrain_options) -> Path:
    """Output folder of `pretrain` with all that is left on request."""
    folder = tmp_path_factory.mktemp("runs") / "profiled"
    pretrain(PretrainConfig.from_flat(pretrain_options(folder, memory_profile=True)))
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, train_options) -> Path:
    """Output folder of `train` with a learner other than the network, and samples for a test."""
    folder = tmp_path_factory.mktemp("runs") / "forest"
    small = ("table", "metadata", "metadata_column", "group_column")
    options = {name: value for name, value in train_options(folder).items() if name in small}
    options |= {"learner": "forest", "trees": 5, "test_fraction": 0.2, "output_dir": folder}
    train(TrainConfig.from_flat(options))
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory, study_folder) -> Path:
    """Output folder of `evaluate`, one fold of which was computed by itself."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    files["tree"] = study_folder / "tree.nwk"
    small = {
        "metadata_column": "acidity",
        "group_column": "subject",
        "learners": "linear",
        "trees": 5,
        "folds": 2,
        "repeats": 1,
        "gap": True,
        "keep_models": True,
    }
    for way in ({"only_fold": "1"}, {"resume": True}):
        evaluate(EvaluateConfig.from_flat({**files, **small, **way, "output_dir": folder}))
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory, pretrain_options) -> Path:
    """Output folder of `find_lr`."""
    folder = tmp_path_factory.mktemp("runs") / "swept"
    known = PretrainFindLrConfig.options()
    options = {name: value for name, value in pretrain_options(folder).items() if name in known}
    find_lr(PretrainFindLrConfig.from_flat(options))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, study_folder) -> Path:
    """Output folder of `tune`."""
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'aam[tune]'")
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    small = {"metadata_column": "acidity", "group_column": "subject", "learner": "linear", "folds": 2}
    small |= {"trials": 4, "nested_trials": 1, "nested_folds": 2}
    tune(TuneConfig.from_flat({**files, **small, "output_dir": folder}))
    return folder


def explain_compared(compared: Path, folder: Path, **options: object) -> Path:
    """Output folder of `explain` of an evaluation."""
    explain(ExplainConfig.from_flat({"evaluation": compared, "output_dir": folder, **options}))
    return folder


@pytest.fixture(scope="module")
def importance(tmp_path_factory, compared) -> Path:
    """Output folder of `explain` with importance."""
    folder = tmp_path_factory.mktemp("runs") / "importance"
    return explain_compared(compared, folder, what="importance", learner="linear", permutations=1)


@pytest.fixture(scope="module")
def balance(tmp_path_factory, compared) -> Path:
    """Output folder of `explain` with a log-ratio."""
    return explain_compared(compared, tmp_path_factory.mktemp("runs") / "balance", what="log-ratio")


@pytest.fixture(scope="module")
def worse(tmp_path_factory, compared) -> Path:
    """Output folder of `explain` with robustness."""
    return explain_compared(compared, tmp_path_factory.mktemp("runs") / "worse", what="robustness", learner="linear")


@pytest.fixture(scope="module")
def explain_samples(tmp_path_factory, regressor, study_folder):
    """Explain a few samples by the network."""

    def explained(what: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / what
        files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
        options = {"what": what, "checkpoint": regressor, "samples": "3", "device": "cpu", "output_dir": folder}
        explain(ExplainConfig.from_flat({**files, **options}))
        return folder

    return explained


@pytest.fixture(scope="module")
def attributed(explain_samples) -> Path:
    """Output folder of `explain --what attribution`."""
    return explain_samples("attribution")


@pytest.fixture(scope="module")
def attended(explain_samples) -> Path:
    """Output folder of `explain --what attention`."""
    return explain_samples("attention")


@pytest.fixture(scope="module")
def deleted(explain_samples) -> Path:
    """Output folder of `explain --what deletion`."""
    return explain_samples("deletion")


RUNS = [
    "pretrained",
    "regressor",
    "classifier",
    "profiled",
    "fitted",
    "compared",
    "swept",
    "importance",
    "worse",
    "balance",
    "tuned",
    "attributed",
    "attended",
    "deleted",
]


@pytest.mark.parametrize("run", RUNS)
def test_no_run_leaves_a_file_that_its_folder_does_not_know(run, request):
    folder = request.getfixturevalue(run)
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert left
    assert [path for path in left if not RunFolder(folder).owns(path)] == []


def test_what_is_known_is_what_runs_leave(request):
    """A name that nobody writes any more would keep others from using it."""
    folders = [request.getfixturevalue(run) for run in RUNS]
    missing = [name for each in KNOWN for name in each.names if not any(list(one.glob(name)) for one in folders)]
    # of many processes, of a GPU, of an overwritten run, of a tracker, and of targets that sequencing depth predicts
    elsewhere = {"training-rank*.log", "memory_snapshot.pickle", ".replaced", "tracked_run.json"}
    assert {name for name in missing if "_rarefied" not in name} <= elsewhere


def test_other_files_are_not_known(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("notes.txt", "training-notes.log", "plots/mine.png", "plots", "deep/config.json", "config.json.bak"):
        assert not folder.owns(tmp_path / name)
    for name in ("config.json", "training-rank12.log", "checkpoints/a/b", "plots/scores.svg", ".begin"):
        assert folder.owns(tmp_path / name)


def test_a_kind_that_is_not_listed_has_no_file(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.side_metrics("val") == tmp_path / "val_metrics.json"
    assert folder.rank_log(3) == tmp_path / "training-rank3.log"
    with pytest.raises(ValueError, match="has no '_other': list it in"):
        folder.scores("_other")


def _texts(path: Path) -> set[str]:
    """Text constants of a module, those in f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_names_of_files_are_written_in_one_place():
    names = {part for name in RUN_FILES for part in (name, f"/{name}", Path(name).name) if "." in part}
    found = {
        str(path.relative_to(PACKAGE)): sorted(_texts(path) & names)
        for path in PACKAGE.rglob("*.py")
        if path != Path(run_folder.__file__) and _texts(path) & names
    }
    assert found == {}

"""The real trackers of experiments, on this machine: what a run sends is there to be read."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aam.config import EvaluateConfig, TrainConfig
from aam.config.tracking import TrackingConfig
from aam.errors import InputError
from aam.training.monitor import Monitor
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Results
from aam.training.sinks.tensor_board import TensorBoard
from aam.training.sinks.tracker import Tracker
from aam.training.sinks.trackers import TRACKERS, trackers_of
from aam.workflows.evaluate import evaluate
from aam.workflows.tracking import track_report
from aam.workflows.train import train

NETWORK = {"embedding_dim": 8, "attention_heads": 2, "epochs": 3, "min_steps": 0, "batch_size": 16, "log_every": 1}


def loads(name: str) -> bool:
    """Whether a tracker can be imported, which an old one cannot beside new libraries."""
    if find_spec(name) is None:
        return False
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def needs(name: str) -> None:
    if not loads(name):
        pytest.skip(f"{name} is not installed, or cannot be loaded: pip install 'aam[{name}]'")


def words(study: Path, folder: Path, **options: object) -> list[str]:
    files = {"table": study / "table.biom", "metadata": study / "metadata.tsv", "metadata_column": "acidity"}
    given = {**files, "group_column": "subject", "device": "cpu", **NETWORK, "output_dir": folder, **options}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def run(study: Path, folder: Path, environment: dict[str, str], *more: str, **options: object) -> None:
    """Train in a process of its own: trackers keep threads and read the environment when they are imported."""
    command = [sys.executable, "-m", "aam", "train", *words(study, folder, **options), "--no-baselines", *more]
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=own, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def logged(folder: Path, metric: str) -> list[tuple[int, float]]:
    """A metric by step, as the run's own file has it."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[metric]) for line in lines if metric in line]


def number_of(folder: Path) -> str:
    return json.loads((folder / "tracked_run.json").read_text())["run"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_shows_a_run_that_was_resumed(study_folder, tmp_path):
    needs("mlflow")
    from mlflow import MlflowClient  # noqa: PLC0415

    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = {"MLFLOW_TRACKING_URI": place, "MLFLOW_EXPERIMENT_NAME": "acid"}
    folder = tmp_path / "run"
    run(study_folder, folder, environment, track="mlflow")
    first = number_of(folder)
    run(study_folder, folder, environment, "--resume", track="mlflow")
    assert number_of(folder) == first
    client = MlflowClient(tracking_uri=place)
    (found,) = client.search_runs([client.get_experiment_by_name("acid").experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (first, "run", "FINISHED")
    assert found.data.params["embedding_dim"] == "8"
    for metric in ("train/loss", "val/r2"):
        history = {(each.step, each.value) for each in client.get_metric_history(first, metric)}
        assert history == set(logged(folder, metric))
    scores = json.loads((folder / "val_metrics.json").read_text())
    assert found.data.metrics["final/val/r2"] == scores["r2"]
    assert [file.path for file in client.list_artifacts(first, "plots")] == ["plots/val_predictions.png"]


@pytest.mark.slow
def test_trackio_shows_a_run(study_folder, tmp_path):
    needs("trackio")
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    folder = tmp_path / "run"
    run(study_folder, folder, environment, track="trackio", track_project="acid")
    run(study_folder, folder, environment, "--resume", track="trackio", track_project="acid")
    script = "from trackio.cli import main; main()"
    ask = ["get", "metric", "--project", "acid", "--run", number_of(folder), "--metric", "val/r2", "--json"]
    own = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", script, *ask], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout[done.stdout.index("{") :])["values"]
    assert {(point["step"], point["value"]) for point in points} == set(logged(folder, "val/r2"))
    assert list((tmp_path / "trackio/media").rglob("*.png"))


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(study_folder, tmp_path):
    needs("wandb")
    (tmp_path / "wandb").mkdir()
    folder = tmp_path / "run"
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path / "wandb"), "WANDB_PROJECT": "acid"}
    run(study_folder, folder, environment, track="wandb")
    (kept,) = (tmp_path / "wandb").rglob(f"offline-run-*-{number_of(folder)}")
    (records,) = kept.glob("run-*.wandb")
    content = records.read_bytes()
    for name in (b"train/loss", b"val/r2", b"final/val/r2", b"embedding_dim", b"acid"):
        assert name in content
    for _, value in logged(folder, "val/r2"):
        assert repr(value).encode() in content
    assert len(list(kept.rglob("val_predictions*.png"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_scores_of_an_evaluation_and_of_a_learner_go_to_mlflow_and_so_do_reports(study_folder, tmp_path, monkeypatch):
    needs("mlflow")
    import mlflow  # noqa: PLC0415

    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", place)
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    files |= {"metadata_column": "acidity", "group_column": "subject", "trees": 3, "track": "mlflow"}
    small = {"learners": "linear", "folds": 2, "repeats": 1}
    evaluation = EvaluateConfig.from_flat({**files, **small, "output_dir": tmp_path / "compared"})
    evaluate(evaluation)
    train(TrainConfig.from_flat({**files, "learner": "forest", "output_dir": tmp_path / "forest"}))
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    track_report(evaluation, RunFolder(tmp_path / "compared"), report)
    client = mlflow.MlflowClient(tracking_uri=place)
    runs = {
        each.info.run_name: each for each in client.search_runs([client.get_experiment_by_name("aam").experiment_id])
    }
    assert runs.keys() == {"compared", "forest"}
    main = json.loads((tmp_path / "compared/evaluation.json").read_text())["main"]["scores"]
    told = runs["compared"].data.metrics
    assert {(row["learner"], row["metric"]): row["value"] for row in main if row["value"] is not None} == {
        tuple(name.removeprefix("final/").split("/")): value for name, value in told.items()
    }
    assert "final/val/r2" in runs["forest"].data.metrics
    number = runs["compared"].info.run_id
    assert "report.html" in [file.path for file in client.list_artifacts(number)]
    assert client.get_run(number).info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_cannot_be_reached_is_named(tmp_path, monkeypatch):
    needs("mlflow")
    import mlflow  # noqa: PLC0415

    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", "nowhere://a")
    (tracker,) = trackers_of(RunFolder(tmp_path), TrackingConfig(track="mlflow"), {})
    with pytest.raises(InputError, match="--track mlflow: no run can be begun there"):
        Monitor(4, [tracker])


class Failing(Tracker):
    """A tracker that is lost after some metrics."""

    kind, project_variable, errors = "failing", None, (ConnectionError,)

    def __init__(self, folder: RunFolder, lasts: int) -> None:
        super().__init__(folder, {})
        self.lasts, self.told = lasts, []

    def open(self, name: str, known: str | None) -> str:
        self.told.append(("open", name, known))
        return "7"

    def send(self, step: int, values: dict) -> None:
        if self.lasts == 0:
            raise ConnectionError("no route to host\nand more")
        self.lasts -= 1
        self.told.append((step, values))

    def send_picture(self, step: int, name: str, path: Path) -> None:
        self.told.append(name)

    def send_file(self, path: Path) -> None:
        self.told.append(path.name)

    def end(self, success: bool) -> None:
        self.told.append(success)


def test_a_tracker_that_is_lost_does_not_end_the_training(tmp_path, caplog):
    tracker = Failing(RunFolder(tmp_path), lasts=1)
    with Monitor(4, [tracker]) as monitor:
        monitor.log_training(1, 1, {"train/loss": 1.0, "train/none": None, "train/nan": float("nan")})
        monitor.log_training(2, 1, {"train/loss": 0.5})
        monitor.conclude(2, Results({"val/r2": 0.5}))
    assert tracker.told == [("open", tmp_path.name, None), (1, {"epoch": 1.0, "train/loss": 1.0})]
    assert caplog.text.count("failing failed, and gets nothing more of this run: no route to host") == 1


def test_a_run_that_fails_is_told_so_and_a_resumed_one_is_the_same(tmp_path):
    with pytest.raises(ZeroDivisionError), Monitor(4, [Failing(RunFolder(tmp_path), 9)]):
        raise ZeroDivisionError
    resumed, anew = (Failing(RunFolder(tmp_path), 9) for _ in range(2))
    with Monitor(4, [resumed], resumed_step=2) as monitor:
        monitor.conclude(4, Results(files=(tmp_path / "none.html",)))
    assert resumed.told == [("open", tmp_path.name, "7"), True]
    with Monitor(4, [anew]):
        pass
    assert anew.told == [("open", tmp_path.name, None), False]


def test_every_tracker_of_the_option_is_there():
    assert set(TRACKERS) == {"mlflow", "wandb", "trackio"}


def test_the_board_shows_pictures_and_samples(study_folder, tmp_path):
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    files |= {"metadata_column": "acidity", "group_column": "subject", "device": "cpu", "baselines": False}
    train(TrainConfig.from_flat({**files, **NETWORK, "output_dir": tmp_path / "run"}))
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    (picture,) = board.Images("val_predictions")
    assert picture.width > 100
    (labels,) = (tmp_path / "run/tensorboard").rglob("metadata.tsv")
    (vectors,) = (tmp_path / "run/tensorboard").rglob("tensors.tsv")
    header, *rows = [line.split("\t") for line in labels.read_text().splitlines()]
    assert header[0] == "sample_id"
    assert "acidity" in header
    split = [line.split("\t") for line in (tmp_path / "run/split.tsv").read_text().splitlines()]
    assert sorted(row[0] for row in rows) == sorted(row[0] for row in split if row[1] == "val")
    assert [len(line.split("\t")) for line in vectors.read_text().splitlines()] == [8] * len(rows)
    assert (tmp_path / "run/tensorboard/projector_config.pbtxt").exists()


def test_the_board_takes_samples_without_metadata(tmp_path):
    import numpy as np  # noqa: PLC0415

    from aam.training.sinks.sink import Embedded  # noqa: PLC0415

    embedded = Embedded(np.zeros((2, 3), np.float32), {"sample_id": ["a\tb", ""]})
    with Monitor(4, [TensorBoard(tmp_path / "board")]) as monitor:
        monitor.conclude(4, Results(embedded=embedded))
    (labels,) = (tmp_path / "board").rglob("metadata.tsv")
    assert labels.read_text().splitlines() == ["a b", "-"]

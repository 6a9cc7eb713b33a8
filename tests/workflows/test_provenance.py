"""Where results come from: in the folder of every run, in every checkpoint, and in words."""

import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

import aam
from aam.cli import main
from aam.config import EvaluateConfig, InspectConfig, PretrainConfig, PretrainFindLrConfig, TrainConfig
from aam.config.launch import invocation, invoked
from aam.errors import InputError, StoppedBySignalError
from aam.learners.storage import load_learner, save_learner
from aam.training.checkpoints.store import read_checkpoint, write_checkpoint
from aam.training.machine import surroundings
from aam.training.machine.surroundings import GitState, Machine, Software
from aam.training.provenance import InputFile, Provenance, Session, read_provenance, recorded
from aam.training.run_folder import RunFolder
from aam.workflows.evaluate import evaluate
from aam.workflows.find_lr import find_lr
from aam.workflows.folder import alone, open_folder
from aam.workflows.inspect import inspect
from aam.workflows.restore import checkpoint_of, restore
from aam.workflows.train import train


def sessions(folder: Path) -> list[dict]:
    return json.loads((folder / "provenance.json").read_text())["sessions"]


def document(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "provenance.json").read_text())


@pytest.fixture(scope="module")
def forest(tmp_path_factory, train_options) -> Path:
    """Output folder of `train --learner forest`, with a test."""
    folder = tmp_path_factory.mktemp("runs") / "forest"
    small = ("table", "metadata", "metadata_column", "group_column")
    options = {name: value for name, value in train_options(folder).items() if name in small}
    train(
        TrainConfig.from_flat({**options, "learner": "forest", "trees": 5, "output_dir": folder, "test_fraction": 0.2})
    )
    return folder


@pytest.fixture(scope="module")
def evaluate_options(study_folder) -> dict:
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    small = {"learners": "linear", "trees": 5, "folds": 2, "repeats": 1, "keep_models": True}
    return {**files, **small, "metadata_column": "habitat", "classifier": True, "group_column": "subject"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory, evaluate_options) -> Path:
    """Output folder of `evaluate`, a fold of which was computed by itself."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    for way in ({"only_fold": "1"}, {"resume": True}):
        evaluate(EvaluateConfig.from_flat({**evaluate_options, **way, "output_dir": folder}))
    return folder


@pytest.mark.parametrize("kind", ["pretrained", "regressor", "forest", "compared"])
def test_every_run_says_where_it_comes_from(kind, request, study_folder):
    folder = request.getfixturevalue(kind)
    for session in sessions(folder):
        assert session["command"] is None
        assert session["software"]["aam"] == aam.__version__
        assert {"torch", "numpy", "scikit-learn"} <= session["software"]["libraries"].keys()
        (table,) = session["inputs"]["table"]
        content = (study_folder / "table.biom").read_bytes()
        assert (table["name"], table["bytes"], table["sha256"]) == (
            "table.biom",
            len(content),
            sha256(content).hexdigest(),
        )
        assert session["seed"] == 42
        assert session["machine"]["cores"] >= 1
        assert session["processes"] == 1
        assert session["ended"] == "finished"
        assert session["seconds"] >= 0
        started = datetime.fromisoformat(session["started"])
        assert started.tzinfo is not None
        assert started <= datetime.now(UTC)


def test_a_run_by_several_commands_has_a_session_of_each(compared):
    assert [session["resumed"] for session in sessions(compared)] == [False, True]


def test_find_lr_has_one_too(pretrain_options, tmp_path):
    known = PretrainFindLrConfig.options()
    options = {name: value for name, value in pretrain_options(tmp_path / "lr").items() if name in known}
    find_lr(PretrainFindLrConfig.from_flat(options))
    assert len(sessions(tmp_path / "lr")) == 1


def test_the_manifest_stands_for_an_encoder(regressor, pretrained):
    (encoder,) = sessions(regressor)[0]["inputs"]["pretrained_encoder"]
    manifest = (pretrained / "checkpoints/best/manifest.json").read_bytes()
    assert (encoder["name"], encoder["sha256"]) == ("pretrained", sha256(manifest).hexdigest())


def test_neither_names_nor_places_of_a_user(regressor, study_folder, monkeypatch):
    text = (regressor / "provenance.json").read_text()
    assert str(study_folder) not in text
    monkeypatch.setenv("HOME", "/home/ada")
    with invoked(["train", "--table", "/home/ada/gut/table.biom"]):
        assert invocation().command == "aam train --table '~/gut/table.biom'"
    assert invocation().command is None


@pytest.mark.parametrize("kind", ["pretrained", "regressor", "forest"])
def test_every_checkpoint_has_what_is_no_accident(kind, request):
    folder = request.getfixturevalue(kind)
    found = document(folder / "checkpoints/best")
    (of_folder,) = sessions(folder)
    (of_checkpoint,) = found["sessions"]
    assert set(of_folder) - set(of_checkpoint) == {
        "id",
        "resumed",
        "machine",
        "processes",
        "started",
        "seconds",
        "ended",
    }
    assert of_checkpoint == {name: of_folder[name] for name in of_checkpoint}


def test_kept_folds_have_it(compared):
    (found,) = {json.dumps(document(path.parent)) for path in compared.rglob("models/*/*/manifest.json")}
    assert len(json.loads(found)["sessions"]) == 1


def test_it_stays_with_a_model_that_is_saved_again(regressor, forest, tmp_path):
    write_checkpoint(checkpoint_of(restore(regressor)), tmp_path / "network")
    save_learner(load_learner(forest), tmp_path / "forest")
    assert document(tmp_path / "network") == document(regressor / "checkpoints/best")
    assert document(tmp_path / "forest") == document(forest / "checkpoints/best")


def test_a_checkpoint_without_it_is_read(regressor, forest, tmp_path):
    for kind in (regressor, forest):
        old = read_checkpoint(kind)
        bare = replace(old, documents={name: each for name, each in old.documents.items() if name != "provenance"})
        write_checkpoint(bare, tmp_path / kind.name)
        said = inspect(InspectConfig.from_flat({"checkpoint": tmp_path / kind.name}))
        assert "provenance:\n  not recorded: an earlier version of aam wrote this" in said
    learner = load_learner(tmp_path / forest.name)
    assert learner.provenance is None
    save_learner(learner, tmp_path / "again")
    assert not (tmp_path / "again/provenance.json").exists()


def test_a_folder_without_it_is_inspected(forest, tmp_path):
    shutil.copytree(forest, tmp_path / "old", symlinks=True)
    (tmp_path / "old/provenance.json").unlink()
    said = inspect(InspectConfig.from_flat({"checkpoint": tmp_path / "old"}))
    assert "data:\n  not recorded" in said
    assert "provenance:\n  not recorded" in said
    assert "scores:\n" in said


def test_inspect_shows_data_scores_and_provenance(forest, study_folder):
    said = inspect(InspectConfig.from_flat({"checkpoint": forest}))
    table = sha256((study_folder / "table.biom").read_bytes()).hexdigest()
    assert re.search(r"samples +40 +\d+ +\d+ +\d+\n", said)
    assert re.search(r"groups \(subject\) +8 +\d+ +\d+ +\d+\n", said)
    r2 = json.loads((forest / "test_metrics.json").read_text())["r2"]
    assert re.search(rf"r2 +\S+ +{re.escape(f'{r2:.4g}')}\n", said)
    assert "  command: called from Python\n" in said
    assert f"  table: table.biom, SHA-256 {table}\n" in said
    assert re.search(r"started: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, [\d.]+ s, finished\n", said)


def test_inspect_describes_an_evaluation(compared):
    said = inspect(InspectConfig.from_flat({"checkpoint": compared}))
    assert said.startswith(f"{compared}: an evaluation of `aam evaluate`\n")
    assert re.search(r"habitat, classes +\d\n", said)
    verdict = json.loads((compared / "evaluation.json").read_text())["verdict"]
    assert verdict in said
    for learner in ("null", "depth", "forest", "linear"):
        assert re.search(rf"\n  {learner} +-?\d\.\d+ +", said)


def test_the_command_line_is_noted(study_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--learner", "null", "--table", str(study_folder / "table.biom"), "--metadata-column", "acidity"]
    words += ["--metadata", str(study_folder / "metadata.tsv"), "--output-dir", "out", "--quiet"]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    (session,) = sessions(tmp_path / "out")
    assert session["command"].startswith("aam train --learner null --table ")
    assert document(tmp_path / "out/checkpoints/best")["sessions"][0]["command"] == session["command"]


def begun(inputs=(), seed: int = 1, resumed: bool = False) -> Session:
    return Session.begin(inputs, seed, 1, resumed)


def test_a_refused_session_leaves_the_folder_as_it_was(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match="no"), recorded(folder, begun()):
        raise InputError("no")
    assert not list(tmp_path.iterdir())
    with recorded(folder, begun()):
        pass
    before = folder.provenance.read_bytes()
    with pytest.raises(InputError, match="no"), recorded(folder, begun(resumed=True)):
        raise InputError("no")
    assert folder.provenance.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "ended"), [(StoppedBySignalError("x"), "stopped by a signal"), (ZeroDivisionError(), "failed")]
)
def test_how_a_session_ended_is_noted(tmp_path, error, ended):
    with pytest.raises(type(error)), recorded(RunFolder(tmp_path), begun()):  # noqa: PT012
        (open_one,) = sessions(tmp_path)
        assert (open_one["ended"], open_one["seconds"]) == (None, None)
        raise error
    assert sessions(tmp_path)[0]["ended"] == ended


def test_sessions_side_by_side_are_all_noted(tmp_path):
    folder = RunFolder(tmp_path)
    barrier = threading.Barrier(6)

    def work() -> None:
        session = begun()
        barrier.wait()
        with recorded(folder, session, lambda: alone(folder)):
            pass

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [session["ended"] for session in sessions(tmp_path)] == ["finished"] * 6


def test_damage_is_named_before_anything_is_done(tmp_path):
    folder = RunFolder(tmp_path)
    folder.provenance.write_text('{"sessions": [{}]}')
    with pytest.raises(InputError, match=r"provenance\.json is damaged"), recorded(folder, begun()):
        raise AssertionError
    assert folder.provenance.read_text() == '{"sessions": [{}]}'


def test_overwriting_starts_it_over(tmp_path):
    for options in ({}, {"overwrite": True}):
        config = PretrainConfig.from_flat({"output_dir": tmp_path / "run", **options})
        with open_folder(config, config.output):
            pass
    assert [session["resumed"] for session in sessions(tmp_path / "run")] == [False]


def test_only_other_software_or_files_add_to_a_checkpoint(tmp_path):
    (tmp_path / "t").write_text("1")
    first = begun([("table", tmp_path / "t")])
    again = begun([("table", tmp_path / "t")], resumed=True).model_copy(update={"command": "aam --resume"})
    newer = again.model_copy(update={"software": again.software.model_copy(update={"aam": "9.0"})})
    (tmp_path / "t").write_text("2")
    changed = begun([("table", tmp_path / "t")], resumed=True)
    found = Provenance(sessions=(first, again)).document()
    assert [each["command"] for each in found["sessions"]] == [None]
    assert len(Provenance(sessions=(first, again, newer, changed)).document()["sessions"]) == 3


def test_what_cannot_be_hashed_says_why(tmp_path):
    assert InputFile.of(tmp_path / "gone").note == "not there any more"
    assert InputFile.of(tmp_path).note == "a folder without a checkpoint"
    assert InputFile.of(Path("/dev/null")).note == "no regular file"


def test_a_later_aam_may_add_to_it(forest, tmp_path):
    found = json.loads((forest / "provenance.json").read_text())
    found["sessions"][0]["weather"] = "fine"
    (tmp_path / "provenance.json").write_text(json.dumps(found | {"more": 1}))
    assert read_provenance(RunFolder(tmp_path)) == read_provenance(RunFolder(forest))


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_says_what_is_checked_out(tmp_path):
    assert GitState.of(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert GitState.of(tmp_path) is None  # there is no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    clean = GitState.of(tmp_path)
    assert clean is not None
    assert (clean.commit, clean.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "results").write_text("new files are no change")
    assert GitState.of(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert GitState.of(tmp_path) == clean.model_copy(update={"dirty": True})


def test_git_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GitState.of(Path(__file__).parent) is None


def test_the_processor_is_named(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Other\n")
    assert Machine.of_this_process(tmp_path / "cpuinfo").cpu == "Some CPU @ 3 GHz"
    assert Machine.of_this_process(tmp_path / "absent").cpu


def test_an_aam_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(surroundings, "_version", lambda name: None)
    assert Software.installed().aam is None
    assert Software.installed().libraries == {}

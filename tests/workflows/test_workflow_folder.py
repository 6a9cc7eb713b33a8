import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aam.config import PredictConfig, PretrainConfig, PretrainFindLrConfig, TrainConfig
from aam.data.files.whole_files import draft_path
from aam.errors import InputError
from aam.training.run_folder import RUN_FILES
from aam.workflows.folder import INPUT_FILES, check_folder, open_folder
from aam.workflows.tables import check_outputs

CONFIG, LAUNCH, LOCK, PROVENANCE = "config.json", ".launch", ".lock", "provenance.json"
FOLDERS = {"checkpoints", "tensorboard", "folds", "models", ".workers"}


def config_of(folder, **options) -> PretrainConfig:
    return PretrainConfig.from_flat({"output_dir": folder, **options})


def check(folder, **options) -> None:
    config = config_of(folder, **options)
    check_folder(config, config.output)


def start(folder, **options) -> None:
    config = config_of(folder, **options)
    check_folder(config, config.output)
    with open_folder(config, config.output):
        pass


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def write_run(folder: Path) -> None:
    """All that a run may leave, in its folder."""
    for name in RUN_FILES:
        path = folder / name / "a" if name in FOLDERS else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if name == PROVENANCE else "old")


def test_a_new_or_empty_folder_is_taken(tmp_path):
    check(tmp_path / "deep/new")
    assert not (tmp_path / "deep").exists()
    start(tmp_path / "deep/new", epochs=3)
    stored = json.loads((tmp_path / "deep/new/config.json").read_text())
    assert stored["optim"]["epochs"] == 3
    (tmp_path / "empty").mkdir()
    start(tmp_path / "empty")


def test_a_folder_that_holds_a_run_is_refused_resumed_or_replaced(tmp_path):
    start(tmp_path / "run")
    write_run(tmp_path / "run")
    (tmp_path / "run" / draft_path(Path("metrics.jsonl"))).write_text("unfinished")
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty.*--resume.*--overwrite"):
        check(tmp_path / "run")
    start(tmp_path / "run", resume=True)
    assert {*set(RUN_FILES) - FOLDERS, "notes.txt"} <= contents(tmp_path / "run")
    start(tmp_path / "run", overwrite=True, epochs=3)
    assert contents(tmp_path / "run") == {CONFIG, LAUNCH, LOCK, PROVENANCE, "notes.txt"}
    assert json.loads((tmp_path / "run/config.json").read_text())["optim"]["epochs"] == 3


@pytest.mark.parametrize("content", ["{}", '{"name": "my app"}', "[]", '{"output": {}}', "", '{"optim": '])
def test_a_config_of_something_else_is_not_replaced(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "table.biom").write_text("counts")
    with pytest.raises(InputError, match="--overwrite"):
        start(tmp_path, overwrite=True)
    assert contents(tmp_path) == {CONFIG, "table.biom"}


def test_a_run_of_another_command_is_not_replaced(tmp_path):
    start(tmp_path / "run")
    write_run(tmp_path / "run")
    find_lr = PretrainFindLrConfig.from_flat({"output_dir": tmp_path / "run", "overwrite": True})
    train = TrainConfig.from_flat({"output_dir": tmp_path / "run", "overwrite": True, "metadata_column": "x"})
    for config in (find_lr, train):
        with pytest.raises(InputError, match="no run of this command"):
            check_folder(config, config.output)
    assert (tmp_path / "run/checkpoints/a").exists()


@pytest.mark.parametrize("option", ["table", "tree", "metadata", "unifrac_matrix"])
def test_a_run_is_not_replaced_with_its_own_input(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "keep")
    (tmp_path / "keep/file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "keep", target_is_directory=True)
    for path in (tmp_path / "keep/file", Path("keep/../keep/file"), Path("link/file")):
        with pytest.raises(InputError, match=f"--{option.replace('_', '-')}.* lies in keep.*move it"):
            start(Path("keep"), overwrite=True, **{option: (path,) if option == "table" else path})
    assert (tmp_path / "keep/file").read_text() == "precious"


def test_a_run_is_not_replaced_with_the_encoder_that_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"output_dir": Path("run"), "metadata_column": "x"}
    config = TrainConfig.from_flat(options)
    with open_folder(config, config.output):
        pass
    for encoder in ("run", tmp_path / "run", "run/checkpoints/best"):
        config = TrainConfig.from_flat({**options, "overwrite": True, "pretrained_encoder": encoder})
        with pytest.raises(InputError, match="--pretrained-encoder"):
            check_folder(config, config.output)


def test_the_input_files_are_all_the_paths_of_the_options():
    paths = {
        name
        for command in (PretrainConfig, TrainConfig, PretrainFindLrConfig)
        for name, (_, field) in command.options().items()
        if "Path" in str(field.annotation)
    }
    assert paths - {"output_dir", "embedding_cache"} == INPUT_FILES


def test_a_folder_that_another_run_holds_is_refused(tmp_path):
    start(tmp_path / "run")
    config = config_of(tmp_path / "run", resume=True)
    with open_folder(config, config.output):
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match="another run is writing"):
                check(tmp_path / "run", **options)
            late = config_of(tmp_path / "run", **options)
            with pytest.raises(InputError, match="another run is writing"), open_folder(late, late.output):
                pass
    check(tmp_path / "run", resume=True)


def test_of_two_new_runs_in_one_folder_the_second_is_refused_even_after_the_first(tmp_path):
    first, second = config_of(tmp_path / "run"), config_of(tmp_path / "run", epochs=3)
    for config in (first, second):
        check_folder(config, config.output)
    with open_folder(first, first.output):
        (tmp_path / "run/metrics.jsonl").write_text("line")
    with pytest.raises(InputError, match="not empty"), open_folder(second, second.output):
        pass
    assert (tmp_path / "run/metrics.jsonl").read_text() == "line"


def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    start(tmp_path / "run")
    assert "cannot be locked (Operation not supported)" in caplog.text


def test_a_lock_of_another_user_is_named(tmp_path):
    start(tmp_path / "run")
    (tmp_path / "run" / LOCK).unlink()
    (tmp_path / "run" / LOCK).mkdir()
    with pytest.raises(InputError, match=r"\.lock in it cannot be written"):
        check(tmp_path / "run", resume=True)


KILLED = """
import os, pathlib, shutil, signal, sys
from aam.config import PretrainConfig
from aam.workflows.folder import open_folder

left = int(sys.argv[2])

def watched(function):
    def call(*args, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return call

for name in ("rename", "replace", "unlink", "mkdir"):
    setattr(pathlib.Path, name, watched(getattr(pathlib.Path, name)))
os.unlink, os.rmdir, shutil.rmtree = watched(os.unlink), watched(os.rmdir), watched(shutil.rmtree)
config = PretrainConfig.from_flat({"output_dir": sys.argv[1], "overwrite": True, "epochs": 3})
with open_folder(config, config.output):
    pass
"""


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_replaced_another_can_be_replaced_or_resumed(tmp_path):
    start(tmp_path / "before", epochs=2)
    write_run(tmp_path / "before")
    moments, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        folder = tmp_path / f"run{moments}"
        shutil.copytree(tmp_path / "before", folder)
        code = subprocess.run([sys.executable, "-c", KILLED, folder, str(moments)], check=False).returncode
        epochs = json.loads((folder / CONFIG).read_text())["optim"]["epochs"]
        old = (folder / "checkpoints/a").exists()
        assert epochs == 2 or not old, "new options beside old checkpoints"
        check(folder, resume=True, epochs=epochs)
        start(folder, overwrite=True)
        assert contents(folder) == {CONFIG, LAUNCH, LOCK, PROVENANCE}
        moments += 5
    assert code == 0
    assert moments > 15


def test_other_peoples_files_are_never_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_text("cat")
    with pytest.raises(InputError, match="not empty"):
        check(tmp_path)
    with pytest.raises(InputError, match="no run of aam"):
        check(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="holds no run"):
        check(tmp_path, resume=True)


def test_a_run_that_was_killed_in_its_first_moment_can_be_started_again(tmp_path):
    (tmp_path / draft_path(Path(CONFIG))).write_text('{"inp')
    (tmp_path / LOCK).touch()
    start(tmp_path)
    assert contents(tmp_path) == {CONFIG, LAUNCH, LOCK, PROVENANCE}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("lr", 0.5, r"--lr \(was 0.001, now 0.5\)"), ("seed", 1, "--seed"), ("where", ("a=b",), "--where")],
)
def test_a_run_is_resumed_with_its_own_options(tmp_path, option, value, says):
    start(tmp_path / "run")
    with pytest.raises(InputError, match=says):
        check(tmp_path / "run", resume=True, **{option: value})


def test_options_of_the_machine_may_change(tmp_path):
    start(tmp_path / "run", num_workers=0, log_every=5)
    check(tmp_path / "run", resume=True, num_workers=2, log_every=1, checkpoint_every=7)


def test_input_files_may_be_named_otherwise_but_not_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "run", table=("table.biom",), tree="tree.nwk")
    check(tmp_path / "run", resume=True, table=(tmp_path / "table.biom",), tree=tmp_path / "tree.nwk")
    with pytest.raises(InputError, match=r"--tree \(was given, now not given\)"):
        check(tmp_path / "run", resume=True, table=("table.biom",))
    with pytest.raises(InputError, match=r"--metadata \(was not given, now given\)"):
        check(tmp_path / "run", resume=True, table=("table.biom",), tree="tree.nwk", metadata="m.tsv")


def test_resuming_keeps_the_first_config(tmp_path):
    start(tmp_path / "run", log_every=5)
    before = (tmp_path / "run/config.json").read_text()
    start(tmp_path / "run", resume=True, log_every=1)
    assert (tmp_path / "run/config.json").read_text() == before


@pytest.mark.parametrize("damage", ["", '{"optim": ', "[1, 2]"])
def test_a_damaged_config_is_named(tmp_path, damage):
    start(tmp_path / "run")
    (tmp_path / "run/config.json").write_text(damage)
    with pytest.raises(InputError, match=r"config\.json"):
        check(tmp_path / "run", resume=True)


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/null", "/dev/fd/1", "/dev/fd/99", "/proc/self/fd/1", "socket"])
def test_what_is_no_file_is_never_replaced(place, tmp_path, monkeypatch):
    """Only the check runs here, as root could replace devices."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        config = PredictConfig.from_flat({"checkpoint": "run", "table": ("table.biom",), "output": place})
        with pytest.raises(InputError, match=f"--output {place} is a device, a pipe or a socket"):
            check_outputs(config, {"output": Path(place)}, overwrite=True)


def _saved(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize("named", ["run", "run/checkpoints/last", "run/checkpoints/step-1"])
def test_results_may_lie_beside_the_files_of_a_run(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = _saved(tmp_path / "disk/step-1").parent
    Path("run/plots").mkdir(parents=True)
    Path("run/config.json").write_text("{}")
    Path("run/checkpoints").symlink_to(elsewhere)
    (elsewhere / "last").symlink_to("step-1")
    config = PredictConfig.from_flat({"checkpoint": named, "table": ("table.biom",), "output": "p.tsv"})
    for free in ["p.tsv", "run/p.tsv", "run/plots/mine.png", "run/training-notes.log"]:
        check_outputs(config, {"output": Path(free)}, overwrite=False)
    Path("run/tensorboard").mkdir()
    for taken in ["run/config.json", "run/.lock", "run/tensorboard/p.tsv", "run/checkpoints/p.tsv", "disk/p.tsv"]:
        with pytest.raises(InputError, match=f"--output {taken} is a file of the run that --checkpoint {named} reads"):
            check_outputs(config, {"output": Path(taken)}, overwrite=True)
    with pytest.raises(InputError, match=r"--output disk/step-1/p\.tsv "):
        check_outputs(config, {"output": Path("disk/step-1/p.tsv")}, overwrite=True)


def test_a_folder_of_models_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _saved(tmp_path / "checkpoints/model")
    config = PredictConfig.from_flat({"checkpoint": "checkpoints/model", "table": ("t.biom",), "output": "p.tsv"})
    check_outputs(config, {"output": Path("checkpoints/p.tsv")}, overwrite=False)
    with pytest.raises(InputError, match="lies in the checkpoint that --checkpoint checkpoints/model reads"):
        check_outputs(config, {"output": Path("checkpoints/model/p.tsv")}, overwrite=False)


# ---- a damaged link to the last checkpoint


@pytest.mark.parametrize("target", ["step-00000099", "last", "../config.json"])
def test_a_run_whose_last_checkpoint_is_not_found_is_not_begun_anew(aam, pretrain_options, tmp_path, target, capsys):
    folder = tmp_path / "run"
    options = pretrain_options(folder)
    config = PretrainConfig.from_flat(options)
    with open_folder(config, config.output):
        pass
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last").symlink_to(target)
    before = contents(folder)
    assert aam("pretrain", **options, resume=True) == 2
    assert "checkpoints/last is a symlink to" in capsys.readouterr().err
    assert contents(folder) == before

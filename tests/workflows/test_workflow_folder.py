import json

import pytest

from aam.config import PretrainConfig
from aam.errors import InputError
from aam.workflows.folder import check_folder, open_folder


def config_of(folder, **options) -> PretrainConfig:
    return PretrainConfig.from_flat({"output_dir": folder, **options})


def check(folder, **options) -> None:
    config = config_of(folder, **options)
    check_folder(config, config.output)


def start(folder, **options) -> None:
    config = config_of(folder, **options)
    check_folder(config, config.output)
    open_folder(config, config.output)


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
    (tmp_path / "run/old.txt").write_text("old")
    with pytest.raises(InputError, match=r"not empty.*--resume.*--overwrite"):
        check(tmp_path / "run")
    start(tmp_path / "run", resume=True)
    assert (tmp_path / "run/old.txt").exists()
    start(tmp_path / "run", overwrite=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_other_peoples_files_are_never_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_text("cat")
    with pytest.raises(InputError, match="not empty"):
        check(tmp_path)
    with pytest.raises(InputError, match="no run of aam"):
        check(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="holds no run"):
        check(tmp_path, resume=True)


def test_a_run_that_was_killed_in_its_first_moment_can_be_started_again(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"inp')
    start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


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
    check(tmp_path / "run", resume=True, num_workers=2, log_every=1, checkpoint_every=7, device="cpu")


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

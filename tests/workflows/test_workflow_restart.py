"""What torchrun starts anew after a failure goes on with what the same launch has begun, and with nothing else."""

import fcntl
import json
import threading
import time
from pathlib import Path

import pytest

from aam.config import EvaluateConfig, PretrainConfig, TrainConfig, TuneConfig
from aam.data.files.whole_files import draft_path
from aam.errors import InputError
from aam.training.objective import Objective
from aam.training.run_folder import RUN_FILES
from aam.workflows import folder as module
from aam.workflows.folder import MAY_CHANGE, open_folder, settle_folder
from aam.workflows.pretrain import pretrain

CONFIG, LAUNCH, LOCK = "config.json", ".launch", ".lock"


@pytest.fixture
def launch(monkeypatch):
    """Be a process of a launch that was restarted some times; by default of none."""

    def be(restarts: int, name: str = "one") -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))

    be(0)
    return be


def config_of(folder: Path, **options) -> PretrainConfig:
    return PretrainConfig.from_flat({"output_dir": folder, **options})


def begin(folder: Path, **options) -> None:
    """Begin a run, which leaves curves."""
    config = settle_folder(config_of(folder, **options))
    with open_folder(config, config.output):
        (folder / "metrics.jsonl").write_text("begun")


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_restart_resumes_what_its_launch_has_begun(tmp_path, launch, options):
    begin(tmp_path, **options)
    launch(1)
    settled = settle_folder(config_of(tmp_path, **options))
    assert (settled.output.resume, settled.output.overwrite) == (True, False)
    assert settled.output.output_dir == tmp_path
    assert (tmp_path / "metrics.jsonl").read_text() == "begun"


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_what_is_no_restart_is_taken_as_given(tmp_path, launch, options):
    begin(tmp_path)
    launch(0)
    config = config_of(tmp_path, **options)
    if options:
        assert settle_folder(config) == config
    else:
        with pytest.raises(InputError, match="is not empty"):
            settle_folder(config)


def test_a_restart_does_not_touch_the_run_of_another_launch(tmp_path, launch):
    begin(tmp_path)
    launch(1, "two")
    with pytest.raises(InputError, match="is not empty; continue its run with --resume, replace it with --overwrite"):
        settle_folder(config_of(tmp_path))
    asked = config_of(tmp_path, overwrite=True)
    assert settle_folder(asked) == asked
    begin(tmp_path, overwrite=True)  # as it says: killed before, it has begun nothing
    assert settle_folder(asked).output.resume


def test_a_restart_before_anything_was_begun_begins(tmp_path, launch):
    launch(1)
    config = config_of(tmp_path / "run")
    assert settle_folder(config) == config


@pytest.mark.parametrize(("whole", "drafts"), [([LAUNCH], []), ([], [LAUNCH]), ([LAUNCH], [CONFIG])])
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_run_that_was_killed_before_its_options_were_written_can_be_started_again(
    tmp_path, launch, whole, drafts, restarts
):
    begin(tmp_path / "before")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    for place in [
        *(tmp_path / "run" / name for name in whole),
        *(draft_path(tmp_path / "run" / name) for name in drafts),
    ]:
        place.write_bytes((tmp_path / "before" / LAUNCH).read_bytes())
    launch(restarts)
    begin(tmp_path / "run")
    assert json.loads((tmp_path / "run" / CONFIG).read_text())


def test_a_restart_with_other_options_is_refused(tmp_path, launch):
    begin(tmp_path)
    launch(1)
    with pytest.raises(InputError, match=r"started with other options: --lr"):
        settle_folder(config_of(tmp_path, lr=0.5))


def test_a_restart_waits_until_its_predecessor_is_gone(tmp_path, launch):
    begin(tmp_path)
    launch(1)
    with (tmp_path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(1.0, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        started = time.monotonic()
        assert settle_folder(config_of(tmp_path)).output.resume
        assert time.monotonic() - started > 0.9


def test_a_restart_does_not_wait_forever(tmp_path, launch, monkeypatch):
    monkeypatch.setattr(module, "RESTART_PATIENCE", 0.2)
    begin(tmp_path)
    launch(1)
    with (tmp_path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is writing"):
            settle_folder(config_of(tmp_path))


def test_logs_of_all_ranks_go_with_their_run(tmp_path):
    begin(tmp_path)
    for name in ("training-rank1.log", "training-rank12.log", "training-notes.log"):
        (tmp_path / name).write_text("old")
    begin(tmp_path, overwrite=True)
    assert not list(tmp_path.glob("training-rank*"))
    assert (tmp_path / "training-notes.log").exists()
    assert LAUNCH in RUN_FILES


STRATEGIES = [
    {},
    {"distributed": True, "rank_timeout": 5.0, "log_all_ranks": True},
    {"data_parallel": True},
    {"fsdp": True, "fsdp_replicate": 2, "fsdp_cpu_offload": True},
    {"fsdp": True, "fsdp_sharded_checkpoint": True, "async_checkpoint": True, "keep_checkpoints": 4},
]


@pytest.mark.parametrize("before", STRATEGIES)
@pytest.mark.parametrize("after", STRATEGIES)
def test_a_run_is_resumed_with_any_strategy(tmp_path, before, after):
    begin(tmp_path, **before)
    config = config_of(tmp_path, resume=True, **after)
    assert settle_folder(config) == config


@pytest.mark.parametrize("before", [False, True])
def test_the_precision_of_the_layers_stays(tmp_path, before):
    begin(tmp_path, fsdp=True, fsdp_mixed_precision=before)
    with pytest.raises(InputError, match=rf"--fsdp-mixed-precision \(was {before}, now {not before}\)"):
        settle_folder(config_of(tmp_path, resume=True, fsdp=True, fsdp_mixed_precision=not before))


def test_what_may_change_are_options():
    commands = (PretrainConfig, TrainConfig, EvaluateConfig, TuneConfig)
    assert {option for config in commands for option in config.options()} >= MAY_CHANGE


def steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("at", "seen"), [(6, [1, 2, 3, 4, 4, 5, 6]), (1, [1])], ids=["after a checkpoint", "before the first one"]
)
def test_a_launch_that_failed_and_was_restarted_ends_as_if_it_had_not(
    pretrain_options, tmp_path, launch, monkeypatch, overwrite, at, seen
):
    options = {"checkpoint_every": 3, "log_every": 1}
    whole, broken = (PretrainConfig.from_flat(pretrain_options(tmp_path / name, **options)) for name in ("a", "b"))
    pretrain(whole)
    if overwrite:  # an older run, which must be replaced once
        pretrain(broken)
        broken = PretrainConfig.from_flat(pretrain_options(tmp_path / "b", overwrite=True, **options))
    backward = Objective.backward

    def fail(self, step, scale):
        if step.plan.step == at:
            raise ZeroDivisionError
        return backward(self, step, scale)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", fail)
        with pytest.raises(ZeroDivisionError):
            pretrain(broken)
    assert [line["step"] for line in steps(tmp_path / "b")] == seen
    launch(1)
    pretrain(broken)
    assert steps(tmp_path / "b") == steps(tmp_path / "a")
    assert ("resumed at step 6" in (tmp_path / "b/training.log").read_text()) == (at == 6)
    for name in ("val_distances.json", "checkpoints/best/model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()

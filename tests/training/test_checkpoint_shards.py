"""The checkpoints of a run, whole and in shards, by one process; tests/distributed has those of several."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aam.config import OptimConfig
from aam.errors import InputError
from aam.training.checkpoints.run import Identity, RunCheckpoints
from aam.training.checkpoints.store import CheckpointStore, flatten_optimizer, read_checkpoint
from aam.training.distributed import World
from aam.training.optim import make_optimizer

SHARDS = ["sharded/.metadata", "sharded/__0_0.distcp"]
FILES = ["config.json", "scaler.json", *SHARDS, "state/state.json"]
LAYOUTS = {"full": {}, "sharded": {"sharded": True}, "async": {"sharded": True, "asynchronous": True}}
IDENTITY = Identity("train", {"lr": 0.1}, {"scaler": {"mean": 0.5}}, {"table": "a", "split": "b"})


class Net(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.hidden = nn.Linear(6, width)
        self.unused = nn.Linear(width, 5)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.arange(3))

    def forward(self, values: Tensor) -> Tensor:
        return self.scale * self.hidden(self.frozen(values)).relu()


class Training:
    """A model that learns."""

    def __init__(self, seed: int, **shape: int) -> None:
        torch.manual_seed(seed)
        self.model = Net(**shape)
        self.optimizer = make_optimizer(self.model, OptimConfig(lr=0.05))

    def step(self, number: int) -> None:
        values = torch.randn(9, 6, generator=torch.Generator().manual_seed(number))
        self.optimizer.zero_grad()
        self.model(values).square().mean().backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        moments, _ = flatten_optimizer(self.optimizer, self.model)
        return {name: tensor.detach().clone() for name, tensor in {**self.model.state_dict(), **moments}.items()}

    def save(self, checkpoints: RunCheckpoints, step: int, best: bool = True) -> None:
        checkpoints.save(self.model, self.optimizer, {"step": step}, step, best)


def checkpoints_in(folder: Path, layout: str = "sharded", keep: int = 1, **identity: Any) -> RunCheckpoints:
    own = {**vars(IDENTITY), **identity}
    return RunCheckpoints(CheckpointStore(folder, keep), Identity(**own), World(torch.device("cpu")), **LAYOUTS[layout])


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in found
    )


@contextmanager
def held(checkpoints: RunCheckpoints) -> Iterator[None]:
    """Let nothing be written in the background meanwhile."""
    gate = Event()
    checkpoints._writer.submit(gate.wait)
    yield
    gate.set()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A sharded checkpoint folder."""
    checkpoints, training = checkpoints_in(tmp_path / "checkpoints"), Training(1)
    training.step(0)
    training.save(checkpoints, 1)
    last = checkpoints.store.last()
    assert last is not None
    return last


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_run_continues_bit_for_bit(tmp_path: Path, layout: str, stop: int) -> None:
    checkpoints, training = checkpoints_in(tmp_path, layout), Training(1)
    for number in range(stop):
        training.step(number)
    training.save(checkpoints, stop)
    expected = training.tensors()
    assert ("exp_avg/hidden.weight" in expected) == (stop > 0)
    training.step(stop)
    checkpoints.close()

    resumed, found = Training(2), checkpoints_in(tmp_path)
    resumed.step(9)
    last = found.store.last()
    assert last is not None
    state = found.load(last, resumed.model, resumed.optimizer)
    assert (state["step"], state["study"]) == (stop, IDENTITY.fingerprint)
    assert same(resumed.tensors(), expected)
    resumed.step(stop)
    assert same(resumed.tensors(), training.tensors())


def test_weights_alone_are_taken_from_any_layout(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        checkpoints, training, other = checkpoints_in(tmp_path / layout, layout), Training(1), Training(2)
        training.step(0)
        training.save(checkpoints, 1)
        checkpoints.close()
        checkpoints.load_weights(tmp_path / layout, other.model)
        assert same(dict(other.model.state_dict()), dict(training.model.state_dict()))
        assert other.optimizer.state == {}


def test_the_manifest_lists_all_files_of_all_ranks(written: Path) -> None:
    files = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    manifest = json.loads((written / "manifest.json").read_text())
    assert files == sorted([*FILES, "manifest.json"])
    assert sorted(manifest["files"]) == sorted(FILES)
    assert (manifest["format"], manifest["layout"]) == (2, "sharded")


def test_an_older_aam_reads_full_checkpoints(tmp_path: Path) -> None:
    Training(1).save(checkpoints_in(tmp_path, "full"), 1)
    manifest = json.loads((tmp_path / "last/manifest.json").read_text())
    assert (manifest["format"], sorted(manifest)) == (1, ["files", "format", "kind"])


def test_the_place_is_not_written_down(written: Path) -> None:
    assert not any(str(written.parent).encode() in path.read_bytes() for path in written.rglob("*") if path.is_file())


def test_only_resuming_reads_shards(written: Path) -> None:
    with pytest.raises(InputError, match=r"is sharded, .* can only be resumed \(--resume\)"):
        read_checkpoint(written.parent)
    found = read_checkpoint(written.parent, with_weights=False, with_state=True, kind="train")
    assert found.state is not None
    assert (found.config, found.documents, found.state["step"]) == (IDENTITY.config, IDENTITY.documents, 1)
    assert (found.model, found.optimizer) == ({}, None)


def test_published_weights_are_read_by_anybody(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path), Training(1)
    training.save(checkpoints, 1, best=True)
    best = training.tensors()
    training.step(0)
    training.save(checkpoints, 2, best=False)
    last = training.tensors()
    for _ in range(2):
        checkpoints.load_weights(tmp_path, training.model)
        checkpoints.publish(training.model)
        found = read_checkpoint(tmp_path)
        assert same(found.model, {name: best[name] for name in found.model})
        assert (found.config, found.documents, found.kind) == (IDENTITY.config, IDENTITY.documents, "train")
        assert len(list(tmp_path.glob("step-*"))) == 3  # the best one of before, which somebody may be reading
    resumed, path = Training(2), checkpoints.store.last()
    assert path is not None
    assert checkpoints.load(path, resumed.model, resumed.optimizer)["step"] == 2
    assert same(resumed.tensors(), last)


def test_a_published_checkpoint_does_not_count_among_the_newest(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, keep=2), Training(1)
    for step, best in ((1, False), (2, False), (3, True)):
        training.save(checkpoints, step, best)
    checkpoints.publish(training.model)
    names = [path.name for path in sorted(tmp_path.glob("step-*"))]
    assert names == ["step-00000002", "step-00000003", "step-00000003-2"]


def test_whole_checkpoints_and_none_are_not_published(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, "full"), Training(1)
    checkpoints.publish(training.model)
    assert not list(tmp_path.iterdir())
    training.save(checkpoints, 1)
    before = sorted(tmp_path.rglob("*"))
    checkpoints.publish(training.model)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_asynchronous_checkpoint_appears_when_it_is_finished(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, "async"), Training(1)
    assert not checkpoints.finished()
    with held(checkpoints):
        training.save(checkpoints, 1)
        assert not checkpoints.finished()
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.fill_(7)
    while not checkpoints.finished():
        time.sleep(0.01)
    assert checkpoints.store.last() is None
    checkpoints.finish()
    assert not checkpoints.finished()
    assert checkpoints.store.last() == tmp_path / "step-00000001"
    checkpoints.load_weights(tmp_path, training.model)
    assert same(dict(training.model.state_dict()), dict(Training(1).model.state_dict()))


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, "async"), Training(1)
    training.save(checkpoints, 1, best=True)
    training.save(checkpoints, 2, best=False)
    assert checkpoints.store.last() == tmp_path / "step-00000001"
    checkpoints.close()
    assert checkpoints.store.last() == tmp_path / "step-00000002"
    assert (tmp_path / "best").resolve().name == "step-00000001"
    assert not list(tmp_path.glob("tmp-*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_may_not_grow_leave_the_checkpoint_before(tmp_path: Path, layout: str) -> None:
    checkpoints, training = checkpoints_in(tmp_path, layout), Training(1)
    training.save(checkpoints, 1)
    checkpoints.finish()
    expected, before = training.tensors(), resource.getrlimit(resource.RLIMIT_FSIZE)
    training.step(1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012
            training.save(checkpoints, 2)
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last, resumed = checkpoints.store.last(), Training(2)
    assert last == tmp_path / "step-00000001"
    checkpoints_in(tmp_path).load(last, resumed.model, resumed.optimizer)
    assert same(resumed.tensors(), expected)
    training.save(checkpoints, 2)
    checkpoints.close()
    assert checkpoints.store.last() == tmp_path / "step-00000002"
    assert not list(tmp_path.glob("tmp-*"))


def test_a_failure_to_write_is_raised_when_it_is_finished(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, "async"), Training(1)
    training.save(checkpoints, 1)
    with held(checkpoints):
        training.save(checkpoints, 2)
        shutil.rmtree(tmp_path / "tmp-step-00000002")
        (tmp_path / "tmp-step-00000002").write_text("")
    with pytest.raises(NotADirectoryError):
        checkpoints.finish()
    assert checkpoints.store.last() == tmp_path / "step-00000001"
    training.save(checkpoints, 2)
    checkpoints.close()
    assert checkpoints.store.last() == tmp_path / "step-00000002"
    assert not list(tmp_path.glob("tmp-*"))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints, training, kept = checkpoints_in(tmp_path, "sharded", keep=2), Training(1), []
    for step, best in ((1, True), (2, False), (3, False), (4, False), (5, True), (6, False), (7, False)):
        training.save(checkpoints, step, best)
        kept.append(sorted(int(path.name[5:]) for path in tmp_path.glob("step-*")))
    # The two newest, the best, and that which was the best before.
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [1, 4, 5], [5, 6], [5, 6, 7]]


def test_the_newest_are_counted_by_step(tmp_path: Path) -> None:
    checkpoints, training = checkpoints_in(tmp_path, "full", keep=3), Training(1)
    for step in (8, 9, 10, 10, 10):
        training.save(checkpoints, step)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000010",
        "step-00000010-2",
        "step-00000010-3",
    ]
    # 10 was written by a run that was killed before it was of use; it goes when the run that resumes from 9 has passed
    training.save(checkpoints, 9)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000009", "step-00000010-3"]


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(written: Path, name: str) -> None:
    path, training = written / name, Training(1)
    content = path.read_bytes()
    checkpoints = checkpoints_in(written.parent)
    for damaged, reason in (
        (content[: len(content) // 2], "is truncated"),
        (content[:-2] + bytes([content[-2] ^ 1]) + content[-1:], "was altered"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{path} {reason}"):
            checkpoints.load(written, training.model, training.optimizer)
    path.unlink()
    with pytest.raises(InputError, match=f"{path} is missing"):
        checkpoints.load(written, training.model, training.optimizer)


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_strangers_metadata_runs_no_code(written: Path, tmp_path: Path) -> None:
    mark, training = tmp_path / "mark", Training(1)
    content = pickle.dumps(Attack(mark))
    (written / SHARDS[0]).write_bytes(content)
    manifest = json.loads((written / "manifest.json").read_text())
    manifest["files"][SHARDS[0]] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (written / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"names posix.mkdir, which the metadata of tensors does not"):
        checkpoints_in(written.parent).load(written, training.model, training.optimizer)
    assert not mark.exists()


@pytest.mark.parametrize("layout", ["full", "sharded"])
def test_checkpoints_of_something_else_are_refused(tmp_path: Path, layout: str) -> None:
    checkpoints, training = checkpoints_in(tmp_path, layout), Training(1)
    training.step(0)
    training.save(checkpoints, 1)
    before = training.tensors()
    others = {
        r"other data than these files hold \(changed: split\)": (
            checkpoints_in(tmp_path, fingerprint={"table": "a"}),
            5,
        ),
        r"written by `aam train`; needed here is a checkpoint of `aam pretrain`": (
            checkpoints_in(tmp_path, kind="pretrain"),
            5,
        ),
        r"other weights than this model has \(differing: model/hidden.bias, ": (checkpoints_in(tmp_path), 4),
    }
    for message, (other, width) in others.items():
        learner = Training(1, width=width)
        with pytest.raises(InputError, match=message):
            other.load(tmp_path / "last", learner.model, learner.optimizer)
    narrow = Training(1, width=4)
    with pytest.raises(InputError, match="other weights than this model has"):
        checkpoints.load_weights(tmp_path, narrow.model)
    narrow.model.unused.requires_grad_(False)
    narrow.optimizer = make_optimizer(narrow.model, OptimConfig())
    with pytest.raises(InputError, match="freezes other parameters"):
        checkpoints.load(tmp_path / "last", narrow.model, narrow.optimizer)
    assert same(training.tensors(), before)


# As in test_checkpoint.py: a process that forks writers, each of which dies before another operation on files.
KILLED_EVERYWHERE = """
import os, shutil, sys
from itertools import count
from pathlib import Path

import torch
from torch import nn

from aam.training.checkpoints.store import CheckpointStore, read_checkpoint
from aam.training.distributed import World
from aam.training.checkpoints.run import Identity, RunCheckpoints

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.listdir", "os.scandir"}
torch.set_num_threads(1)
run = Path(sys.argv[1])
model = nn.Linear(3, 3)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(3)).sum().backward()
optimizer.step()


def runner(step):
    identity = Identity("pretrain", {"step": step}, {"scaler": {"step": step}}, {})
    return RunCheckpoints(CheckpointStore(run), identity, World(torch.device("cpu")), sharded=True)


def fill(step):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
            optimizer.state[parameter]["exp_avg"].fill_(step)


def save(step, best):
    fill(step)
    runner(step).save(model, optimizer, {"step": step}, step, best)


def publish():
    checkpoints = runner(0)
    checkpoints.load_weights(run, model)
    checkpoints.publish(model)


def step_of(path):
    fill(-1)
    header = read_checkpoint(path, with_weights=False)
    runner(0).load_weights(path, model)
    values = {value.unique().item() for value in model.parameters()}
    if path.name == "last":
        state = runner(0).load(path, model, optimizer)
        values |= {state["step"], *(state["exp_avg"].unique().item() for state in optimizer.state.values())}
    assert values == {header.config["step"]} or header.config["step"] == 0, (values, header.config)
    return values.pop()


def die_before(event_number):
    seen = count()
    sys.addaudithook(lambda event, _: os._exit(9) if event in EVENTS and next(seen) == event_number else None)


def survive(work, allowed, after, links):
    shutil.rmtree(run.with_name("before"), ignore_errors=True)
    shutil.copytree(run, run.with_name("before"), symlinks=True)
    for kills in count():
        shutil.rmtree(run)
        shutil.copytree(run.with_name("before"), run, symlinks=True)
        child = os.fork()
        if child == 0:
            die_before(kills)
            work()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = step_of(run / "best"), step_of(run / "last")
        assert found in allowed, found
        if status == 0:
            break
        assert status == 9, status
        work()
        assert (step_of(run / "best"), step_of(run / "last")) == after
        names = sorted(path.name for path in run.iterdir())
        assert len(names) <= links and not any(name.startswith("tmp-") for name in names), names
    print(kills)


for step, best in ((1, True), (2, False), (3, False)):
    save(step, best)
survive(lambda: save(4, True), {(1, 3), (4, 3), (4, 4)}, (4, 4), 5)
save(5, False)
survive(publish, {(4, 5)}, (4, 5), 5)
read_checkpoint(run)
"""


@pytest.mark.slow
def test_killed_before_any_file_operation_a_sharded_run_reads_well_and_continues(tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "run")]
    result = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    saving, publishing = map(int, result.stdout.split())
    assert saving > 30
    assert publishing > 20

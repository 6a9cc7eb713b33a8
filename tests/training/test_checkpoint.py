import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aam.config import OptimConfig
from aam.errors import InputError
from aam.training.checkpoints.files import VerifiedFolder
from aam.training.checkpoints.store import (
    Checkpoint,
    CheckpointStore,
    flatten_optimizer,
    load_optimizer,
    read_checkpoint,
    write_checkpoint,
)
from aam.training.optim import Schedule, make_optimizer

FILES = ["config.json", "scaler.json", "model.safetensors", "state/optimizer.safetensors", "state/state.json"]


def checkpoint_of(step: int, **changes: Any) -> Checkpoint:
    values: dict[str, Any] = {
        "kind": "train",
        "config": {"model": {"embedding_dim": 8}, "step": step},
        "documents": {"scaler": {"mean": 0.1 + step}},
        "model": {"weight": torch.full((3, 4), float(step))},
        "optimizer": {"exp_avg/weight": torch.full((3, 4), step / 7)},
        "state": {"step": step},
    }
    return Checkpoint(**values | changes)


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal bit for bit, dtype and shape included."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and first[name]
        .contiguous()
        .view(-1)
        .view(torch.uint8)
        .equal(second[name].contiguous().view(-1).view(torch.uint8))
        for name in first
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A checkpoint folder of a run in tmp_path / run."""
    return CheckpointStore(tmp_path / "run" / "checkpoints").write(checkpoint_of(5), 5, best=True)


def test_what_is_written_comes_back_exactly(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(5, 3).T,
        "half": torch.randn(4).bfloat16(),
        "tokens": torch.arange(6, dtype=torch.uint8),
        "count": torch.tensor(2**62),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    numbers = {"values": [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**63 - 1], "none": None, "text": "µ"}
    write_checkpoint(checkpoint_of(1, model=tensors, optimizer=tensors, state=numbers, config=numbers), tmp_path / "a")
    back = read_checkpoint(tmp_path / "a", with_state=True, kind="train")
    assert back.optimizer is not None
    assert same_tensors(back.model, tensors)
    assert same_tensors(back.optimizer, tensors)
    assert repr(back.state) == repr(back.config) == repr(numbers)
    assert back.documents == {"scaler": {"mean": 1.1}}


def test_the_state_is_read_only_when_asked_for(written: Path) -> None:
    back = read_checkpoint(written)
    assert back.state is back.optimizer is None
    assert back.documents == {"scaler": {"mean": 5.1}}


def test_the_folder_holds_safetensors_and_json_alone(written: Path) -> None:
    files = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    assert files == sorted([*FILES, "manifest.json"])
    assert sorted(json.loads((written / "manifest.json").read_text())["files"]) == sorted(FILES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused_and_nothing_is_left(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_checkpoint(checkpoint_of(1, state={"best": value}), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config", "manifest", "../up", "a/b", "", ".hidden", "a b"])
def test_documents_have_plain_names_of_their_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a document"):
        write_checkpoint(checkpoint_of(1, documents={name: 1}), tmp_path / "a")


def test_an_existing_folder_is_not_overwritten(written: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        write_checkpoint(checkpoint_of(6), written)


def test_a_checkpoint_is_found_from_every_level(written: Path) -> None:
    store = CheckpointStore(written.parent)
    store.write(checkpoint_of(6), 6, best=False)
    run = written.parent.parent
    steps = {
        path: read_checkpoint(path).config["step"]
        for path in (run, run / "checkpoints", run / "checkpoints/best", run / "checkpoints/last", written)
    }
    assert steps == {
        run: 5,
        run / "checkpoints": 5,
        run / "checkpoints/best": 5,
        run / "checkpoints/last": 6,
        written: 5,
    }
    assert store.last() == run / "checkpoints/step-00000006"


def test_without_a_best_checkpoint_the_last_is_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.last() is None
    store.write(checkpoint_of(3), 3, best=False)
    assert read_checkpoint(tmp_path).config["step"] == 3


def test_links_are_relative_so_that_a_run_can_move(written: Path, tmp_path: Path) -> None:
    written.parent.parent.rename(tmp_path / "moved")
    assert read_checkpoint(tmp_path / "moved" / "checkpoints" / "last").config["step"] == 5


def test_only_what_somebody_may_read_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    kept = []
    for step, best in ((1, True), (2, False), (3, False), (4, True), (5, False), (6, False)):
        store.write(checkpoint_of(step), step, best)
        kept.append(sorted(int(path.name[5:]) for path in tmp_path.glob("step-*")))
    # Those named now, and those named before the write.
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [4, 5, 6]]
    assert not list(tmp_path.glob("tmp-*"))


def test_the_same_step_again_is_another_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = store.write(checkpoint_of(1), 1, best=False)
    second = store.write(checkpoint_of(1, state={"step": 1, "validated": True}), 1, best=True)
    assert first != second
    assert read_checkpoint(tmp_path, with_state=True).state == {"step": 1, "validated": True}
    assert store.last() == second


def test_leftovers_of_a_killed_run_go_at_the_next_write(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(checkpoint_of(1), 1, best=True)
    (tmp_path / "tmp-step-00000002" / "state").mkdir(parents=True)
    (tmp_path / "tmp-step-00000002" / "config.json").write_text("{")
    (tmp_path / "tmp-last").symlink_to("step-00000002")
    orphan = tmp_path / "step-00000002"
    write_checkpoint(checkpoint_of(2), orphan)
    store.write(checkpoint_of(3), 3, best=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-00000001", "step-00000003"]


def test_a_copy_without_symlinks_can_be_read_and_continued(tmp_path: Path) -> None:
    for name, step in (("best", 1), ("last", 2)):
        write_checkpoint(checkpoint_of(step), tmp_path / name)
    store = CheckpointStore(tmp_path)
    assert read_checkpoint(tmp_path).config["step"] == 1
    assert store.last() == tmp_path / "last"
    store.write(checkpoint_of(3), 3, best=False)
    assert (read_checkpoint(tmp_path).config["step"], read_checkpoint(tmp_path / "last").config["step"]) == (1, 3)


def test_a_reader_follows_when_its_checkpoint_is_replaced(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(written.parent)
    newer = iter([6, 7, 8])
    read_json = VerifiedFolder.json

    def slow(folder: VerifiedFolder, name: str) -> Any:
        for step in newer:
            store.write(checkpoint_of(step), step, best=True)
        return read_json(folder, name)

    monkeypatch.setattr(VerifiedFolder, "json", slow)
    assert read_checkpoint(written.parent / "best").config["step"] == 8
    assert not written.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(written: Path, name: str) -> None:
    path = written / name
    size = path.stat().st_size
    os.truncate(path, size // 2)
    with pytest.raises(InputError, match=f"{path} is truncated \\({size // 2} of {size} bytes\\); use another"):
        read_checkpoint(written, with_state=True)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(written: Path, name: str) -> None:
    content = bytearray((written / name).read_bytes())
    content[-2] ^= 1
    (written / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{written / name} was altered"):
        read_checkpoint(written, with_state=True)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(written: Path, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(InputError, match=f"{written / name} is missing"):
        read_checkpoint(written, with_state=True)


def test_a_missing_manifest_is_named(written: Path) -> None:
    (written / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds no checkpoint"):
        read_checkpoint(written)
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        read_checkpoint(written.parent)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "kind": "other", "files": {}}', "\udcff"],
)
def test_a_damaged_manifest_is_named(written: Path, text: str) -> None:
    (written / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        read_checkpoint(written)


def test_a_manifest_cannot_name_files_elsewhere(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    manifest["files"]["../secret.json"] = manifest["files"]["config.json"]
    (written / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(written)


def test_a_manifest_without_weights_is_refused(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    del manifest["files"]["model.safetensors"]
    (written / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"does not list model\.safetensors"):
        read_checkpoint(written)


def test_a_newer_format_asks_for_an_update(written: Path) -> None:
    (written / "manifest.json").write_text('{"format": 3, "new": true}')
    with pytest.raises(InputError, match="has format 3, this aam reads up to 2: update aam"):
        read_checkpoint(written)


def test_another_kind_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match="was written by `aam train`; needed here is a checkpoint of `aam pretrain`"):
        read_checkpoint(written, kind="pretrain")


def test_weights_alone_cannot_be_resumed(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_of(1, optimizer=None, state=None), tmp_path / "a")
    assert read_checkpoint(tmp_path / "a").config["step"] == 1
    with pytest.raises(InputError, match="nothing to resume from"):
        read_checkpoint(tmp_path / "a", with_state=True)


def test_a_place_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no such folder"):
        read_checkpoint(tmp_path / "file")


def _dangling(place: Path) -> None:
    place.symlink_to("step-00000099")


def _looping(place: Path) -> None:
    place.symlink_to(place.name)


def _text(place: Path) -> None:
    place.write_text("step-00000005")  # what some tools make of a symlink


@pytest.mark.parametrize("damage", [_dangling, _looping, _text])
@pytest.mark.parametrize("link", ["last", "best"])
def test_a_link_that_leads_to_no_folder_is_not_taken_for_none(
    written: Path, link: str, damage: Callable[[Path], None]
) -> None:
    folder = written.parent
    (folder / link).unlink()
    damage(folder / link)
    if link == "last":
        with pytest.raises(InputError, match=r"checkpoints/last is .*newest checkpoint, step-00000005"):
            CheckpointStore(folder).last()
    else:
        with pytest.raises(InputError, match=r"checkpoints/best is .*--overwrite"):
            read_checkpoint(folder.parent)


def test_a_file_in_place_of_the_checkpoints_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(InputError, match="checkpoints is no folder"):
        CheckpointStore(tmp_path / "checkpoints").last()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.hidden = nn.Linear(6, 5)
        self.unused = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.out(self.norm(self.hidden(self.frozen(values)).relu()))


def training(
    seed: int, scheduler: Any = "cosine", rates: dict[str, float] | None = None
) -> tuple[Net, torch.optim.AdamW, Schedule]:
    torch.manual_seed(seed)
    model = Net()
    config = OptimConfig(lr=0.05, scheduler=scheduler)
    optimizer = make_optimizer(model, config, rates or {})
    return model, optimizer, Schedule(optimizer, config, 12)


def train(model: Net, optimizer: torch.optim.AdamW, schedule: Schedule, steps: range) -> None:
    for step in steps:
        values = torch.randn(9, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(values) - values.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
@pytest.mark.parametrize("stop", [0, 1, 7])
@pytest.mark.parametrize("rates", [{}, {"hidden.": 0.2, "norm.": 0.003}])
def test_an_optimizer_resumes_bit_for_bit(tmp_path: Path, scheduler: str, stop: int, rates: dict[str, float]) -> None:
    whole = training(1, scheduler, rates)
    train(*whole, range(12))

    model, optimizer, schedule = begun = training(1, scheduler, rates)
    train(*begun, range(stop))
    tensors, groups = flatten_optimizer(optimizer, model)
    assert ("exp_avg/hidden.weight" in tensors) == (stop > 0)
    assert not any("unused" in name or "frozen" in name for name in tensors)
    state = {"groups": groups, "schedule": schedule.state_dict()}
    write_checkpoint(checkpoint_of(stop, model=model.state_dict(), optimizer=tensors, state=state), tmp_path / "a")

    saved = read_checkpoint(tmp_path / "a", with_state=True)
    assert saved.state is not None
    assert saved.optimizer is not None
    model, optimizer, schedule = resumed = training(2, scheduler, rates)
    model.load_state_dict(saved.model)
    load_optimizer(optimizer, model, saved.optimizer, saved.state["groups"])
    assert flatten_optimizer(optimizer, model)[1] == groups
    schedule.load_state_dict(saved.state["schedule"])
    assert same_tensors(flatten_optimizer(optimizer, model)[0], tensors)
    train(*resumed, range(stop, 12))

    assert same_tensors(model.state_dict(), whole[0].state_dict())
    expected, found = flatten_optimizer(whole[1], whole[0]), flatten_optimizer(optimizer, model)
    assert same_tensors(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize("fused", [False, True])
def test_the_state_of_a_fused_optimizer_is_that_of_a_plain_one(fused: bool) -> None:
    """Checkpoints of aam before its optimizer was fused are such ones."""
    model, optimizer, schedule = begun = training(1)
    for group in optimizer.param_groups:
        group["fused"] = fused
    train(*begun, range(5))
    tensors, groups = flatten_optimizer(optimizer, model)
    other, plain, course = resumed = training(2)
    for group in plain.param_groups:
        group["fused"] = not fused
    other.load_state_dict(model.state_dict())
    load_optimizer(plain, other, {name: tensor.clone() for name, tensor in tensors.items()}, groups)
    course.load_state_dict(schedule.state_dict())
    assert [group["fused"] for group in plain.param_groups] == len(groups) * [not fused]
    assert same_tensors(flatten_optimizer(plain, other)[0], tensors)
    train(*begun, range(5, 12))
    train(*resumed, range(5, 12))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    model, optimizer, _ = training(1)
    tensors, groups = flatten_optimizer(optimizer, model)
    other = Net()
    other.unused.requires_grad_(False)
    with pytest.raises(InputError, match=r"freezes other parameters \(differing: unused.bias, unused.weight\)"):
        load_optimizer(make_optimizer(other, OptimConfig()), other, tensors, groups)


# Writers run in a process of their own, which forks them: importing torch for each kill would take most of the time.
WRITER = """
import os, random, shutil, signal, sys, time
from itertools import count
from pathlib import Path

import torch

from aam.training.checkpoints.store import Checkpoint, CheckpointStore, read_checkpoint

torch.set_num_threads(1)
run = Path(sys.argv[1])


def checkpoint(step):
    number = {"step": step}
    tensors = {"weight": torch.full((200, 100), float(step)), "bias": torch.full((7,), float(step))}
    return Checkpoint("pretrain", number, {"scaler": number}, tensors, tensors, number)


def step_of(path):
    found = read_checkpoint(path, with_state=True)
    values = {value.unique().item() for tensors in (found.model, found.optimizer) for value in tensors.values()}
    assert values == {found.state["step"]} == {found.config["step"]} == {found.documents["scaler"]["step"]}
    return found.state["step"]
"""

KILLED_AT_RANDOM = (
    WRITER
    + """
draw = random.Random(3)
store = CheckpointStore(run / "checkpoints")
store.write(checkpoint(1), 1, best=True)
print("ready", flush=True)
started = time.monotonic()
store.write(checkpoint(step_of(store.last()) + 1), 2, best=True)
once = time.monotonic() - started  # on a busy machine all takes longer, and kills must still find writers at work
kills = 0
while kills < 30 or step_of(store.last()) < 20:
    kills += 1
    child = os.fork()
    if child == 0:
        for step in count(step_of(store.last()) + 1):
            store.write(checkpoint(step), step, best=step % 3 == 0)
    time.sleep(draw.uniform(0.0, 4 * once))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
)

KILLED_EVERYWHERE = (
    WRITER
    + """
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.listdir", "os.scandir"}


def die_before(event_number):
    seen = count()
    sys.addaudithook(lambda event, _: os._exit(9) if event in EVENTS and next(seen) == event_number else None)


store = CheckpointStore(run / "checkpoints")
for step, best in ((1, True), (2, False), (3, False)):
    store.write(checkpoint(step), step, best)
shutil.copytree(run, run.with_name("before"), symlinks=True)
for kills in count():
    shutil.rmtree(run)
    shutil.copytree(run.with_name("before"), run, symlinks=True)
    child = os.fork()
    if child == 0:
        die_before(kills)
        store.write(checkpoint(4), 4, best=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    best, last = step_of(run), step_of(store.last())
    assert (best, last) in {(1, 3), (4, 3), (4, 4)}, (best, last)
    if status == 0:
        break
    assert status == 9, status
    store.write(checkpoint(4), 4, best=True)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(names) <= 5 and not any(name.startswith("tmp-") for name in names), names
    assert (step_of(run), step_of(store.last())) == (4, 4)
print(kills)
"""
)


def test_killed_before_any_file_operation_a_run_reads_well_and_continues(tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "run")]
    result = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 25


@pytest.mark.slow
def test_no_reader_sees_a_broken_checkpoint_while_writers_are_killed(tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED_AT_RANDOM, str(tmp_path)]
    reads = 0
    newest = 0
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
        while writer.poll() is None:
            for path in (tmp_path, tmp_path / "checkpoints" / "last"):
                found = read_checkpoint(path, with_state=True)
                assert found.state is not None
                assert found.optimizer is not None
                step = found.state["step"]
                tensors = [*found.model.values(), *found.optimizer.values()]
                assert all(bool((value == step).all()) for value in tensors)
                assert found.config["step"] == found.documents["scaler"]["step"] == step
                reads += 1
            assert step >= newest  # of the last checkpoint
            newest = step
        assert writer.returncode == 0, writer.stderr.read()
    assert reads > 20
    assert newest >= 20

"""A run that a signal stops: it saves, says so, and goes on to the same end; and which checkpoints are kept."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aam.errors import StoppedBySignalError
from aam.training.checkpoints.store import read_checkpoint
from aam.training.distributed import World
from aam.training.distributed.agreement import Agreement, Verdict
from aam.training.machine.signals import STOPPING
from aam.training.sinks.sink import Results
from aam.workflows import fit as workflow
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining

STEPS = 8
"""Steps of a run here: two epochs of four."""


class Signalled:
    """An objective to which a signal comes at a step, or in the validation after it."""

    def __init__(self, objective, at: int, name: str, validating: bool = False) -> None:
        self.objective, self.parallel, self.model = objective, objective.parallel, objective.model
        self.at, self.name, self.validating, self.step = at, name, validating, -1

    @property
    def is_finite(self):
        return self.objective.is_finite

    def signal(self, validating: bool) -> None:
        if self.step == self.at and self.validating == validating:
            os.kill(os.getpid(), signal.Signals[self.name])

    def backward(self, step, scale):
        self.step = step.plan.step
        self.signal(False)
        return self.objective.backward(step, scale)

    def validate(self):
        self.signal(True)
        return self.objective.validate()

    @property
    def metrics(self):
        return self.objective.metrics


def fit(run: Run) -> Path:
    return workflow.fit(run, run.config, lambda folder: Results())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def results(folder: Path) -> dict[str, object]:
    """What a run has learned: curves, best weights, and all that the last checkpoint holds."""
    kept = {
        f"{link}/{path.name}": path.read_bytes()
        for link in ("last", "best")
        for path in (folder / "checkpoints" / link).rglob("*.safetensors")
    }
    assert len(kept) >= 3
    state = read_checkpoint(folder / "checkpoints/last", with_state=True).state
    return kept | {"state": state, "metrics": lines(folder)}


@pytest.fixture(params=["pretraining", "fine-tuning"])
def prepare(request, study, make_pretrain_config, make_train_config):
    """Prepare a run, of each kind."""
    if request.param == "pretraining":
        return lambda **options: prepare_pretraining(study, make_pretrain_config(nucleotide_dropout=0.1, **options))
    return lambda **options: prepare_training(study, make_train_config(count_weight=0.2, **options))


@pytest.mark.parametrize(
    ("name", "at", "validating", "done"),
    [
        ("SIGTERM", 1, False, 2),
        ("SIGUSR1", 5, False, 6),
        ("SIGHUP", 2, False, 3),
        ("SIGTERM", 3, False, 4),  # the last step of an epoch
        ("SIGUSR1", 3, True, 5),  # in its validation
        ("SIGTERM", 7, False, 8),  # the last step of all
    ],
)
def test_a_stopped_run_goes_on_to_the_same_end(prepare, tmp_path, name, at, validating, done):
    whole = prepare(output_dir=tmp_path / "whole")
    fit(whole)
    run = prepare(output_dir=tmp_path / "stopped")
    before = [signal.getsignal(number) for number in STOPPING]
    with pytest.raises(StoppedBySignalError, match=f"after step {done}, which is saved: continue with --resume"):
        fit(replace(run, objective=Signalled(run.objective, at, name, validating)))
    assert [signal.getsignal(number) for number in STOPPING] == before
    folder = tmp_path / "stopped"
    progress = read_checkpoint(folder / "checkpoints/last", with_state=True).state["progress"]
    assert progress["step"] == done
    assert [line["step"] for line in lines(folder) if "val/loss" in line] == [4, 8][: done // 4]
    assert checkpoints(folder)[-1] == f"step-{done:08d}", "a step was saved twice"
    run = prepare(output_dir=folder, resume=True)
    fit(run)
    assert results(folder) == results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, [7, 8]), (3, [6, 7, 8]), (100, [*range(1, STEPS + 1)])], ids=["one", "three", "all"]
)
def test_the_newest_checkpoints_are_kept(study, make_pretrain_config, keep, expected):
    run = prepare_pretraining(study, make_pretrain_config(checkpoint_every=1, keep_checkpoints=keep))
    folder = fit(run)
    best = read_checkpoint(folder / "checkpoints/last", with_state=True).state["progress"]["best_step"]
    kept = {int(re.match(r"step-(\d+)", name)[1]) for name in checkpoints(folder)}
    assert kept == {*expected, best}


NUMBER, NO_NUMBER = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    ("sound", "finite", "broken"), [(NUMBER, NUMBER, None), (NUMBER, NO_NUMBER, 0), (NO_NUMBER, NO_NUMBER, 0)]
)
@pytest.mark.parametrize(("stop", "written"), [(False, False), (True, False), (True, True)])
def test_one_process_agrees_with_itself_at_once(sound, finite, broken, stop, written, wait):
    agreement = Agreement(World(torch.device("cpu")))
    assert agreement.verdicts(wait=True) == []
    plan = object()
    agreement.report(plan, sound, finite, stop, written)
    assert agreement.verdicts(wait) == [Verdict(plan, broken, stop, written)]
    agreement.report(plan, sound, finite, stop, written, exceeded=True)
    assert agreement.verdicts(wait) == [Verdict(plan, broken, stop, written, exceeded=True)]
    assert agreement.verdicts(wait=True) == []


class Ranks(World):
    """Rank 0, which knows what the others say."""

    def gather(self, rows, sizes):
        assert rows.shape == (1, 5)
        assert rows.dtype == torch.uint8
        return torch.stack([rows[0], *(torch.tensor(flags, dtype=torch.uint8) for flags in self.others)])


@pytest.mark.parametrize(
    ("others", "broken", "stop", "written"),
    [
        ([(1, 1, 0, 1, 0), (1, 1, 0, 1, 0)], None, False, True),
        ([(1, 1, 0, 1, 0), (1, 1, 1, 0, 1)], None, True, False),
        ([(1, 0, 0, 1, 0), (1, 0, 0, 1, 1)], 1, False, True),
        ([(1, 0, 0, 1, 0), (0, 0, 0, 1, 0)], 2, False, True),  # the one that it began with
        ([(0, 0, 0, 1, 0), (0, 1, 0, 1, 0)], 1, False, True),
    ],
)
def test_what_one_rank_meets_all_know(others, broken, stop, written):
    world = Ranks(torch.device("cpu"), 0, 3)
    world.others = others
    agreement = Agreement(world)
    agreement.report(None, NUMBER, NUMBER, False, True)
    exceeded = any(flags[4] for flags in others)
    assert agreement.verdicts() == [Verdict(None, broken, stop, written, exceeded)]

"""`aam estimate`: what it tells of a run, and that it leaves nothing behind."""

import re

import pytest
import torch

from aam.cli import main
from aam.config import EstimatePretrainConfig, flag
from aam.training.memory.budget import GB
from aam.workflows import estimate

pytestmark = pytest.mark.skipif(not torch.sys.platform.startswith("linux"), reason="/proc tells the resident memory")


def words(options: dict) -> list[str]:
    given = []
    for name, value in options.items():
        for each in value if isinstance(value, tuple) else (value,):
            given += [flag(name)] if each is True else [flag(name), str(each)]
    return given


def told(command: str, options: dict, capsys) -> dict[str, str]:
    """What a command says, by name."""
    with pytest.raises(SystemExit) as left:
        main(["estimate", command, *words(options)])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    rows = [re.split(r"(?<=\S) {2,}", line.strip(), maxsplit=1) for line in shown.out.splitlines()]
    return dict(rows)


def number(text: str) -> float:
    return float(re.search(r"[\d.,]+\d|\d", text)[0].replace(",", ""))


@pytest.fixture
def flat(pretrain_options, train_options, tmp_path, monkeypatch):
    """Options of a small run, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(command: str, **more) -> dict:
        options = (pretrain_options if command == "pretrain" else train_options)("nowhere", **more)
        return {name: value for name, value in options.items() if name not in ("output_dir", "log_every", "report")}

    return make


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_the_size_of_a_run_is_told_and_nothing_is_written(flat, command, capsys, tmp_path):
    learns = {"encoder_lr_ratio": 0.2} if command == "train" else {}
    options = flat(command, rarefy_depth=150, embedding_dim=64, batch_size=8, **learns)
    said = told(command, options, capsys)
    assert list(tmp_path.iterdir()) == []
    parameters = number(said["parameters"])
    assert 50_000 < parameters < 2_000_000
    learned = number(said["of them learned"])
    assert 0.9 * parameters < learned <= parameters  # abundances are not predicted by `train`
    for part, times in {"weights": 1, "gradients": 1, "optimizer": 2}.items():
        assert number(said[part]) == pytest.approx(
            times * 4 * (parameters if part == "weights" else learned) / GB, abs=6e-4
        )
    assert number(said["samples in a step"]) == 8
    mean, most, together = (float(x) for x in re.findall(r"\d+", said["unique ASVs in a step"])[:3])
    assert 1 < mean <= most <= number(said["ASVs"]) <= 60
    assert mean <= together <= 8 * 60
    assert said["memory"] == f"{number(said['memory']):.3f} GB above what the study takes"
    assert number(said["memory"]) < 4
    assert number(said["batches in a step"]) == 1
    steps = int(re.search(r"\((\d+) steps\)", said["time of an epoch"])[1])
    samples = number(said["samples"])
    assert steps == -(-samples // 8)
    assert 0 < number(said["time of a step"]) < 60
    assert "(2 epochs)" in said["time of the run"]


def test_a_frozen_encoder_learns_a_part(flat, pretrained, capsys):
    options = flat("train", rarefy_depth=150, pretrained_encoder=pretrained, freeze_base=True)
    for rarefaction in ("fixed", "epoch"):
        said = told("train", {**options, "rarefaction": rarefaction}, capsys)
        assert 0 < number(said["of them learned"]) < number(said["parameters"])


def test_a_budget_cuts_the_steps_that_are_timed(flat, capsys):
    """Told of the large budget: what one batch takes; a smaller one cuts the step into more batches within it."""
    options = flat(
        "pretrain", embedding_dim=128, attention_layers=3, batch_size=32, rarefy_depth=300, keep_shallow=True
    )
    whole = told("pretrain", options, capsys)
    alone = number(whole["in one batch a step"])
    assert number(whole["memory"]) == alone
    cut = told("pretrain", {**options, "max_memory_gb": 0.75 * alone}, capsys)
    assert number(cut["memory"]) < 0.75 * alone
    assert number(cut["batches in a step"]) > 1


def test_steps_are_timed_with_the_memory_settings_of_a_run(flat, monkeypatch):
    """Freed memory goes back at once only where the budget is tight; the last setting before a step counts."""
    settings = []
    monkeypatch.setattr("aam.workflows.estimate.keep_freed_memory", lambda: settings.append("keep"))
    monkeypatch.setattr("aam.training.memory.step_memory.keep_freed_memory", lambda: settings.append("keep"))
    monkeypatch.setattr("aam.training.memory.step_memory.return_freed_memory", lambda: settings.append("return"))
    seconds = estimate._seconds
    monkeypatch.setattr(estimate, "_seconds", lambda *given: (settings.append("steps"), seconds(*given))[1])
    options = flat("pretrain", rarefy_depth=150)
    for budget in ({}, {"max_memory_gb": 8.0}):
        settings.clear()
        estimate.estimate_pretraining(EstimatePretrainConfig.from_flat({**options, **budget}))
        assert settings[0] == "return"
        assert settings[-2:] == ["keep", "steps"], budget

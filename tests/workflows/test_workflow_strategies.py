"""A run of one process with the strategies of many: the same numbers, the same files, and no group left behind."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from aam.config import PretrainConfig, TrainConfig
from aam.training.checkpoints.store import read_checkpoint
from aam.training.objective import Objective
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train

STRATEGIES = {
    "distributed": {"distributed": True},
    "fsdp": {"fsdp": True},
    "sharded checkpoints": {"fsdp": True, "fsdp_sharded_checkpoint": True},
    "sharded checkpoints, meanwhile": {"fsdp": True, "fsdp_sharded_checkpoint": True, "async_checkpoint": True},
    "offload": {"fsdp": True, "fsdp_cpu_offload": True},
}
SAME = 1e-6
CORRELATED = 1e-5
"""A correlation over a handful of samples doubles what rounding does."""


@pytest.fixture(autouse=True)
def _no_group_is_left(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not dist.is_initialized()
    yield
    assert not dist.is_initialized()


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(folder: Path, other: Path, report: str) -> None:
    """Compare curves, best weights and the report on them; where a strategy sums otherwise, the last digits differ."""
    assert len(lines(folder)) == len(lines(other))
    for one, two in zip(lines(folder), lines(other), strict=True):
        pearson = {name for name in one if name.endswith("pearson")}
        assert {name: one[name] for name in pearson} == pytest.approx(
            {name: two[name] for name in pearson}, abs=CORRELATED
        )
        rest = one.keys() - pearson
        assert {name: one[name] for name in rest} == pytest.approx(
            {name: two[name] for name in rest}, rel=SAME, abs=SAME
        )
    weights, others = (load_file(each / "checkpoints/best/model.safetensors") for each in (folder, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.allclose(value, others[name], rtol=0, atol=SAME), name
    one, two = (json.loads((each / report).read_text()) for each in (folder, other))
    assert one.keys() == two.keys()
    numbers = [{name: value for name, value in each.items() if name != "warning"} for each in (one, two)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-5)
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}


# accumulation, dropout and gradient checkpointing call the model in ways of their own
FULL = {"batch_size": 4, "accumulation_steps": 2, "nucleotide_dropout": 0.1, "sample_dropout": 0.1}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("more", [{}, {**FULL, "gradient_checkpointing": True, "faith_pd_weight": 0.1}])
def test_pretraining_gives_the_same(pretrain_options, tmp_path, name, more):
    for folder, strategy in ((tmp_path / "alone", {}), (tmp_path / "run", STRATEGIES[name])):
        pretrain(PretrainConfig.from_flat(pretrain_options(folder, **more, **strategy)))
    assert_same(tmp_path / "run", tmp_path / "alone", "val_distances.json")


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("freeze", [False, True])
def test_fine_tuning_gives_the_same(train_options, pretrained, tmp_path, name, freeze):
    more = {"pretrained_encoder": pretrained, "freeze_base": freeze, "count_weight": 0.2, "accumulation_steps": 2}
    for folder, strategy in ((tmp_path / "alone", {}), (tmp_path / "run", STRATEGIES[name])):
        train(TrainConfig.from_flat(train_options(folder, **more, **strategy)))
    assert_same(tmp_path / "run", tmp_path / "alone", "val_metrics.json")


@pytest.mark.parametrize("losses", [{"nucleotide_weight": 0.0}, {"unifrac_weight": 0.0}])
@pytest.mark.parametrize("name", ["distributed", "fsdp"])
def test_a_part_of_the_model_that_no_loss_reaches_is_no_obstacle(pretrain_options, tmp_path, name, losses):
    for folder, strategy in ((tmp_path / "alone", {}), (tmp_path / "run", STRATEGIES[name])):
        pretrain(PretrainConfig.from_flat(pretrain_options(folder, epochs=1, **losses, **strategy)))
    last, alone = lines(tmp_path / "run")[-1], lines(tmp_path / "alone")[-1]
    assert last == pytest.approx(alone, rel=SAME, abs=SAME)


ORDERS = [("sharded checkpoints", "none"), ("none", "fsdp"), ("distributed", "sharded checkpoints, meanwhile")]


@pytest.mark.parametrize(("first", "then"), ORDERS)
@pytest.mark.parametrize("kind", ["pretrain", "train"])
def test_a_run_goes_on_with_another_strategy(pretrain_options, train_options, tmp_path, monkeypatch, kind, first, then):
    def run(folder: Path, name: str, **more) -> None:
        strategy = STRATEGIES.get(name, {})
        if kind == "pretrain":
            pretrain(PretrainConfig.from_flat(pretrain_options(folder, checkpoint_every=3, **strategy, **more)))
        else:
            train(TrainConfig.from_flat(train_options(folder, checkpoint_every=3, **strategy, **more)))

    backward = Objective.backward

    def fail(self, step, scale):
        if step.plan.step == 6:
            raise ZeroDivisionError
        return backward(self, step, scale)

    run(tmp_path / "whole", "none")
    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", fail)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "run", first)
    assert not dist.is_initialized()
    run(tmp_path / "run", then, resume=True)
    assert "resumed at step 6" in (tmp_path / "run/training.log").read_text()
    assert_same(tmp_path / "run", tmp_path / "whole", f"val_{'distances' if kind == 'pretrain' else 'metrics'}.json")


@pytest.mark.parametrize("strategy", ["distributed", "fsdp"])
def test_the_command_line_trains_and_applies(aam, pretrain_options, train_options, study_folder, tmp_path, strategy):
    assert aam("pretrain", **pretrain_options(tmp_path / "encoder", epochs=1, **{strategy: True})) == 0
    options = train_options(tmp_path / "run", epochs=1, pretrained_encoder=tmp_path / "encoder", **{strategy: True})
    assert aam("train", **options) == 0
    given = {"table": study_folder / "table.biom", "device": "cpu"}
    assert aam("predict", checkpoint=tmp_path / "run", output=tmp_path / "p.tsv", **given) == 0
    predictions = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col="sample_id")["prediction"]
    assert predictions.notna().all()
    assert len(predictions) == 40


def test_sharded_mixed_precision_learns_about_the_same(pretrain_options, tmp_path):
    for folder, strategy in (
        (tmp_path / "alone", {}),
        (tmp_path / "run", {"fsdp": True, "fsdp_mixed_precision": True}),
    ):
        pretrain(PretrainConfig.from_flat(pretrain_options(folder, epochs=1, **strategy)))
    weights = read_checkpoint(tmp_path / "run").model
    assert all(value.dtype == torch.float32 for value in weights.values())
    last, alone = (lines(tmp_path / name)[-1]["val/loss"] for name in ("run", "alone"))
    assert last != alone
    assert last == pytest.approx(alone, rel=0.05)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"fsdp": True, "mixed_precision": "fp16"}, 2, "--mixed-precision fp16 needs a GPU"),
        ({"data_parallel": True}, 2, "--data-parallel spreads a batch over the GPUs of one process"),
        ({"fsdp": True, "fsdp_replicate": 2}, 2, "--fsdp-replicate 2 does not divide the 1 processes"),
        ({"fsdp": True, "distributed": True}, 2, "exclude each other"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    aam, pretrain_options, tmp_path, capsys, options, code, says
):
    assert aam("pretrain", **pretrain_options(tmp_path / "run", **options)) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

"""The training loop: that a resumed run is the uninterrupted one, what is kept as best, and how a run ends."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from aam.data.sampling.packing import Cutting, MemoryBudget
from aam.errors import InputError
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, read_checkpoint, write_checkpoint
from aam.training.distributed.strategies import Parallel
from aam.training.memory.budget import memory_limit, predicted_cost
from aam.training.memory.step_memory import StepMemory
from aam.training.monitor import Monitor
from aam.training.objective import Objective
from aam.training.sinks.sink import Results, Sink
from aam.training.trainer import Trainer, TrainingDivergedError
from aam.workflows import fit as workflow
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining


class Interrupt(Exception):  # noqa: N818 (a test's own)
    """The run stops here."""


class Interrupted:
    """An objective that stops the run at a step, or in the validation of an epoch."""

    def __init__(self, objective, at: int, validating: bool = False) -> None:
        self.objective, self.at, self.validating, self.step = objective, at, validating, -1
        self.parallel, self.model = objective.parallel, objective.model

    @property
    def is_finite(self):
        return self.objective.is_finite

    def backward(self, step, scale):
        self.step = step.plan.step
        if self.step == self.at and not self.validating:
            raise Interrupt
        return self.objective.backward(step, scale)

    def validate(self):
        if self.validating and self.step >= self.at:
            raise Interrupt
        return self.objective.validate()

    @property
    def metrics(self):
        return self.objective.metrics


def fit(run: Run, asked) -> Path:
    return workflow.fit(run, asked, lambda folder: Results())


def results(folder: Path) -> dict[str, bytes]:
    """What a run has learned, byte for byte."""
    last, best = folder / "checkpoints/last", folder / "checkpoints/best"
    files = [*(path for path in sorted(last.rglob("*")) if path.is_file()), best / "model.safetensors"]
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "config.json"}
    del kept["checkpoints/last/manifest.json"]  # holds the hash of config.json, which names the folder
    return kept | {"metrics": (folder / "metrics.jsonl").read_bytes(), "split": (folder / "split.tsv").read_bytes()}


PRETRAIN_CASES = {
    "cosine": {"scheduler": "cosine"},
    "restarts": {"scheduler": "cosine_restarts"},
    "plateau": {"scheduler": "plateau", "lr": 0.1},
    "onecycle": {"scheduler": "onecycle"},
    "accumulation and dropout": {"batch_size": 4, "accumulation_steps": 2, "nucleotide_dropout": 0.1},
    "sample dropout": {"sample_dropout": 0.2, "faith_pd_weight": 0.1, "nuc_mask_strategy": "span"},
    "workers": {"num_workers": 2},
    "augmentation": {"asv_dropout": 0.2, "depth_jitter": 0.3, "sequence_noise": 0.05},
    "patience": {"patience": 1, "best_metric": "val/unifrac_mae", "lr": 0.3, "epochs": 8},
}


def compare_resumed(prepare: Callable[..., Run], folder: Path, stops: list[tuple[int, bool]], **options) -> Path:
    """Run once undisturbed and once with stops, and expect the same to the last bit."""
    options |= {"checkpoint_every": 3}
    whole = prepare(output_dir=folder / "whole", **options)
    fit(whole, whole.config)
    run = prepare(output_dir=folder / "stopped", **options)
    for at, validating in stops:
        with pytest.raises(Interrupt):
            fit(replace(run, objective=Interrupted(run.objective, at, validating)), run.config)
        run = prepare(output_dir=folder / "stopped", resume=True, **options)
    fit(run, run.config)
    assert results(folder / "stopped") == results(folder / "whole")
    return folder / "stopped"


@pytest.mark.parametrize("case", PRETRAIN_CASES)
def test_a_resumed_pretraining_is_the_uninterrupted_one(study, make_pretrain_config, tmp_path, case):
    options = {"epochs": 3, **PRETRAIN_CASES[case]}
    stops = [(2, False), (5, False), (7, True)] if case != "workers" else [(5, False)]
    folder = compare_resumed(
        lambda **more: prepare_pretraining(study, make_pretrain_config(**options, **more)), tmp_path, stops
    )
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if case == "patience":
        assert max(steps) < 32  # it stopped early: else the case would show nothing
    else:
        assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12]


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_run_goes_on_with_the_batches_that_it_had(study, make_pretrain_config, tmp_path, monkeypatch, pieces: int):
    """What a run measured, and into how many pieces it cut batches, are those of the checkpoint."""
    cuts = []

    def measured(memory: StepMemory) -> MemoryBudget:
        cost = predicted_cost(memory.config.model, memory.config.masking)
        assert memory_limit(memory.config, memory.world) == 0.5e9
        return MemoryBudget(cost.of(45, 60), cost)

    def prepare(**more) -> Run:
        run = prepare_pretraining(study, make_pretrain_config(batch_size=12, max_memory_gb=0.5, epochs=4, **more))
        if more.get("resume"):
            monkeypatch.setattr(StepMemory, "measured", None)
            return run
        monkeypatch.setattr(StepMemory, "measured", measured)
        return replace(run, dataset=replace(run.dataset, cutting=Cutting(pieces=pieces)))

    backward = Objective.backward

    def watched(objective, step, scale):
        cuts.append((step.plan.step, step.cutting.pieces, [len(batch.sample) for batch in step.micro]))
        return backward(objective, step, scale)

    monkeypatch.setattr(Objective, "backward", watched)
    compare_resumed(prepare, tmp_path, [(4, False), (7, True)])
    assert {of_step for _, of_step, _ in cuts} == {pieces}
    assert max(len(sizes) for _, _, sizes in cuts) > pieces
    assert len({repr(cut) for cut in cuts}) == 12  # the same every time


@pytest.mark.parametrize(
    "options",
    [
        {"count_weight": 0.2, "regressor_dropout": 0.3, "accumulation_steps": 2, "batch_size": 4},
        {"metadata_column": "habitat", "classifier": True, "best_metric": "val/auroc", "scheduler": "plateau"},
        {
            **{"metadata_column": "habitat", "classifier": True, "count_weight": 0.2, "rarefaction": "fixed"},
            **{"asv_dropout": 0.2, "depth_jitter": 0.3, "sequence_noise": 0.05, "mix_samples": 0.5},
        },
    ],
)
def test_a_resumed_fine_tuning_is_the_uninterrupted_one(study, make_train_config, tmp_path, options):
    compare_resumed(
        lambda **more: prepare_training(study, make_train_config(**options, **more)), tmp_path, [(5, False), (7, True)]
    )


def test_a_resumed_frozen_encoder_is_that_of_the_run(study, make_train_config, make_pretrain_config, tmp_path):
    """Also where another encoder is by now in the folder that the run began from."""
    place = tmp_path / "encoder"

    def pretrain(seed: int) -> None:
        shutil.rmtree(place, ignore_errors=True)
        run = prepare_pretraining(study, make_pretrain_config(seed=seed, attention_heads=2 * (1 + seed % 2)))
        config = run.config.model_dump(mode="json")
        write_checkpoint(Checkpoint("pretrain", config, run.documents, run.model.state_dict()), place)

    def prepare(**more) -> Run:
        pretrain(43 if more.get("resume") else 42)
        return prepare_training(study, make_train_config(pretrained_encoder=place, freeze_base=True, **more))

    compare_resumed(prepare, tmp_path, [(5, False)])


def test_resuming_a_finished_run_changes_nothing(study, make_pretrain_config, tmp_path):
    for resume in (False, True):
        run = prepare_pretraining(study, make_pretrain_config(resume=resume))
        folder = fit(run, run.config)
        before = results(folder) if not resume else before  # noqa: F821 (of the first round)
    assert results(folder) == before


class Toy:
    """A line through a point: an objective whose losses and validations a test can script."""

    def __init__(self, parallel: Parallel, losses: Callable[[int, torch.Tensor], torch.Tensor], validations) -> None:
        self.parallel, self.model = parallel, parallel.call
        self.losses, self.validations, self.epoch = losses, validations, 0

    def backward(self, step, scale):
        self.epoch = step.plan.epoch
        loss = self.losses(step.plan.step, self.parallel.call.weight.sum())
        scale(loss).backward()
        self.is_finite = loss.isfinite()
        return {"loss": loss.detach()}

    def validate(self):
        return dict(self.validations[self.epoch])

    @property
    def metrics(self):
        return {name: name.endswith("r2") for name in self.validations[0]}


def square(step: int, weight: torch.Tensor) -> torch.Tensor:
    return (weight - 1).square()


@pytest.fixture
def toy_run(study, make_pretrain_config):
    """A run over real samples (4 steps an epoch) of a model with one weight."""

    def make(values: list, losses=square, **options) -> Run:
        metric = options.pop("best_metric", "val/loss")
        run = prepare_pretraining(study, make_pretrain_config(epochs=len(values), **{"lr": 0.1, **options}))
        config = run.config.model_copy(update={"optim": run.config.optim.model_copy(update={"best_metric": metric})})
        torch.manual_seed(0)
        model = nn.Linear(1, 1, bias=False)
        dataset = replace(run.dataset, source=None)
        objective = Toy(Parallel(model, run.material.compute), losses, [{metric: value} for value in values])
        return replace(run, model=model, objective=objective, dataset=dataset, config=config)

    return make


def progress_of(folder: Path, link: str = "last") -> dict:
    return read_checkpoint(folder / "checkpoints" / link, with_state=True).state["progress"]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("val/loss", [3.0, 1.0, 2.0], 8),
        ("val/loss", [3.0, 3.0, 3.0], 4),
        ("val/r2", [0.1, 0.5, 0.3], 8),
        ("val/r2", [None, -7.0, None], 8),
        ("val/unifrac_r2", [-math.inf, -7.0, -8.0], 8),
        ("val/mae", [math.inf, 5.0, math.nan], 8),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_metric(toy_run, metric, values, best):
    run = toy_run(values, best_metric=metric)
    folder = fit(run, run.config)
    assert progress_of(folder, "best")["step"] == best
    progress = progress_of(folder)
    assert (progress["step"], progress["best_step"], progress["best"]) == (12, best, values[best // 4 - 1])
    weights = read_checkpoint(folder / "checkpoints/best").model
    assert torch.equal(run.model.weight, weights["weight"])  # fit leaves the best weights


def test_without_any_defined_value_the_last_weights_are_kept(toy_run):
    run = toy_run([None, None])
    folder = fit(run, run.config)
    assert not (folder / "checkpoints/best").exists()
    assert torch.equal(run.model.weight, read_checkpoint(folder / "checkpoints/last").model["weight"])


def test_patience_counts_validations_without_a_better_value(toy_run, caplog):
    run = toy_run([3.0, 3.5, 2.0, 2.5, 2.5, 1.0], patience=2)
    folder = fit(run, run.config)
    assert progress_of(folder) == {"step": 20, "best": 2.0, "best_step": 12, "stale": 2}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"step": 20, "epoch": 4, "val/loss": 2.5}
    assert "stopped early" in (folder / "training.log").read_text()


def test_metrics_are_one_line_for_each_logged_step_and_validation(toy_run):
    run = toy_run([1.0, None], log_every=3)
    lines = [json.loads(line) for line in (fit(run, run.config) / "metrics.jsonl").read_text().splitlines()]
    where = [(line["step"], line["epoch"]) for line in lines]
    assert where == [(3, 0), (4, 0), (4, 0), (6, 1), (8, 1), (8, 1)]
    assert set(lines[0]) == {"step", "epoch", "train/loss", "train/learning_rate"}
    assert lines[2]["val/loss"] == 1.0
    assert lines[5]["val/loss"] is None


def test_a_short_run_logs_the_last_step_of_every_epoch(toy_run):
    run = toy_run([1.0, 1.0], log_every=1000)
    lines = [json.loads(line) for line in (fit(run, run.config) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [4, 8]


def from_step(step: int, bad: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int, torch.Tensor], torch.Tensor]:
    return lambda now, weight: bad(weight) if now >= step else square(now, weight)


BAD = {
    "NaN": lambda weight: weight * math.nan,
    "infinite": lambda weight: weight.abs() / 0.0,
    "gradient alone": lambda weight: (weight - weight.detach()).sqrt(),  # 0, with an infinite slope
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("checkpoint_every", [None, 1])
def test_a_diverged_run_stops_and_keeps_its_last_sound_checkpoint(toy_run, bad, checkpoint_every):
    run = toy_run([1.0, 1.0, 1.0], from_step(5, BAD[bad]), checkpoint_every=checkpoint_every)
    with pytest.raises(TrainingDivergedError, match="--lr"):
        fit(run, run.config)
    folder = run.config.output.output_dir
    assert progress_of(folder)["step"] == (5 if checkpoint_every else 4)
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        assert all(value.isfinite().all() for value in read_checkpoint(checkpoint).model.values())


def test_a_diverged_run_names_the_step_and_its_samples(toy_run):
    run = toy_run([1.0, 1.0], from_step(5, BAD["NaN"]))
    with pytest.raises(TrainingDivergedError) as told:
        fit(run, run.config)
    (plan,) = [plan for plan in run.material.sampler(run.config) if plan.step == 5]
    first = [run.material.study.table.sample_ids[row] for row in plan.samples[:5]]
    assert f"step 6: the loss became NaN or infinite (samples {', '.join(first)}, ... (8 in all))" in str(told.value)


def test_a_metric_that_is_not_there_is_refused_before_anything_is_written(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config(best_metric="val/auroc"))
    with pytest.raises(InputError, match=r"--best-metric val/auroc.*val/unifrac_r2"):
        fit(run, run.config)
    assert not run.config.output.output_dir.exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_resuming_on_another_study_is_refused_and_changes_nothing(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config(epochs=1))
    folder = fit(run, run.config)
    before = contents(folder)
    fewer = replace(study, table=study.table.select_samples(range(30)), metadata=study.metadata.iloc[:30])
    other = prepare_pretraining(fewer, make_pretrain_config(epochs=1, resume=True))
    with pytest.raises(InputError, match=r"--resume.*changed: split, table"):
        fit(other, other.config)
    assert contents(folder) == before


def test_a_trainer_loads_what_it_saved(toy_run, tmp_path):
    run = toy_run([1.0])
    trainer = run.trainer(CheckpointStore(tmp_path / "checkpoints"))
    assert isinstance(trainer, Trainer)
    steps = iter(trainer.train_sampler)
    for _ in range(3):
        trainer.train_step(trainer.memory.dataset[next(steps)])
    trainer.save_checkpoint(best=False)
    weight, moments = run.model.weight.clone(), trainer.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    trainer.train_step(trainer.memory.dataset[next(steps)])
    assert not torch.equal(run.model.weight, weight)
    rate = trainer.schedule.lr
    trainer.load_checkpoint(tmp_path / "checkpoints/last")
    assert torch.equal(run.model.weight, weight)
    assert torch.equal(trainer.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert trainer.progress.step == 3
    assert trainer.schedule.lr != rate


def test_long_gradients_are_shortened(toy_run, tmp_path):
    """With AdamW's first step every scale gives the same, so the moments tell."""
    moments = {}
    for limit in (0.5, 1e9):
        run = toy_run([1.0], lambda step, weight: 100 * weight, max_grad_norm=limit)
        trainer = run.trainer(CheckpointStore(tmp_path / str(limit)))
        trainer.train_step(trainer.memory.dataset[next(iter(trainer.train_sampler))])
        moments[limit] = float(trainer.optimizer.state_dict()["state"][0]["exp_avg"])
    assert moments[1e9] == pytest.approx(10)
    assert moments[0.5] == pytest.approx(0.05, rel=1e-4)


def test_a_monitor_is_told_of_every_step(toy_run, tmp_path):
    class Counting(Sink):
        steps = 0

        def advance(self) -> None:
            self.steps += 1

    run = toy_run([1.0, 1.0])
    trainer = run.trainer(CheckpointStore(tmp_path / "checkpoints"))
    counting = Counting()
    with Monitor(8, [counting]) as monitor:
        trainer.monitor = monitor
        trainer.fit()
    assert counting.steps == trainer.progress.step == 8

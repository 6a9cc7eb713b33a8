"""Options and safeguards whose loss nothing else would notice: each test fails where its line is taken away."""

import importlib.util
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from aam.config import FindLrConfig, PretrainConfig
from aam.training.checkpoints.store import CheckpointStore
from aam.training.machine.compute import Compute
from aam.training.optim import PLATEAU_PATIENCE, make_optimizer
from aam.training.tasks.targets import TargetTask
from aam.workflows.find_lr import sweep
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCALE = 2.0**12


@pytest.mark.parametrize(("metric", "worse"), [("val/r2", -1.0), ("val/mae", 1.0)])
def test_a_plateau_is_of_values_that_do_not_get_better(study, make_train_config, tmp_path, metric: str, worse: float):
    """A metric of which more is better rises, and one of which less is better falls: the rate stays; else it falls."""
    for direction, falls in ((-worse, False), (worse, True)):
        config = make_train_config(scheduler="plateau", warmup_fraction=0.0, best_metric=metric, epochs=20)
        run = prepare_training(study, config)
        trainer = run.trainer(CheckpointStore(tmp_path / "checkpoints"))
        known = dict.fromkeys(run.objective.metrics, 0.5)
        before = trainer.schedule.lr
        for epoch in range(PLATEAU_PATIENCE + 3):
            judged = known | {metric: direction * epoch}
            run.objective.validate = lambda judged=judged: judged
            trainer.validate(epoch)
        assert (trainer.schedule.lr < before) == falls


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_reaches_the_loss(double_run, smoothing: float):
    run = double_run(metadata_column="habitat", classifier=True, label_smoothing=smoothing)
    plan = next(iter(run.material.sampler(run.config)))
    step = run.dataset[plan]
    task, (batch,) = run.objective.task(TargetTask), step.micro
    logits = run.model(run.objective.inputs.of_step(batch, plan.step)).prediction.log_softmax(1)
    own = logits.gather(1, task.table.value[batch.sample])[:, 0]
    expected = -((1 - smoothing) * own + smoothing * logits.mean(1)).mean()
    assert float(run.objective.backward(step, lambda loss: loss)["target_loss"]) == pytest.approx(
        float(expected.detach())
    )


def weights_after(run: Run, folder: Path, scale: float | None) -> torch.Tensor:
    """Weights after some steps, with a scaler of the loss as fp16 needs one, or without."""
    trainer = run.trainer(CheckpointStore(folder))
    if scale is not None:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    run.model.train()
    for plan in islice(trainer.train_sampler, 6):
        trainer.train_step(run.dataset[plan])
    return torch.cat([weight.detach().flatten() for weight in run.model.parameters()])


def test_gradients_are_clipped_in_their_own_scale(study, make_train_config, tmp_path):
    """A scale that is a power of two changes no bit, so that any difference is of the clipping."""
    options = {"max_grad_norm": 0.5, "epochs": 3}
    plain, scaled = (
        weights_after(prepare_training(study, make_train_config(**options)), tmp_path, scale) for scale in (None, SCALE)
    )
    assert torch.equal(plain, scaled)


class WithScaler(Compute):
    """Computes as fp16 does, with a scaler of the loss, and keeps it."""

    scalers: list[torch.amp.GradScaler]

    def scaler(self) -> torch.amp.GradScaler:
        self.scalers.append(torch.amp.GradScaler("cpu", init_scale=SCALE))
        return self.scalers[-1]


def search_run(make_pretrain_config, study) -> Run:
    config: PretrainConfig = make_pretrain_config(epochs=3)
    return prepare_pretraining(study, config)


def test_a_search_of_the_rate_scales_the_loss_as_training_does(study, make_pretrain_config):
    search = FindLrConfig(lr_min=1e-4, lr_max=1e-1, lr_steps=9)
    plain = sweep(search_run(make_pretrain_config, study), search)
    run = search_run(make_pretrain_config, study)
    compute = WithScaler(run.material.compute.world)
    object.__setattr__(compute, "scalers", [])
    scaled = sweep(replace(run, material=replace(run.material, compute=compute)), search)
    assert np.array_equal(plain["loss"], scaled["loss"])
    (scaler,) = compute.scalers
    assert scaler.get_scale() == SCALE
    assert scaler.state_dict()["_growth_tracker"] == len(plain)


def test_a_search_of_the_rate_begins_every_step_without_a_gradient(study, make_pretrain_config):
    search = FindLrConfig(lr_min=1e-4, lr_max=1e-1, lr_steps=9)
    curve = sweep(search_run(make_pretrain_config, study), search)
    run = search_run(make_pretrain_config, study)
    optimizer, expected = make_optimizer(run.model, run.config.optim), []
    for rate, plan in zip(curve["lr"], run.material.sampler(run.config), strict=False):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = rate
        run.model.zero_grad(set_to_none=True)
        expected.append(float(run.objective.backward(run.dataset[plan], lambda loss: loss)["loss"]))
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.max_grad_norm)
        optimizer.step()
    assert curve["loss"].tolist() == pytest.approx(expected, rel=1e-6)


def test_the_forest_of_the_benchmarks_chooses_features_by_training_samples():
    spec = importlib.util.spec_from_file_location("random_forest", BENCHMARKS / "random_forest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    counts = np.random.default_rng(0).poisson(0.2, (60, 30))
    counts[:, :5] = 0
    train = np.arange(40)
    features = module.centred_log_ratios(csr_array(counts), train)
    counts[40:, :5] = 100  # common, but not in training
    assert features.shape[1] == module.centred_log_ratios(csr_array(counts), train).shape[1]
    assert np.array_equal(features[train], module.centred_log_ratios(csr_array(counts), train)[train])

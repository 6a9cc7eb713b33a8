"""Steps of several targets with missing values, and of samples that count more than others."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam.data.sampling.dataset import StepPlan
from aam.training.tasks.targets import TargetTask
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training

QUANTILES = (0.2, 0.5, 0.9)
SEVERAL = {
    "metadata_column": ("acidity", "day"),
    "target_loss": ("acidity=quantile", "day=asymmetric"),
    "quantiles": QUANTILES,
    "over_penalty": 2.0,
    "under_penalty": 0.5,
}
CLASSES = {"metadata_column": "habitat", "classifier": True, "label_smoothing": 0.1}
SIZES = [(12,), (5, 7), (1, 10, 1)]


def step_of(run: Run, plan: StepPlan, gradient) -> tuple[dict[str, float], torch.Tensor]:
    losses = run.objective.backward(run.dataset[plan], lambda loss: loss)
    return {name: float(loss) for name, loss in losses.items()}, gradient(run.model)


def first_plan(run: Run, *sizes: int) -> StepPlan:
    """A step of training samples, in batches of these sizes."""
    rows = np.random.default_rng(7).permutation(run.material.split.train)[: sum(sizes)]
    return StepPlan(0, 0, False, tuple(np.split(rows, np.cumsum(sizes)[:-1])))


@pytest.fixture
def gaps(study) -> pd.DataFrame:
    """Metadata where some samples lack the one target, some the other, and a few lack both."""
    metadata = study.metadata.copy()
    metadata.loc[metadata.index[::3], "acidity"] = np.nan
    metadata.loc[metadata.index[1::4], "day"] = np.nan
    return metadata


def plain_loss(run: Run, plan: StepPlan, one_sample) -> float:
    """Mean over targets of the mean error of the samples that have a value, by loops over single samples."""
    metadata, config = run.material.study.metadata, run.config.target
    errors = {"acidity": [], "day": []}
    for sample in plan.samples:
        asv, count = run.material.draws.counts(sample, plan.epoch)
        with torch.no_grad():
            output = run.model(one_sample(run.material.nucleotides[asv], count))
        low, middle, high, day = output.prediction[0].tolist()
        for name, predicted in {"acidity": (low, middle, high), "day": (day,)}.items():
            train = metadata[name].iloc[run.material.split.train]
            true = (metadata[name].iloc[sample] - train.mean()) / train.std(ddof=0)
            if np.isnan(true):
                continue
            if name == "day":
                over = predicted[0] - true
                errors[name].append(over * config.over_penalty if over > 0 else -over * config.under_penalty)
            else:
                each = [max(q * (true - p), (q - 1) * (true - p)) for p, q in zip(predicted, QUANTILES, strict=True)]
                errors[name].append(np.mean(each))
    assert {len(values) for values in errors.values()} != {len(plan.samples)}
    return float(np.mean([np.mean(values) for values in errors.values()]))


@pytest.mark.parametrize("sizes", SIZES)
def test_the_loss_of_several_targets_is_that_of_plain_loops(double_run, gradient, gaps, one_sample, sizes):
    run = double_run(gaps, **SEVERAL)
    plan = first_plan(run, *sizes)
    losses, pull = step_of(run, plan, gradient)
    assert losses["target_loss"] == pytest.approx(plain_loss(run, plan, one_sample), rel=1e-5)  # targets are float32
    whole_losses, whole = step_of(run, first_plan(run, 12), gradient)
    assert losses == pytest.approx(whole_losses, rel=1e-10)
    assert (pull - whole).norm() <= 1e-10 * whole.norm()


def test_samples_stay_that_have_one_of_the_targets(double_run, gaps):
    run = double_run(gaps, **SEVERAL)
    left_out = run.material.study.left_out
    assert left_out["sample_id"].tolist() == list(gaps.index[gaps[["acidity", "day"]].isna().all(axis=1)])
    assert set(left_out["reason"]) == {"no value of acidity or day"}
    weight = run.objective.task(TargetTask).table.weight
    known = gaps.loc[list(run.material.study.table.sample_ids), ["acidity", "day"]].notna().to_numpy()
    used = np.concatenate([run.material.split.train, run.material.split.val])
    assert (weight[used] > 0).numpy().tolist() == known[used].tolist()


def test_what_stands_in_for_missing_values_changes_nothing(double_run, gradient, gaps):
    run = double_run(gaps, **SEVERAL)
    plan = first_plan(run, 5, 7)
    before, pull = step_of(run, plan, gradient)
    validated = run.objective.validate()
    task = run.objective.task(TargetTask)
    table = task.table
    noise = torch.full_like(table.value, -1e6)
    task.table = replace(table, value=torch.where(table.weight > 0, table.value, noise))
    after, other = step_of(run, plan, gradient)
    assert before == after
    assert torch.equal(pull, other)
    assert run.objective.validate() == validated
    task.table = replace(table, value=torch.where(table.weight > 0, noise, table.value))
    assert step_of(run, plan, gradient)[0] != before


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "options", [{"metadata_column": "acidity"}, SEVERAL, CLASSES], ids=["one", "several", "classes"]
)
def test_weight_2_equals_the_sample_twice(double_run, gradient, gaps, tmp_path, options, sizes):
    """Samples of the coast count twice by a file, or stand in the step twice."""
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"region": {name: 2 if name == "coast" else 1 for name in set(gaps["region"])}}))
    weighted = double_run(gaps, **options, categorical_loss_weights=str(path))
    plain = double_run(gaps, **options)
    plan = first_plan(weighted, *sizes)
    region = weighted.material.study.metadata["region"].to_numpy()
    twice = replace(plan, micro=tuple(np.repeat(rows, 1 + (region[rows] == "coast")) for rows in plan.micro))
    assert len(plan.samples) < len(twice.samples) < 2 * len(plan.samples)
    losses, pull = step_of(weighted, plan, gradient)
    expected, pull_of_twice = step_of(plain, twice, gradient)
    _, single = step_of(plain, plan, gradient)
    assert losses == pytest.approx(expected, rel=1e-6)  # weights are float32
    assert (pull - pull_of_twice).norm() <= 1e-6 * pull_of_twice.norm()
    assert (pull - single).norm() > 1e-2 * single.norm()


def test_weights_of_several_columns_multiply_and_have_mean_1_in_training(study, make_train_config):
    options = {"categorical_loss_weights": "auto", "categorical_loss_weight_column": "region,health"}
    run = prepare_training(study, make_train_config(**options))
    metadata, train = study.metadata, run.material.split.train
    expected = np.ones(len(metadata))
    for column in ("region", "health"):
        counts = metadata[column].iloc[train].value_counts()
        expected /= metadata[column].map(counts).to_numpy()
    expected /= expected[train].mean()
    used = np.concatenate([train, run.material.split.val])
    assert run.objective.task(TargetTask).table.weight[used, 0].numpy() == pytest.approx(expected[used], rel=1e-5)
    assert set(run.documents["loss_weights"]["weights"]) == {"region", "health"}


def test_weights_by_class_and_by_category_multiply(study, make_train_config):
    plain = {"metadata_column": "habitat", "classifier": True}
    by_class = prepare_training(study, make_train_config(**plain, class_weights="balanced"))
    options = {"categorical_loss_weights": "effective", "categorical_loss_weight_column": "region"}
    by_category = prepare_training(study, make_train_config(**plain, **options))
    both = prepare_training(study, make_train_config(**plain, **options, class_weights="balanced"))
    first, second, product = (run.objective.task(TargetTask).table.weight for run in (by_class, by_category, both))
    assert torch.allclose(product, first * second)
    assert first.unique().numel() > 1 < second.unique().numel()


@pytest.mark.parametrize("weights", ["balanced", "effective", "file"])
def test_weights_of_classes(study, make_train_config, tmp_path, weights):
    path = tmp_path / "classes.json"
    names = sorted(set(study.metadata["habitat"]))
    path.write_text(json.dumps({name: number + 1.5 for number, name in enumerate(names)}))
    kind = str(path) if weights == "file" else weights
    run = prepare_training(study, make_train_config(metadata_column="habitat", classifier=True, class_weights=kind))
    habitat, train = study.metadata["habitat"].to_numpy(), run.material.split.train
    counts = {name: (habitat[train] == name).sum() for name in names}
    if weights == "balanced":
        of_class = {name: len(train) / (len(names) * count) for name, count in counts.items()}
    elif weights == "effective":
        of_class = {name: (1 - 0.999) / (1 - 0.999**count) for name, count in counts.items()}
        mean = sum(of_class[name] for name in habitat[train]) / len(train)
        of_class = {name: value / mean for name, value in of_class.items()}
    else:
        of_class = {name: number + 1.5 for number, name in enumerate(names)}
    used = np.concatenate([train, run.material.split.val])
    expected = [of_class[name] for name in habitat[used]]
    assert run.objective.task(TargetTask).table.weight[used, 0].numpy() == pytest.approx(expected, rel=1e-5)


def test_metrics_of_several_targets_are_validated_and_can_choose_the_best(double_run, gaps):
    run = double_run(gaps, **SEVERAL, best_metric="val/r2_day", count_weight=0.1)
    metrics = run.objective.validate()
    assert metrics.keys() == run.objective.metrics.keys()
    assert {"val/r2", "val/r2_acidity", "val/pinball_acidity", "val/mae_day", "val/count_loss"} <= set(metrics)
    assert metrics["val/loss"] == pytest.approx(metrics["val/target_loss"] + 0.1 * metrics["val/count_loss"])

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from aam.data.files.sequences import sequence_keys
from aam.data.sampling.dataset import StepDataset, StepPlan
from aam.data.sampling.rarefaction import FIXED, row_of
from aam.data.sampling.samples import SampleBatch
from aam.data.sampling.seeded import derived_seed, text_keys, uniforms
from aam.models.asv_features import waves
from aam.models.transformer import Block
from aam.training.checkpoints.store import Checkpoint, write_checkpoint
from aam.training.inference.samples import hold_asvs, predict_outputs
from aam.training.inputs import FrozenInputs, PooledInputs
from aam.training.tasks.abundances import TargetAbundances
from aam.training.tasks.base import VALIDATION
from aam.training.tasks.targets import TargetTask
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining

REGRESSION = {"count_weight": 0.3, "target_weight": 0.7, "count_mask_ratio": 0.4, "regressor_hidden_dims": (6,)}
CLASSES = {**REGRESSION, "metadata_column": "habitat", "classifier": True, "class_weights": "balanced"}


def first_plan(run: Run, samples: int = 12) -> StepPlan:
    """A step of so many training samples, in one batch."""
    return StepPlan(0, 0, False, (np.random.default_rng(7).permutation(run.material.split.train)[:samples],))


def cut(plan: StepPlan, *sizes: int) -> StepPlan:
    return replace(plan, micro=tuple(np.split(plan.samples, np.cumsum(sizes)[:-1])))


def step_of(run: Run, plan: StepPlan, gradient) -> tuple[dict[str, float], torch.Tensor]:
    losses = run.objective.backward(run.dataset[plan], lambda loss: loss)
    return {name: float(loss) for name, loss in losses.items()}, gradient(run.model)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (REGRESSION, (5, 7)),
        (REGRESSION, (1, 10, 1)),
        (CLASSES, (4, 4, 4)),
        ({**REGRESSION, "count_weight": 0.0, "target_loss": "mae", "freeze_base": False}, (5, 7)),
    ],
)
def test_the_gradient_of_accumulated_batches_is_that_of_one(double_run, gradient, options, sizes):
    run = double_run(**options)
    plan = first_plan(run)
    whole_losses, whole = step_of(run, plan, gradient)
    losses, accumulated = step_of(run, cut(plan, *sizes), gradient)
    assert losses == pytest.approx(whole_losses, rel=1e-10)
    assert (accumulated - whole).norm() <= 1e-10 * whole.norm()
    assert whole.norm() > 1e-3
    assert ("count_loss" in losses) == (options["count_weight"] > 0)


def reference_losses(run: Run, plan: StepPlan, one_sample) -> dict[str, float]:
    """Losses by loops over the samples of a step, each alone, and over their ASVs."""
    study, config, model = run.material.study, run.config, run.model
    train = study.metadata.iloc[run.material.split.train]
    address = derived_seed(config.runtime.seed, "hide abundances", plan.step)
    errors, weights, count_errors = [], [], []
    for sample in plan.samples:
        asv, count = run.material.draws.counts(sample, plan.epoch)
        table = study.table
        named = text_keys([table.sample_ids[sample]]) ^ sequence_keys([table.sequences[i] for i in asv])
        keys = torch.from_numpy(named)
        masked = uniforms(address, keys, 1)[:, 0] < config.target.count_mask_ratio
        output = model(one_sample(run.material.nucleotides[asv], count, masked_abundances=masked[None]))
        for at in masked.nonzero()[:, 0].tolist():
            count_errors.append((float(output.abundances[0, at]) - np.log(count[at] / count.sum())) ** 2)
        row = study.metadata.iloc[sample]
        if config.target.classifier:
            names = sorted(set(train["habitat"]))
            weights.append(len(train) / (len(names) * (train["habitat"] == row["habitat"]).sum()))
            logits = output.prediction[0].numpy()
            errors.append(np.log(np.exp(logits).sum()) - logits[names.index(row["habitat"])])
        else:
            weights.append(1.0)
            true = (row["acidity"] - train["acidity"].mean()) / train["acidity"].std(ddof=0)
            error = abs(float(output.prediction[0, 0]) - true)
            errors.append(error**2 / 2 if error < 1 else error - 0.5)
    target = np.average(errors, weights=weights)
    counts = np.mean(count_errors)
    return {"loss": 0.7 * target + 0.3 * counts, "target_loss": target, "count_loss": counts}


@pytest.mark.parametrize("options", [REGRESSION, CLASSES])
@pytest.mark.parametrize("sizes", [(6,), (4, 2)])
def test_the_losses_are_those_of_plain_loops(double_run, gradient, one_sample, options, sizes):
    run = double_run(**options)
    plan = replace(first_plan(run, 6), step=3, epoch=1)
    with torch.no_grad():
        expected = reference_losses(run, plan, one_sample)
    assert step_of(run, cut(plan, *sizes), gradient)[0] == pytest.approx(expected, rel=1e-5)  # targets are float32


def masked_in(run: Run, batch: SampleBatch, step: int | str) -> torch.Tensor:
    samples = batch.samples(run.material.nucleotides[batch.asv])
    return run.objective.task(TargetAbundances).mask(samples, batch, step).masked_abundances


def test_masked_abundances_change_with_the_step(double_run):
    run = double_run(**REGRESSION)
    batch = run.dataset[first_plan(run)].micro[0]
    masks = [masked_in(run, batch, step) for step in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not masks[0][batch.padding].any()
    assert 0.25 < masks[0][~batch.padding].double().mean() < 0.55
    assert not masked_in(run, replace(batch, is_padding=True), 0).any()


@pytest.fixture
def pretrained(study, make_pretrain_config, tmp_path):
    """A checkpoint of an encoder, of random weights."""

    def write(**options) -> dict:
        run = prepare_pretraining(study, make_pretrain_config(**options))
        folder = tmp_path / "encoder"
        config = run.config.model_dump(mode="json")
        write_checkpoint(Checkpoint("pretrain", config, run.documents, run.model.state_dict()), folder)
        return {"pretrained_encoder": folder}

    return write


def test_a_frozen_encoder_gives_the_losses_of_a_free_one(double_run, gradient, study, make_train_config, pretrained):
    options = {**REGRESSION, **pretrained()}
    free, frozen = (prepare_training(study, make_train_config(**options, freeze_base=freeze)) for freeze in (0, 1))
    for sizes in [(12,), (5, 7)]:
        plan = cut(first_plan(free), *sizes)
        losses, pull = step_of(free, plan, gradient)
        frozen_losses, frozen_pull = step_of(frozen, plan, gradient)
        assert frozen_losses == pytest.approx(losses, rel=1e-5)
        heads = sum(p.numel() for p in frozen.model.parameters() if p.requires_grad)
        assert torch.allclose(frozen_pull[-heads:], pull[-heads:], rtol=1e-3, atol=1e-6)
        assert not frozen_pull[:-heads].any()
        assert pull[:-heads].any()


@pytest.mark.parametrize("freeze", [False, True])
def test_a_step_calls_the_model_through_its_strategy_and_its_compiled_blocks(
    study, make_train_config, pretrained, gradient, freeze
):
    run = prepare_training(study, make_train_config(**pretrained(), freeze_base=freeze))
    calls, ran, parallel = [], [], run.objective.parallel
    run.objective.parallel = replace(parallel, call=lambda *given: calls.append(1) or parallel.call(*given))
    for module in run.model.modules():
        if isinstance(module, Block):  # as compile_blocks does
            module.run = lambda block, *given: ran.append(block) or Block.transform(block, *given)
    for _ in range(2):  # a frozen encoder embeds its ASVs in the first step
        calls.clear()
        ran.clear()
        step_of(run, cut(first_plan(run), 6, 6), gradient)
    encoder = run.model.encoder
    in_a_call = [*encoder.sample_encoder.transformer.blocks]
    if not freeze:
        in_a_call = [*encoder.asv_encoder.transformer.blocks, *in_a_call]
    assert len(calls) == 2
    assert ran == 2 * in_a_call


def test_a_frozen_encoder_keeps_no_dropout_in_its_embeddings(study, make_train_config, pretrained):
    encoder = pretrained()
    runs = [
        prepare_training(study, make_train_config(**encoder, freeze_base=True, nucleotide_dropout=rate))
        for rate in (0.0, 0.5)
    ]
    one, other = (run.objective.inputs.embeddings(run.objective.held_out).rows for run in runs)
    assert torch.equal(one, other)
    assert not one.requires_grad
    assert runs[1].model.training


CATEGORIES = {"categorical_columns": "site,habitat", "categorical_hierarchy": "site=region"}
DEEP = {"rarefy_depth": None}
FREE = [
    {},
    {"rarefy_depth": 150, "rarefaction": "epoch"},
    {**DEEP, "max_asvs": 5, "asv_choice": "random"},
    {**DEEP, "count_weight": 0.1},
    {**DEEP, "asv_dropout": 0.1},
    {**DEEP, **CATEGORIES, "categorical_fusion": "cross_attention", "cross_attn_heads": 2},
    {**DEEP, **CATEGORIES, "categorical_fusion": "perceiver", "cross_attn_heads": 2},
]
SETTLED = [
    DEEP,
    {"rarefaction": "fixed"},
    {"rarefaction": "fixed", "max_asvs": 5, "asv_choice": "random"},
    {**DEEP, "max_asvs": 5, "regressor_hidden_dims": (6,), "sample_dropout": 0.4},
    {**DEEP, "metadata_column": "habitat", "classifier": True, "mixed_precision": "bf16"},
    {**DEEP, **CATEGORIES, "categorical_fusion": "add", "categorical_dropout": 0.3},
    {**DEEP, **CATEGORIES, "categorical_fusion": "concat", "conditional_output_scaling": "habitat"},
    {**DEEP, **CATEGORIES, "categorical_fusion": "gmu", "regressor_dropout": 0.3},
]


@pytest.mark.parametrize("options", FREE)
def test_samples_are_embedded_in_every_step_where_something_of_them_changes(
    study, make_train_config, pretrained, options
):
    run = prepare_training(study, make_train_config(**pretrained(), freeze_base=True, **options))
    assert type(run.objective.inputs) is FrozenInputs
    assert type(run.dataset) is StepDataset


def outputs_of(run: Run) -> torch.Tensor:
    """What the model gives for the held-out samples."""
    return run.objective.outputs(run.objective.task(TargetTask), run.objective.held_out)


@pytest.mark.parametrize("options", SETTLED)
def test_a_head_on_samples_that_are_embedded_once_learns_what_it_learns_anyway(
    study, make_train_config, pretrained, gradient, monkeypatch, options
):
    config = make_train_config(**pretrained(), freeze_base=True, **options)
    pooled = prepare_training(study, config)
    monkeypatch.setattr("aam.training.inputs.pools_once", lambda *given: False)
    plain = prepare_training(study, config)
    assert type(pooled.objective.inputs) is PooledInputs
    assert type(plain.objective.inputs) is FrozenInputs
    near = {"rel": 1e-2, "abs": 1e-3} if "mixed_precision" in options else {"rel": 1e-5, "abs": 1e-6}
    for sizes in [(12,), (5, 7)]:
        plan = cut(replace(first_plan(plain), step=3, epoch=1), *sizes)
        (losses, pull), (expected, expected_pull) = (step_of(run, plan, gradient) for run in (pooled, plain))
        assert losses == pytest.approx(expected, **near)
        assert pull.numpy() == pytest.approx(expected_pull.numpy(), **near)
        assert expected_pull.any()
    assert pooled.objective.validate() == pytest.approx(plain.objective.validate(), **near)
    outputs, expected_outputs = (outputs_of(run).numpy() for run in (pooled, plain))
    assert outputs == pytest.approx(expected_outputs, **near)


def test_a_head_on_embedded_samples_calls_no_encoder_after_the_first_step(study, make_train_config, pretrained):
    options = {**DEEP, "standardize_samples": False}  # else samples are embedded before the first step
    run = prepare_training(study, make_train_config(**pretrained(), freeze_base=True, **options))
    rows = {"asvs": 0, "samples": 0}

    def count_asvs(module, given, output):
        rows["asvs"] += len(given[0])

    def count_samples(module, given, output):
        rows["samples"] += len(output.embedding)

    run.model.encoder.asv_encoder.register_forward_hook(count_asvs)
    run.model.encoder.sample_encoder.register_forward_hook(count_samples)
    for _ in range(2):
        run.objective.backward(run.dataset[cut(first_plan(run), 6, 6)], lambda loss: loss)
        run.objective.validate()
        outputs_of(run)
    assert rows == {"asvs": study.table.n_asvs, "samples": study.table.n_samples}


def test_random_features_are_settled_on_the_asvs_of_training_samples(study, make_train_config):
    run = prepare_training(study, make_train_config(**DEEP, freeze_base=None, asv_features=None))
    features, train = run.model.asv_features, run.material.split.train
    assert run.model.frozen
    held = np.flatnonzero(study.table.counts[train].sum(axis=0))
    rows = run.model.embed_asvs(run.material.nucleotides[torch.from_numpy(held)])
    standard = (rows - features.shift) * features.scale
    assert standard.mean(0).abs().max() < 1e-3
    assert (standard.std(0, unbiased=False) - 1).abs().max() < 1e-2
    assert (waves(rows, dict(features.named_parameters())) - features.center).mean(0).abs().max() < 1e-4


def alone(run: Run, one_sample) -> np.ndarray:
    """Outputs of the model for every held-out sample, by itself."""
    run.model.eval()
    rows = []
    for sample in run.material.split.val:
        asv, count = row_of(run.material.draws.rows(np.array([sample]), FIXED), 0)
        with torch.no_grad():
            outputs = run.model(one_sample(run.material.nucleotides[asv], count))
            rows.append(outputs.prediction[0].double().numpy())
    run.model.train()
    return np.array(rows)


@pytest.mark.parametrize("transform", ["zscore", "log-minmax"])
def test_validation_of_numbers_is_in_their_own_units(study, make_train_config, one_sample, transform):
    run = prepare_training(study, make_train_config(**REGRESSION, target_transform=transform, sample_dropout=0.3))
    metrics = run.objective.validate()
    assert run.model.training
    true = study.metadata["acidity"].to_numpy()[run.material.split.val]
    train = study.metadata["acidity"].to_numpy()[run.material.split.train]
    outputs = alone(run, one_sample)[:, 0]
    if transform == "zscore":
        predicted = outputs * train.std() + train.mean()
    else:
        low, high = np.log1p(train).min(), np.log1p(train).max()
        predicted = np.expm1(outputs * (high - low) + low)
    assert metrics["val/r2"] == pytest.approx(reference.r2_score(true, predicted), rel=1e-4)
    assert metrics["val/mae"] == pytest.approx(np.abs(true - predicted).mean(), rel=1e-4)
    assert metrics["val/loss"] == pytest.approx(0.7 * metrics["val/target_loss"] + 0.3 * metrics["val/count_loss"])
    assert metrics.keys() == run.objective.metrics.keys()


def test_validation_of_masked_abundances_is_over_all_of_them(study, make_train_config):
    losses = [
        prepare_training(
            study, make_train_config(**REGRESSION, batch_size=size, num_workers=workers)
        ).objective.validate()["val/count_loss"]
        for size, workers in [(8, 0), (3, 2)]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    run = prepare_training(study, make_train_config(**REGRESSION))
    torch.nn.init.zeros_(run.model.count_head.output.weight)
    errors = []
    for sample in run.material.split.val:
        batch = run.material.held_out(1)[run.material.split.val.tolist().index(sample)]
        relative = (batch.counts / batch.counts.sum())[masked_in(run, batch, VALIDATION)]
        errors += (relative.log() - run.model.count_head.output.bias.item()).square().tolist()
    assert run.objective.validate()["val/count_loss"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_first_count_loss_is_the_spread_of_the_abundances(study, make_train_config):
    run = prepare_training(study, make_train_config(**REGRESSION))
    counts = study.table.counts[run.material.split.train].toarray()
    share = np.log((counts / counts.sum(axis=1, keepdims=True))[counts > 0])
    assert run.model.count_head.output.bias.item() == pytest.approx(share.mean(), rel=1e-6)
    assert run.objective.validate()["val/count_loss"] < 2 * share.var()


def test_validation_of_classes_weighs_the_loss_only(study, make_train_config, one_sample):
    run = prepare_training(study, make_train_config(**CLASSES))
    metrics = run.objective.validate()
    habitat = study.metadata["habitat"].to_numpy()
    train, val = habitat[run.material.split.train], habitat[run.material.split.val]
    names = sorted(set(train))
    outputs = alone(run, one_sample)
    probability = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    own = -np.log(probability[np.arange(len(val)), [names.index(name) for name in val]])
    weights = [len(train) / (3 * (train == name).sum()) for name in val]
    assert metrics["val/target_loss"] == pytest.approx(np.average(own, weights=weights), rel=1e-4)
    assert metrics["val/log_loss"] == pytest.approx(own.mean(), rel=1e-4)
    assert metrics["val/accuracy"] == np.mean(np.array(names)[outputs.argmax(axis=1)] == val)
    assert metrics.keys() == run.objective.metrics.keys()


def test_outputs_do_not_depend_on_the_batches_or_the_workers(study, make_train_config):
    run = prepare_training(study, make_train_config(**REGRESSION, max_asvs=9, asv_choice="random"))
    compute, held_out = run.objective.compute, run.objective.held_out
    embeddings = hold_asvs(run.model.eval(), run.material.nucleotides, held_out, compute)
    outputs = [
        predict_outputs(run.model, embeddings, run.material.held_out(size), compute, workers)
        for size, workers in [(8, 0), (8, 2), (1, 0), (3, 0)]
    ]
    assert outputs[0].dtype == np.float64
    assert np.array_equal(outputs[0], outputs[1])
    assert outputs[0] == pytest.approx(outputs[2], abs=1e-5)
    assert outputs[0] == pytest.approx(outputs[3], abs=1e-5)
    assert np.array_equal(outputs[0], outputs_of(run).numpy())


def test_predictions_of_frozen_and_pooled_samples_are_those_of_nucleotides(
    study, make_train_config, pretrained, one_sample
):
    options = {**pretrained(), "freeze_base": True, "metadata_column": "habitat", "classifier": True}
    for more in (SETTLED[0], FREE[0]):
        run = prepare_training(study, make_train_config(**options, **more, asv_features=6))
        assert outputs_of(run).numpy() == pytest.approx(alone(run, one_sample), abs=1e-5)

"""Steps cut into batches that fit into the memory: the same losses and gradients."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aam.data.sampling.dataset import PooledStepDataset, StepPlan
from aam.data.sampling.packing import Cutting, MemoryBudget
from aam.errors import InputError
from aam.models.transformer import Block
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, read_checkpoint, write_checkpoint
from aam.training.memory import budget as budgets
from aam.training.memory.allocator import return_freed_memory
from aam.training.memory.budget import Trial, held_by_training, predicted_cost
from aam.training.memory.meters import Watch, free_memory, meter_of
from aam.training.tasks.targets import TargetTask
from aam.training.trainer import Trainer
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining

CPU = torch.device("cpu")
on_linux = pytest.mark.skipif(not torch.sys.platform.startswith("linux"), reason="/proc tells the resident memory")


def write_encoder(study, make_pretrain_config, folder: Path) -> Path:
    run = prepare_pretraining(study, make_pretrain_config())
    config = run.config.model_dump(mode="json")
    write_checkpoint(Checkpoint("pretrain", config, run.documents, run.model.state_dict()), folder / "encoder")
    return folder / "encoder"


def make_run(study, make_pretrain_config, make_train_config, task: str, folder: Path) -> Run:
    if task == "pretrain":
        return prepare_pretraining(study, make_pretrain_config(batch_size=24, faith_pd_weight=0.3))
    options = {"count_weight": 0.2}
    if task == "categories":
        options |= {"categorical_columns": "site,habitat", "categorical_fusion": "cross_attention"}
    if task == "frozen":
        options |= {"freeze_base": True, "pretrained_encoder": write_encoder(study, make_pretrain_config, folder)}
        options["standardize_samples"] = False  # that would embed the ASVs before the test turns to double precision
    return prepare_training(study, make_train_config(batch_size=24, **options))


def gradient_of(run: Run, dataset) -> tuple[int, dict[str, float], torch.Tensor]:
    """Batches, losses and gradient of the first step."""
    plan = run.material.sampler(run.config).plan_epoch(0)[0]
    step = dataset[plan]
    losses = run.objective.backward(step, lambda loss: loss)
    pulls = [weight.grad.flatten() for weight in run.model.parameters() if weight.grad is not None]
    run.model.zero_grad(set_to_none=True)
    return len(step.micro), {name: float(value) for name, value in losses.items()}, torch.cat(pulls)


@pytest.mark.parametrize("task", ["pretrain", "train", "categories", "frozen"])
def test_no_budget_changes_losses_or_gradient(study, make_pretrain_config, make_train_config, tmp_path, task: str):
    run = make_run(study, make_pretrain_config, make_train_config, task, tmp_path)
    run.model.double()
    if task != "pretrain":
        learned = run.objective.task(TargetTask)
        table = learned.table
        learned.table = replace(table, value=table.value.double(), weight=table.weight.double())
    _, losses, gradient = gradient_of(run, run.dataset)
    cost = predicted_cost(run.config.model, None)
    seen = set()
    for share in (0.0, 0.2, 0.5, 1.0):
        whole = run.dataset[run.material.sampler(run.config).plan_epoch(0)[0]].micro[0]
        limit = share * cost.of(len(whole.asv), int((~whole.padding).sum()))
        batches, cut, pull = gradient_of(run, replace(run.dataset, cutting=Cutting(MemoryBudget(limit, cost))))
        seen.add(batches)
        assert cut == pytest.approx(losses, rel=1e-10)
        torch.testing.assert_close(pull, gradient, rtol=1e-9, atol=1e-12)
    assert 1 in seen
    assert 16 in seen  # of 32 training samples, in two even steps
    assert len(seen) > 2
    batches, cut, pull = gradient_of(run, replace(run.dataset, cutting=Cutting(pieces=4)))
    assert batches == 4
    assert cut == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(pull, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_ranks_cut_a_step_alike(study, make_pretrain_config, ranks: int, pieces: int):
    run = prepare_pretraining(study, make_pretrain_config())
    cost = predicted_cost(run.config.model, run.config.masking)
    plan = StepPlan(0, 0, False, (run.material.split.train[:11],))
    for limit in (0.0, cost.of(60, 200), 1e12):
        cutting = Cutting(MemoryBudget(limit, cost), pieces)
        cuts = [replace(run.dataset, rank=rank, ranks=ranks, cutting=cutting).fitted(plan) for rank in range(ranks)]
        for cut in cuts:
            shares = cut.parts_of(ranks)
            assert len({len(share) for share in shares}) == 1
            assert all(any(len(share[i]) for share in shares) for i in range(len(shares[0])))
            assert sorted(np.concatenate([rows for share in shares for rows in share])) == sorted(plan.samples)
            for share, first in zip(shares, cuts[0].parts_of(ranks), strict=True):
                assert all(np.array_equal(one, other) for one, other in zip(share, first, strict=True))


@on_linux
def test_a_calibration_leaves_no_trace(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config(sample_dropout=0.1))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    cost = predicted_cost(run.config.model, run.config.masking)
    train = run.material.split.train
    trial = Trial.of(run.objective, run.dataset, train, 8)
    budget = trial.fit(MemoryBudget(1e9, cost))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in run.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert budget.cost.scale >= 0.5
    assert budget.cost.fixed > 0
    with pytest.raises(InputError, match=r"training samples take more memory than the 0\.00 GB .* --max-memory-gb"):
        trial.fit(MemoryBudget(1e3, cost))


@on_linux
def test_the_meter_sees_what_was_freed():
    meter = meter_of(CPU)
    meter.start()
    torch.ones(20_000_000).sum()
    assert 78_000_000 <= meter.peak() < 200_000_000
    meter.start()
    assert meter.peak() < 40_000_000
    assert free_memory(CPU) > 10**8


class Scripted:
    """A meter that says what it is told to."""

    def __init__(self, peaks: list[int]) -> None:
        self.peaks = peaks

    def start(self) -> None:
        pass

    def peak(self) -> int:
        return self.peaks.pop(0)

    def forget(self) -> None:
        pass


@on_linux
def test_a_peak_is_forgotten_and_the_beginning_is_not():
    gc.collect()  # what other tests have left would be freed within
    return_freed_memory()
    meter = meter_of(CPU)
    watch = Watch(meter, 100_000_000)
    torch.ones(50_000_000).sum()
    assert watch.is_exceeded()
    held = torch.ones(15_000_000)
    assert not watch.is_exceeded()
    assert meter.peak() >= held.nbytes * 0.95
    torch.ones(50_000_000).sum()
    watch.forget()
    assert not watch.is_exceeded()


def test_batches_are_smaller_from_where_a_step_took_too_much(study, make_pretrain_config, caplog, monkeypatch):
    config = make_pretrain_config(batch_size=24, epochs=2, checkpoint_every=1)
    run = prepare_pretraining(study, config)
    cost = predicted_cost(run.config.model, run.config.masking)
    plans = list(run.material.sampler(run.config))
    whole = run.dataset[plans[0]].micro[0]
    limit = 0.5 * cost.of_batch(len(whole.asv), (~whole.padding).sum(1).tolist())
    store = CheckpointStore(config.output.output_dir / "checkpoints", 9)
    trainer = run.trainer(store)
    trainer.memory.dataset = replace(run.dataset, cutting=Cutting(MemoryBudget(limit, cost, limit / 0.95)))
    ceiling = limit / 0.95
    peaks = [ceiling - 1, ceiling + 1, ceiling - 1, ceiling + 1]
    monkeypatch.setattr("aam.training.memory.step_memory.meter_of", lambda _: Scripted(peaks))
    seen = []
    learn = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", lambda step: (seen.append(step), learn(step))[1])
    trainer.fit()
    assert [step.plan.step for step in seen] == [0, 1, 2, 3]
    assert len([line for line in caplog.messages if line.startswith("step 2 took more than")]) == 1
    assert len([line for line in caplog.messages if "took more than" in line]) == 1
    limits = {
        step: read_checkpoint(store.folder / f"step-{step:08d}", with_state=True).state["memory"]["limit"]
        for step in (1, 2, 3, 4)
    }
    assert limits == pytest.approx({1: limit, 2: 0.9 * limit, 3: 0.9 * limit, 4: 0.81 * limit})
    again = replace(run.dataset, cutting=Cutting(MemoryBudget(limits[2], cost)))
    assert [len(batch.sample) for batch in seen[2].micro] == [len(batch.sample) for batch in again[plans[2]].micro]
    trainer.load_checkpoint(store.folder / "step-00000003")
    assert trainer.memory.budget.limit == limits[3]
    assert trainer.memory.budget.ceiling == ceiling


def test_gradients_and_optimizer_are_counted(study, make_train_config, make_pretrain_config, tmp_path):
    run = make_run(study, make_pretrain_config, make_train_config, "frozen", tmp_path)
    held = held_by_training(run.model, CPU)
    assert held.weights == 4 * sum(weight.numel() for weight in run.model.parameters())
    learned = [weight for weight in run.model.parameters() if weight.requires_grad]
    assert held.gradients == 4 * sum(weight.numel() for weight in learned) < held.weights
    trainer = trainer_of(run)
    trainer.train_step(run.dataset[run.material.sampler(run.config).plan_epoch(0)[0]])
    states = trainer.optimizer.state_dict()["state"].values()
    kept = sum(value.nbytes for state in states for name, value in state.items() if name != "step")
    assert held.optimizer == kept


@on_linux
def test_a_calibration_holds_the_gradients(study, make_pretrain_config):
    """A wide model on small batches: nearly all that training takes are weights, gradients and the optimizer."""
    run = prepare_pretraining(
        study, make_pretrain_config(embedding_dim=768, attention_layers=2, max_asvs=4, max_memory_gb=4.0)
    )
    held = held_by_training(run.model, CPU)
    budget = trainer_of(run).memory.measured()
    assert budget.ceiling == 4e9
    assert budget.cost.fixed > 0.9 * (held.gradients + held.optimizer)


def test_attention_of_all_pairs_and_padding_are_predicted(study, make_pretrain_config):
    model = prepare_pretraining(study, make_pretrain_config()).config.model
    plain = predicted_cost(model, None)
    pairs = predicted_cost(model.model_copy(update={"attn_implementation": "math"}), None, padded=True)
    assert (plain.paired, plain.padded) == (0.0, False)
    # one layer and three in work, two heads, four bytes
    assert pairs.paired == 4 * 2 * 4
    assert pairs.padded
    assert pairs.of_batch(0, [10, 5]) == 2 * pairs.sampled * 10 + 2 * 100 * pairs.paired


def trainer_of(run: Run) -> Trainer:
    return run.trainer(CheckpointStore(run.config.output.output_dir / "checkpoints"))


def test_batches_are_halved_until_they_fit(study, make_pretrain_config, caplog):
    """A GPU without memory for more than three samples at a time, played by a block that raises what PyTorch raises."""
    run, calm = (prepare_pretraining(study, make_pretrain_config(batch_size=12)) for _ in range(2))
    trainer, undisturbed = trainer_of(run), trainer_of(calm)

    def refuse(block: Block, given: tuple) -> None:
        lengths = given[1].runs if given[1] is not None and not isinstance(given[1], torch.Tensor) else ()
        if sum(number for number, _ in lengths) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    run.model.sample_encoder.transformer.blocks[0].register_forward_pre_hook(refuse)
    for number, plan in enumerate(run.material.sampler(run.config).plan_epoch(0)[:2]):
        losses, expected = trainer.train_step(trainer.memory.dataset[plan]), undisturbed.train_step(calm.dataset[plan])
        assert {n: float(v) for n, v in losses.items()} == pytest.approx(
            {n: float(v) for n, v in expected.items()}, 1e-5
        )
        assert len([line for line in caplog.messages if "half as large" in line]) == 2
        assert trainer.memory.dataset.cutting.pieces == 4, number


def test_a_sample_that_does_not_fit_ends_the_run(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config(batch_size=3))

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.model.asv_encoder.register_forward_pre_hook(refuse)
    trainer = trainer_of(run)
    with pytest.raises(InputError, match=r"step 1: a batch of 1 samples does not fit .* --max-memory-gb"):
        trainer.train_step(run.dataset[run.material.sampler(run.config).plan_epoch(0)[0]])


@on_linux
def test_the_batch_is_chosen_by_the_free_memory(study, make_pretrain_config, caplog):
    caplog.set_level("INFO")
    run = prepare_pretraining(study, make_pretrain_config(batch_size="auto", target_effective_batch_size=20))
    trainer = trainer_of(run)
    trainer.memory.settle()
    budget = trainer.memory.budget
    assert budget is not None
    assert 0.5 * free_memory(CPU) < budget.limit < free_memory(CPU)
    plans = run.material.sampler(run.config).plan_epoch(0)
    assert [len(plan.samples) for plan in plans] == [16, 16]  # even steps of up to 20
    assert len(trainer.memory.dataset[plans[0]].micro) == 1
    assert budget.ceiling == pytest.approx(budget.limit / 0.95)
    assert "a batch of the 20 largest samples fits into the memory, of the 20 of a step" in caplog.text


def test_held_out_samples_are_fewer_where_little_memory_is_free(study, make_pretrain_config, monkeypatch):
    monkeypatch.setattr(budgets, "free_memory", lambda _: 10**6)
    run = prepare_pretraining(study, make_pretrain_config(batch_size="auto", target_effective_batch_size=32))
    size = run.objective.held_out.batch_size
    assert 1 <= size < 32
    most = int(run.material.draws.most_asvs(run.material.split.val, mixed=False).max())
    shallow = predicted_cost(run.config.model, None, frozen=True)
    assert size * shallow.of_batch(0, [most]) <= 0.25 * 0.8 * 10**6


def test_embedded_samples_need_no_budget(study, make_pretrain_config, make_train_config, tmp_path):
    encoder = write_encoder(study, make_pretrain_config, tmp_path)
    options = {"freeze_base": True, "pretrained_encoder": encoder, "rarefaction": "fixed", "max_memory_gb": 1e-3}
    run = prepare_training(study, make_train_config(batch_size=24, **options))
    assert isinstance(run.dataset, PooledStepDataset)
    trainer = trainer_of(run)
    trainer.memory.settle()
    assert trainer.memory.budget is None
    plan = run.material.sampler(run.config).plan_epoch(0)[0]
    assert [len(batch.sample) for batch in replace(run.dataset, cutting=Cutting(pieces=4))[plan].micro] == [4, 4, 4, 4]

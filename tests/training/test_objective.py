import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import skbio
import torch

from aam.config import UnifracConfig
from aam.data.distances.matrix import DistanceMatrix
from aam.data.files.sequences import sequence_keys
from aam.data.labels.taxonomy import parse_lineage
from aam.data.sampling import dataset
from aam.data.sampling.dataset import StepPlan
from aam.data.sampling.rarefaction import FIXED, SampleDraws, row_of
from aam.data.sampling.seeded import derived_seed, text_keys, uniforms
from aam.models import sequence_encoder
from aam.models.asv_encoder import predict_masked
from aam.training import losses as loss_module
from aam.training.distributed import World
from aam.training.inference import samples as inference
from aam.training.substitution import substitute
from aam.training.tasks import distances as distances_module
from aam.training.tasks.base import VALIDATION
from aam.training.tasks.distances import UnifracTask
from aam.training.tasks.faith_pd import FaithPdTask
from aam.training.tasks.masking import mask_nucleotides
from aam.training.tasks.nucleotides import NucleotideTask
from aam.training.tasks.taxonomy import TaxonomyTask
from aam.workflows.fit import Run
from aam.workflows.pretrain import prepare_pretraining

WEIGHTS = {
    "unifrac_weight": 1.3,
    "nucleotide_weight": 0.4,
    "faith_pd_weight": 0.2,
    "taxonomy_weight": 0.3,
    "abundance_weight": 0.1,
}
ALL_PARTS = WEIGHTS | {"nuc_asv_fraction": 0.6, "abundance_mask_ratio": 0.3}
AUGMENTED = {"sequence_noise": 0.1, "asv_dropout": 0.2, "depth_jitter": 0.3}


def alone(loss: str) -> dict[str, float]:
    """Options by which one loss is learned, and no other."""
    return {name: 0.0 for name in WEIGHTS if name != f"{loss}_weight"}


@pytest.fixture
def double_run(study, make_pretrain_config):
    """A prepared run in double precision."""

    def prepare(study=study, **options) -> Run:
        run = prepare_pretraining(study, make_pretrain_config(**{**ALL_PARTS, **options}))
        run.model.double()
        return run

    return prepare


def cut(plan: StepPlan, *sizes: int) -> StepPlan:
    """The same step in batches of these sizes."""
    return replace(plan, micro=tuple(np.split(plan.samples, np.cumsum(sizes)[:-1])))


def first_plan(run: Run, samples: int = 12) -> StepPlan:
    """A step of so many training samples, in one batch."""
    return StepPlan(0, 0, False, (np.random.default_rng(7).permutation(run.material.split.train)[:samples],))


def step_of(run: Run, plan: StepPlan, gradient) -> tuple[dict[str, float], torch.Tensor]:
    losses = run.objective.backward(run.dataset[plan], lambda loss: loss)
    assert not any(loss.requires_grad for loss in losses.values())
    return {name: float(loss) for name, loss in losses.items()}, gradient(run.model)


PARTS = [
    {},
    *map(alone, ("nucleotide", "unifrac", "faith_pd", "taxonomy", "abundance")),
    {"taxonomy_weight": 0.0},
    {"abundance_weight": 0.0},
    {"distance_link": "cosine", "nuc_mask_strategy": "span"},
    {"gradient_checkpointing": True, "asv_chunk_size": 5},
    AUGMENTED,
]


@pytest.mark.parametrize(
    ("options", "sizes"), [*((options, (5, 7)) for options in PARTS), ({}, (4, 4, 4)), ({}, (1, 10, 1))]
)
def test_the_gradient_of_accumulated_batches_is_that_of_one(double_run, gradient, options, sizes):
    run = double_run(**options)
    plan = first_plan(run)
    whole_losses, whole = step_of(run, plan, gradient)
    losses, accumulated = step_of(run, cut(plan, *sizes), gradient)
    assert losses == pytest.approx(whole_losses, rel=1e-10)
    assert (accumulated - whole).norm() <= 1e-10 * whole.norm()
    assert whole.norm() > 1e-3


@pytest.mark.parametrize("source", ["tree", "matrix"])
@pytest.mark.parametrize("sizes", [(12,), (5, 7)])
def test_distances_computed_block_by_block_give_the_same_step(double_run, study, gradient, monkeypatch, source, sizes):
    """As for a step of so many samples that the matrix of their distances would fill the memory."""
    options = {}
    if source == "matrix":
        ids, rows = study.table.sample_ids, np.arange(40)
        values = study.distance_source(UnifracConfig()).distances(rows, study.table.counts).numpy()
        options = {"study": replace(study, tree=None, matrix=DistanceMatrix(ids, values)), "faith_pd_weight": 0.0}
    run = double_run(**options)
    plan = cut(first_plan(run), *sizes)
    whole_losses, whole = step_of(run, plan, gradient)
    monkeypatch.setattr(dataset, "DENSE_SAMPLES", 11)
    monkeypatch.setattr(loss_module, "PAIR_BLOCK", 5)
    assert run.dataset[plan].distance is None
    losses, pull = step_of(run, plan, gradient)
    assert losses == pytest.approx(whole_losses, rel=1e-10)
    assert (pull - whole).norm() <= 1e-10 * whole.norm()


def test_batches_of_a_step_own_asvs(double_run):
    """Else the test above would say nothing about ASVs that several batches hold."""
    run = double_run()
    step = run.dataset[cut(first_plan(run), 4, 4, 4)]
    one, other = (set(batch.asv.tolist()) for batch in step.micro[:2])
    assert len(one & other) > 5


def test_dropout_is_the_same_in_both_passes_of_an_accumulated_step(double_run, gradient):
    """With dropout the batches differ from one large batch, but the loss must belong to the gradient."""
    run = double_run(nucleotide_dropout=0.2, sample_dropout=0.2, nucleotide_weight=0.0)
    plan = cut(first_plan(run), 6, 6)
    before, pull = step_of(run, plan, gradient)
    assert step_of(run, plan, gradient)[0] == before
    with torch.no_grad():
        start = torch.nn.utils.parameters_to_vector(run.model.parameters())
        step = 1e-6 / pull.norm()
        torch.nn.utils.vector_to_parameters(start + step * pull, run.model.parameters())
    after, _ = step_of(run, plan, gradient)
    assert (after["loss"] - before["loss"]) / step == pytest.approx(float(pull.square().sum()), rel=1e-3)


def test_the_scale_of_the_loss_scales_the_gradient(double_run, gradient):
    run = double_run()
    for plan in (first_plan(run), cut(first_plan(run), 6, 6)):
        _, plain = step_of(run, plan, gradient)
        losses = run.objective.backward(run.dataset[plan], lambda loss: 8 * loss)
        assert torch.allclose(gradient(run.model), 8 * plain, rtol=1e-10, atol=0)
        assert float(losses["loss"]) == pytest.approx(step_of(run, plan, gradient)[0]["loss"])


def reference_losses(run: Run, plan: StepPlan, newick, one_sample) -> dict[str, float]:
    """The losses of a step by loops over samples, ASVs and pairs; distances and diversities from scikit-bio."""
    model, study = run.model, run.material.study
    drawn = run.material.draws.rows(plan.samples, plan.epoch)
    tokens = run.material.nucleotides
    keys = torch.from_numpy(study.asv_keys)
    mask = mask_nucleotides(tokens, keys, run.config.masking, run.config.runtime.seed, plan.step)
    noise = run.config.augmentation.sequence_noise
    as_read = substitute(tokens, keys, noise, run.config.runtime.seed, plan.step)
    assert torch.equal(as_read, tokens) == (noise == 0)
    embeddings, cross_entropies, asvs, abundance_errors = [], [], [], []
    for row, sample in enumerate(plan.samples):
        asv, count = row_of(drawn, row)
        masked = masked_abundances(run, sample, asv, plan.step)
        output = model(one_sample(as_read[asv], count, masked_nucleotides=mask[asv], masked_abundances=masked[None]))
        embeddings.append(output.sample_embedding[0])
        logits = iter(output.nucleotide_logits.tolist())
        asvs += zip(asv.tolist(), output.heads["taxonomy"].tolist(), strict=True)
        for place in masked.nonzero()[:, 0].tolist():
            share = count[place] / count.sum()
            abundance_errors.append((float(output.heads["abundance"][0, place]) - math.log(share)) ** 2)
        for number in asv:
            for token in tokens[number][mask[number]].tolist():
                values = next(logits)
                cross_entropies.append(math.log(sum(map(math.exp, values))) - values[token])
        assert next(logits, None) is None
    tree = skbio.TreeNode.read([newick.read_text()], format="newick", convert_underscores=False)
    counts, taxa = drawn.toarray(), list(study.table.asv_ids)
    true = skbio.diversity.beta_diversity("unweighted_unifrac", counts, taxa=taxa, tree=tree, validate=False)
    pd = skbio.diversity.alpha_diversity("faith_pd", counts, taxa=taxa, tree=tree, validate=False)
    tau, errors, pd_errors = math.exp(float(model.scale.log_tau)), [], []
    for i, one in enumerate(embeddings):
        pd_errors.append((float(model.faith_pd_head(one[None])) - math.log(1 + pd.iloc[i])) ** 2)
        for j in range(i):
            apart = math.dist(one.tolist(), embeddings[j].tolist()) / tau
            softened = math.sqrt(apart**2 + 1e-6) - 1e-3
            errors.append((1 - math.exp(-softened) - true.data[i, j]) ** 2)
    parts = {
        "unifrac_loss": sum(errors) / len(errors),
        "nucleotide_loss": sum(cross_entropies) / len(cross_entropies),
        "faith_pd_loss": sum(pd_errors) / len(pd_errors),
        "taxonomy_loss": statistics.mean(of_ranks(run, asvs)),
        "abundance_loss": statistics.mean(abundance_errors),
    }
    return {"loss": sum(WEIGHTS[name.replace("loss", "weight")] * part for name, part in parts.items())} | parts


def masked_abundances(run: Run, sample: int, asv: np.ndarray, step: int) -> torch.Tensor:
    """Which abundances of a sample are masked, by (seed, step, sample, ASV)."""
    table = run.material.study.table
    keys = text_keys([table.sample_ids[sample]]) ^ sequence_keys([table.sequences[i] for i in asv])
    address = derived_seed(run.config.runtime.seed, "hide abundances", step)
    return uniforms(address, torch.from_numpy(keys), 1)[:, 0] < run.config.losses.abundance_mask_ratio


def of_ranks(run: Run, asvs: list[tuple[int, list[float]]]) -> list[float]:
    """Mean cross-entropy of each rank over ASVs, given with their logits, whose lineage a training sample holds."""
    study, means, start = run.material.study, [], 0
    counts = study.table.counts[run.material.split.train].sum(axis=0)
    names = [parse_lineage(study.taxonomy[asv]) for asv in study.table.asv_ids]
    for place in range(1, 6):  # all are bacteria, and there are no species
        classes = sorted({names[asv][: place + 1] for asv in np.flatnonzero(counts) if names[asv][place]})
        number = {name: start + i for i, name in enumerate(classes)}
        losses = [
            math.log(sum(map(math.exp, logits[start : start + len(classes)]))) - logits[number[names[asv][: place + 1]]]
            for asv, logits in asvs
            if names[asv][: place + 1] in number
        ]
        means.append(sum(losses) / len(losses))
        start += len(classes)
    assert all(len(logits) == start for _, logits in asvs)
    return means


@pytest.mark.parametrize("options", [{}, AUGMENTED])
@pytest.mark.parametrize("sizes", [(6,), (4, 2)])
def test_the_losses_are_those_of_plain_loops(double_run, gradient, newick, one_sample, sizes, options):
    run = double_run(**options)
    plan = replace(first_plan(run, 6), step=31, epoch=4)
    with torch.no_grad():
        expected = reference_losses(run, plan, newick, one_sample)
    losses, _ = step_of(run, cut(plan, *sizes), gradient)
    # true abundances are float32
    single = {name: (losses.pop(name), expected.pop(name)) for name in ("abundance_loss", "loss")}
    assert losses == pytest.approx(expected, rel=1e-9)
    assert all(found == pytest.approx(wanted, rel=1e-6) for found, wanted in single.values())


def test_masks_change_with_the_step_and_draws_with_the_epoch(double_run, gradient):
    run = double_run()
    plan = first_plan(run)
    losses = [step_of(run, changed, gradient)[0] for changed in (plan, replace(plan, step=1), replace(plan, epoch=1))]
    assert losses[0]["nucleotide_loss"] != losses[1]["nucleotide_loss"]
    assert losses[0]["faith_pd_loss"] != losses[2]["faith_pd_loss"]


def test_noise_changes_with_the_step_and_not_with_the_epoch(double_run, gradient):
    run = double_run(sequence_noise=0.1, rarefaction="fixed", **alone("faith_pd"))
    plan = first_plan(run)
    losses = [step_of(run, changed, gradient)[0] for changed in (plan, replace(plan, epoch=1), replace(plan, step=1))]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_held_out_samples_are_judged_as_they_are(double_run):
    """Whatever happens to training samples: no reads, ASVs or nucleotides of them are changed."""
    plain, augmented = double_run(), double_run(**AUGMENTED)
    assert augmented.objective.validate() == plain.objective.validate()


def validated(run: Run, one_sample) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Metrics, and all true and predicted distances of held-out samples, one pair after the other."""
    objective = run.objective
    metrics = objective.validate()
    assert run.model.training
    samples, draws = objective.held_out.samples, run.material.draws
    true = run.material.study.distance_source(UnifracConfig()).distances(samples, draws.rows(samples, FIXED)).numpy()
    run.model.eval()
    embeddings = []
    for sample in samples:
        asv, count = draws.counts(sample, FIXED)
        with torch.no_grad():
            embeddings.append(run.model(one_sample(run.material.nucleotides[asv], count)).sample_embedding[0])
    z = run.model.scale(torch.stack(embeddings))
    predicted = run.model.distance(z, z).detach().numpy()
    run.model.train()
    pairs = np.triu_indices(len(samples), 1)
    return metrics, true[pairs], predicted[pairs]


@pytest.mark.parametrize(("group", "block"), [(4096, 512), (4096, 3)])
def test_validation_is_over_all_pairs_of_held_out_samples(double_run, monkeypatch, one_sample, group, block):
    monkeypatch.setattr(distances_module, "PAIR_GROUP", group)
    monkeypatch.setattr(distances_module, "PAIR_BLOCK", block)
    run = double_run()
    metrics, true, predicted = validated(run, one_sample)
    assert len(true) == 8 * 7 / 2
    assert metrics["val/unifrac_loss"] == pytest.approx(np.square(true - predicted).mean(), rel=1e-9)
    assert metrics["val/unifrac_pearson"] == pytest.approx(np.corrcoef(true, predicted)[0, 1], rel=1e-9)
    assert metrics["val/unifrac_mae"] == pytest.approx(np.abs(true - predicted).mean(), rel=1e-9)


def test_validation_of_many_samples_compares_within_groups(double_run, monkeypatch):
    monkeypatch.setattr(distances_module, "PAIR_GROUP", 4)
    run = double_run()
    task = run.objective.task(UnifracTask)
    pairs = [predicted for predicted, _ in task.compare_pairs(torch.randn(8, 8).double())]
    assert sum(map(len, pairs)) == 2 * 4 * 3 / 2


@pytest.mark.parametrize("ranks", [2, 3, 11])
def test_ranks_compare_every_held_out_pair_once(double_run, monkeypatch, ranks):
    monkeypatch.setattr(distances_module, "PAIR_BLOCK", 3)
    task = double_run().objective.task(UnifracTask)
    z = torch.randn(8, 8).double()
    whole = sorted(value for predicted, _ in task.compare_pairs(z) for value in predicted.tolist())
    compute, shared = task.compute, []
    for rank in range(ranks):
        task.compute = replace(compute, world=World(compute.device, rank, ranks))
        shared += [value for predicted, _ in task.compare_pairs(z) for value in predicted.tolist()]
    assert len(whole) == 8 * 7 / 2
    assert sorted(shared) == whole


def test_validation_weighs_masked_nucleotides_by_the_samples_that_hold_them(double_run):
    run = double_run(asv_chunk_size=7)
    metrics = run.objective.validate()
    counts = run.material.study.table.counts[run.material.split.val].toarray()
    tokens = run.material.nucleotides
    keys = torch.from_numpy(run.material.study.asv_keys)
    masking = run.config.masking.model_copy(update={"nuc_asv_fraction": 1.0})
    mask = mask_nucleotides(tokens, keys, masking, run.config.runtime.seed, VALIDATION)
    losses, hits, weights = [], [], []
    for asv in np.flatnonzero(counts.sum(axis=0)):
        with torch.no_grad():
            logits = predict_masked(run.model.asv_encoder, tokens[asv : asv + 1], mask[asv : asv + 1])
        true = tokens[asv][mask[asv]].long()
        losses += torch.nn.functional.cross_entropy(logits, true, reduction="none").tolist()
        hits += (logits.argmax(1) == true).tolist()
        weights += [np.count_nonzero(counts[:, asv])] * len(true)
    assert metrics["val/nucleotide_loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-9)
    assert metrics["val/nucleotide_accuracy"] == pytest.approx(np.average(hits, weights=weights), rel=1e-9)


def test_validation_of_faith_pd_is_on_the_logarithm(double_run, newick, one_sample):
    run = double_run()
    metrics = run.objective.validate()
    samples = run.material.split.val
    tree = skbio.TreeNode.read([newick.read_text()], format="newick", convert_underscores=False)
    counts = run.material.draws.rows(samples, FIXED).toarray()
    taxa = list(run.material.study.table.asv_ids)
    pd = skbio.diversity.alpha_diversity("faith_pd", counts, taxa=taxa, tree=tree, validate=False)
    predicted = run.objective.outputs(run.objective.task(FaithPdTask), run.objective.held_out)[:, 0].numpy()
    run.model.eval()
    with torch.no_grad():
        alone = [
            run.model(one_sample(run.material.nucleotides[asv], count)).heads["faith_pd"].item()
            for asv, count in (run.material.draws.counts(sample, FIXED) for sample in samples)
        ]
    assert predicted == pytest.approx(alone, rel=1e-9)
    assert metrics["val/faith_pd_loss"] == pytest.approx(np.square(predicted - np.log1p(pd)).mean(), rel=1e-9)
    assert metrics["val/faith_pd_pearson"] == pytest.approx(np.corrcoef(np.expm1(predicted), pd)[0, 1], rel=1e-9)
    assert metrics["val/faith_pd_mae"] == pytest.approx(np.abs(np.expm1(predicted) - pd).mean(), rel=1e-9)


def test_validation_of_ranks_weighs_asvs_by_the_samples_that_hold_them(double_run):
    """With so few samples to train on, held-out samples hold ASVs, and lineages, that they lack."""
    run = double_run(val_fraction=0.7)
    metrics = run.objective.validate()
    study, split = run.material.study, run.material.split
    times = np.count_nonzero(study.table.counts[split.val].toarray(), axis=0)
    trained = study.table.counts[split.train].sum(axis=0) > 0
    code = study.taxonomy_labels(split.train).code
    with torch.no_grad():
        logits = run.model.head("taxonomy")(run.model.embed_asvs(run.material.nucleotides))
    sizes = [len(classes) for classes in run.documents["taxonomy"].values()]
    assert (code[times > 0] < 0).sum() > 10
    losses = []
    for rank, true, part in zip(run.documents["taxonomy"], code.T, logits.split(sizes, dim=1), strict=True):
        known = (true >= 0) & (times > 0)
        each = torch.nn.functional.cross_entropy(part[known], torch.from_numpy(true[known]), reduction="none")
        losses.append(np.average(each.numpy(), weights=times[known]))
        hits = part.argmax(1).numpy() == true
        assert metrics[f"val/taxonomy_loss_{rank}"] == pytest.approx(losses[-1], rel=1e-9)
        assert metrics[f"val/taxonomy_accuracy_{rank}"] == pytest.approx(np.average(hits[known], weights=times[known]))
        new = known & ~trained
        assert 0 < new.sum() < known.sum() / 2
        expected = np.average(hits[new], weights=times[new])
        assert metrics[f"val/taxonomy_new_accuracy_{rank}"] == pytest.approx(expected)
    assert metrics["val/taxonomy_loss"] == pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.parametrize("kind", [TaxonomyTask, NucleotideTask])
@pytest.mark.parametrize("ranks", [2, 3, 60])
def test_ranks_of_a_launch_judge_every_asv_once(double_run, monkeypatch, ranks, kind):
    task, sums = double_run(val_fraction=0.7).objective.task(kind), []
    compute = task.compute
    monkeypatch.setattr(World, "sum", lambda self, tensor: sums.append(tensor) or tensor)
    with torch.no_grad():
        task.validate(None)
        for rank in range(ranks):
            task.compute = replace(compute, world=World(compute.device, rank, ranks))
            task.validate(None)
    torch.testing.assert_close(sum(sums[1:]), sums[0], rtol=1e-12, atol=1e-12)
    # losses, ASVs, and ASVs of no training sample; or losses, hits and nucleotides
    assert sums[0][[0, 2, 4] if kind is TaxonomyTask else [0, 2]].all()


def test_validation_of_masked_abundances_is_over_all_of_them(double_run, one_sample):
    losses = [
        double_run(batch_size=size, num_workers=workers).objective.validate()["val/abundance_loss"]
        for size, workers in [(8, 0), (3, 2)]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    run = double_run()
    errors = []
    for sample in run.material.split.val:
        asv, count = run.material.draws.counts(sample, FIXED)
        masked = masked_abundances(run, sample, asv, VALIDATION)
        with torch.no_grad():
            output = run.model(one_sample(run.material.nucleotides[asv], count, masked_abundances=masked[None]))
        true = torch.from_numpy(count / count.sum()).log()
        errors += (output.heads["abundance"][0] - true)[masked].square().tolist()
    assert run.objective.validate()["val/abundance_loss"] == pytest.approx(np.mean(errors), rel=1e-6)  # of float32


def test_masked_abundances_are_not_learned_by_default(study, make_pretrain_config):
    run = prepare_pretraining(study, make_pretrain_config())
    assert "abundance" not in {task.name for task in run.objective.tasks}
    assert "val/abundance_loss" not in run.objective.metrics
    assert "abundance" not in run.model.head_names


def test_validation_masks_abundances_for_their_own_task_alone(double_run):
    """Distances of held-out samples are judged on all that is known of these."""
    one, other = (double_run(abundance_mask_ratio=ratio).objective.validate() for ratio in (0.1, 0.9))
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"val/loss", "val/abundance_loss"}


@pytest.mark.parametrize("sizes", [(2,), (1, 1), (6, 6)])
def test_a_step_that_masks_no_nucleotide_has_a_gradient(double_run, gradient, sizes):
    run = double_run(**alone("nucleotide"), nuc_asv_fraction=1e-9)
    losses, pull = step_of(run, cut(first_plan(run, sum(sizes)), *sizes), gradient)
    assert losses["nucleotide_loss"] == 0
    assert not pull.any()


def test_the_first_pass_of_an_accumulated_step_predicts_no_nucleotides(double_run, gradient, monkeypatch):
    run, passes, predict = double_run(), [], sequence_encoder.predict_masked
    monkeypatch.setattr(sequence_encoder, "predict_masked", lambda *given: passes.append(1) or predict(*given))
    step_of(run, cut(first_plan(run), 6, 6), gradient)
    assert len(passes) == 2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_leaves_the_random_numbers_of_others_alone(double_run, gradient, dropout):
    run = double_run(sample_dropout=dropout)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    step_of(run, cut(first_plan(run), 6, 6), gradient)
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_samples_are_drawn_once(double_run, monkeypatch):
    run = double_run()
    drawn = []
    counts = SampleDraws.counts
    monkeypatch.setattr(SampleDraws, "counts", lambda *given: drawn.append(given[1]) or counts(*given))
    for _ in range(2):
        run.objective.validate()
    assert sorted(drawn) == run.material.split.val.tolist()


def test_validation_by_workers_is_the_same(double_run, monkeypatch):
    used = []
    loader = inference.DataLoader
    monkeypatch.setattr(
        inference, "DataLoader", lambda *a, **more: used.append(more["num_workers"]) or loader(*a, **more)
    )
    one, other = (double_run(num_workers=workers).objective.validate() for workers in (0, 2))
    assert one == other
    assert used == [0, 2]


@pytest.mark.parametrize("options", [*PARTS[:8], {"val_fraction": 0.7}])
def test_the_names_of_the_metrics_are_known_before_validating(double_run, options):
    run = double_run(**options)
    metrics = run.objective.validate()
    assert metrics.keys() == run.objective.metrics.keys()
    total = sum(weight * metrics.get(f"val/{name}_loss", 0) for name, weight in run.config.losses.weights.items())
    assert metrics["val/loss"] == pytest.approx(total)


def test_validation_draws_and_masks_stay_the_same(double_run):
    run = double_run(nucleotide_dropout=0.3, sample_dropout=0.3)
    assert run.objective.validate() == run.objective.validate()


def test_which_metrics_should_rise(double_run):
    better = double_run(val_fraction=0.7).objective.metrics
    ranks = ("phylum", "class", "order", "family", "genus")
    rising = {"val/unifrac_r2", "val/unifrac_pearson", "val/nucleotide_accuracy", "val/faith_pd_r2"}
    rising |= {"val/faith_pd_pearson"}
    rising |= {f"val/taxonomy_{kind}_{rank}" for kind in ("accuracy", "new_accuracy") for rank in ranks}
    assert {name for name, rises in better.items() if rises} == rising
    neither = {name for name, rises in better.items() if rises is None}
    assert neither == {f"val/unifrac_{name}" for name in ("pred_std", "true_std", "std_ratio")}


def test_a_task_is_found_by_its_kind(double_run):
    objective = double_run(faith_pd_weight=0.0).objective
    assert objective.task(UnifracTask).name == "unifrac"
    with pytest.raises(KeyError, match="FaithPdTask"):
        objective.task(FaithPdTask)


def test_outputs_of_a_task_are_in_the_order_of_the_samples(double_run):
    run = double_run(sample_dropout=0.3)
    task, rows = run.objective.task(FaithPdTask), run.material.split.train
    whole = run.objective.outputs(task, run.material.batches(rows, run.config))
    assert run.model.training
    turned = run.objective.outputs(task, run.material.batches(rows[::-1].copy(), run.config))
    torch.testing.assert_close(turned.flip(0), whole, rtol=1e-9, atol=1e-9)

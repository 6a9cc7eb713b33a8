"""What can be asked of a model that is sharded among ranks, or applied by several: see `compositions`.

Shapes: B samples, S ASVs in a sample, U unique ASVs, L nucleotides, D width.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from together import ALONE, Result, gradient, prepare, pretrain_config, relative, train_config, weights, whole
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from aam.config import DistributedConfig
from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.samples import SampleBatch
from aam.data.study import Study, select_samples
from aam.models.asv_encoder import predict_masked
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor, pool
from aam.training.checkpoints.store import Checkpoint
from aam.training.distributed import World, wrap_model_fsdp
from aam.training.distributed.sharding import own_part
from aam.training.distributed.strategies import give_weights
from aam.training.inference.samples import hold_asvs, predict_outputs
from aam.training.machine.compute import Compute
from aam.training.optim import make_optimizer
from aam.training.tasks.distances import UnifracTask
from aam.training.tasks.targets import TargetTask
from aam.workflows.embed import embed_study, embed_study_asvs
from aam.workflows.fit import Run
from aam.workflows.predict_network import predict_study
from aam.workflows.restore import Restored, build_encoder, build_predictor, load_pretrained

EQUAL = 1e-12
DOCUMENTS = {"taxonomy": {"phylum": ["Bacteria; A", "Bacteria; B"]}}
DEEP = {"embedding_dim": 32, "attention_layers": 8, "max_bp": 30}
STRATEGIES: dict[str, dict[str, Any]] = {"ddp": {"distributed": True}, "fsdp": {"fsdp": True}}
SHARDED: dict[str, dict[str, Any]] = {
    "fsdp": {},
    "fsdp offloaded": {"fsdp_cpu_offload": True},
    "fsdp replicated": {"fsdp_replicate": 2},
}
Call = Callable[[Any], Tensor | tuple[Any, ...]]


def levels(folder: Path, world: World) -> Iterator[Result]:
    """A bare model, wrapped with its weights in it, against a plain one that learns beside it."""
    for task in ("pretrain", "train"):
        plain, sharded = (prepare(folder, task, ALONE, torch.float64) for _ in range(2))
        wrap_model_fsdp(sharded.model, world, DistributedConfig(fsdp=True))
        pair = Pair(plain, sharded)
        for stage in ("fresh", "again"):
            yield from pair.compare(f"{task}, {stage}")
        yield from pair.compare_gradients(task)
        for number in range(2):
            yield from pair.step(f"{task}, step {number}")
            yield from pair.compare(f"{task}, after step {number}")


class Pair:
    """A plain run and one whose model is divided, of equal weights, on equal samples."""

    def __init__(self, plain: Run, divided: Run) -> None:
        self.runs = plain, divided
        self.optimizers = [make_optimizer(run.model, run.config.optim) for run in self.runs]
        held_out = plain.material.held_out(6)
        self.calls = calls_of(plain.model, held_out[0], plain.material.nucleotides)

    def both(self, work: Callable[[Run], Any]) -> tuple[Any, Any]:
        plain, divided = map(work, self.runs)
        return divided, plain

    def compare(self, stage: str) -> Iterator[Result]:
        """Call the model and each of its levels in evaluation."""
        for name, made in self.calls.items():

            def call(run: Run, made: Call = made) -> Tensor:
                run.model.eval()
                with torch.no_grad():
                    output = flat(made(run.model))
                run.model.train()
                return output

            yield Result("level", f"{stage}, {name}", relative(*self.both(call)), EQUAL)

    def compare_gradients(self, stage: str) -> Iterator[Result]:
        """Call the model and each of its levels with a graph, and go back through it."""
        for name, made in self.calls.items():

            def back(run: Run, made: Call = made) -> Tensor:
                output = flat(made(run.model))
                (output * torch.linspace(-1, 2, len(output), dtype=output.dtype)).sum().backward()
                found = gradient(run.model)
                run.model.zero_grad(set_to_none=True)
                return found

            yield Result("gradient of a level", f"{stage}, {name}", relative(*self.both(back)), 1e-10)

    def step(self, stage: str) -> Iterator[Result]:
        """Learn a step, with a look at the model between the backward pass and the optimizer."""

        def learn(run: Run) -> Tensor:
            plan = next(iter(run.material.sampler(run.config)))
            run.objective.backward(run.dataset[plan], lambda loss: loss)
            return gradient(run.model)

        yield Result("gradient", stage, relative(*self.both(learn)), 1e-10)
        yield from self.compare(f"{stage}, before the optimizer")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield Result("weights", stage, relative(*self.both(lambda run: weights(run.model))), 1e-9)


def calls_of(model: SequenceEncoder | SequencePredictor, batch: SampleBatch, nucleotides: Tensor) -> dict[str, Call]:
    """Calls of the whole model and of every level, by name."""
    tokens, draw = nucleotides[batch.asv], torch.Generator().manual_seed(3)
    mask = torch.rand(tokens.shape, generator=draw) < 0.2
    with torch.no_grad():
        asvs = model.embed_asvs(tokens)
    whole_batch, embedded = batch.samples(tokens), batch.samples(asvs)
    if isinstance(model, SequenceEncoder):
        vectors = torch.randn(len(batch.sample), asvs.shape[1], generator=draw, dtype=asvs.dtype)
        return {
            "forward": lambda model: model(whole_batch._replace(masked_nucleotides=mask)),
            "ASVs": lambda model: model.asv_encoder(tokens),
            "samples": lambda model: model.sample_encoder(embedded),
            "masked nucleotides": lambda model: predict_masked(model.asv_encoder, tokens, mask),
            "scale": lambda model: model.scale(vectors),
            "Faith's PD": lambda model: model.head("faith_pd")(vectors),
            "taxonomy": lambda model: model.head("taxonomy")(asvs),
        }
    masked = (torch.rand(batch.counts.shape, generator=draw) < 0.4) & ~batch.padding
    return {
        "forward": lambda model: model(whole_batch),
        "forward, masked": lambda model: model(whole_batch._replace(masked_abundances=masked)),
        "embedded ASVs": lambda model: model(embedded),
        "pooled": lambda model: pool(model, embedded),
    }


def flat(output: Tensor | tuple[Any, ...]) -> Tensor:
    """All of an output as one vector."""
    if isinstance(output, Tensor):
        return output.flatten()
    parts = [part for each in output for part in (each.values() if isinstance(each, dict) else [each])]
    return torch.cat([part.flatten() for part in parts if part is not None])


def allocated(folder: Path, world: World) -> Iterator[Result]:
    """Weights drawn into a model on meta: those of a plain one, in memory that never holds the whole."""
    config = pretrain_config(folder, **DEEP)
    plain = build_encoder(config, DOCUMENTS)
    peak = peak_bytes(lambda: give_weights(plain, DistributedConfig(), Compute(ALONE), 7))
    size = sum(parameter.nbytes for parameter in plain.parameters())
    largest = max(sum(p.nbytes for p in module.parameters(recurse=False)) for module in plain.modules())
    assert size > 20 * largest
    yield Result("bytes that were not seen", "plain", 1 - peak / size, 0.0)
    for name, options in SHARDED.items():
        model, strategy = build_encoder(config, DOCUMENTS), DistributedConfig(fsdp=True, **options)
        peak = peak_bytes(lambda model=model, strategy=strategy: give_weights(model, strategy, Compute(world), 7))
        held = sum(own_part(parameter).nbytes for parameter in model.parameters())
        share = strategy.fsdp_replicate / world.size
        yield Result("fraction of the bytes held", name, held / size, 1.05 * share)
        # a module as it is drawn: the numbers, what they are scaled from, and the part that is cut off
        yield Result("fraction of the bytes ever held", name, peak / size, 1.1 * share + 3 * largest / size)
        yield from differing(name, model, plain)
    yield from pretrained(folder, world)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that tensors hold at once while something is done, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def pretrained(folder: Path, world: World) -> Iterator[Result]:
    """A pretrained encoder and a first bias go into a sharded model as into a plain one."""
    encoder = build_encoder(pretrain_config(folder, **DEEP), DOCUMENTS)
    give_weights(encoder, DistributedConfig(), Compute(ALONE), 8)
    checkpoint = Checkpoint("pretrain", {}, {}, encoder.state_dict())
    plain = predictor_of(folder, ALONE, DistributedConfig(), checkpoint)
    yield Result("differing numbers", "plain encoder", unequal(plain.encoder.scale.log_tau, encoder.scale.log_tau), 0)
    for name, options in SHARDED.items():
        model = predictor_of(folder, world, DistributedConfig(fsdp=True, **options), checkpoint)
        yield from differing(f"{name}, pretrained", model, plain)
        assert model.count_head is not None
        bias = whole(model.count_head.output.bias)
        yield Result("bias", name, unequal(bias, torch.full_like(bias, -3.5)), 0)
        tokens = torch.randint(1, 5, (9, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        with torch.no_grad():
            yield Result("embedding", name, relative(model.embed_asvs(tokens), plain.embed_asvs(tokens)), 1e-6)


def predictor_of(folder: Path, world: World, strategy: DistributedConfig, checkpoint: Checkpoint) -> SequencePredictor:
    """Build a model for fine-tuning as `aam train` does."""
    targets = Targets((TargetColumn("acidity"),))
    predictor = build_predictor(train_config(folder, **DEEP), targets)
    give_weights(predictor, strategy, Compute(world), 7)
    load_pretrained(predictor, checkpoint)
    assert predictor.count_head is not None
    predictor.count_head.start_at(-3.5)
    return predictor


def differing(name: str, model: nn.Module, plain: nn.Module) -> Iterator[Result]:
    """Numbers in which the weights of two models differ, to the last bit."""
    expected = plain.state_dict()
    assert model.state_dict().keys() == expected.keys()
    count = sum(unequal(whole(value), expected[key]) for key, value in model.state_dict().items())
    yield Result("differing numbers", name, count, 0)


def unequal(one: Tensor, other: Tensor) -> int:
    return int((one != other).sum())


def applied(folder: Path, world: World) -> Iterator[Result]:
    """Validation, prediction and embedding of samples that may be fewer than the ranks: each counts once."""
    for name, strategy in STRATEGIES.items():
        for task in ("pretrain", "train"):
            alone = prepare(folder, task, ALONE, torch.float64)
            run = prepare(folder, task, world, torch.float64, **strategy)
            for samples in (8, 7, 2) + (1,) * (task == "train"):
                yield from validated(f"{name}, {task}, {samples} samples", run, alone, samples)
    trained = prepare(folder, "train", ALONE, torch.float64)
    for samples in (8, 7, 2, 1):
        yield from inferred(trained, world, samples)


def validated(case: str, run: Run, alone: Run, samples: int) -> Iterator[Result]:
    """Metrics of some of the held-out samples."""
    for each in (run, alone):
        each.objective.held_out = each.material.held_out(3).take(np.arange(samples))
        for task in each.objective.tasks:
            if hasattr(task, "held_out"):
                task.held_out = each.objective.held_out
            if isinstance(task, UnifracTask):
                task.kept = {}  # true distances of the samples before
    found, expected = run.objective.validate(), alone.objective.validate()
    assert found.keys() == expected.keys()
    assert [key for key in found if (found[key] is None) != (expected[key] is None)] == []
    known = [key for key in found if expected[key] is not None]
    values = [torch.tensor([metrics[key] for key in known], dtype=torch.float64) for metrics in (found, expected)]
    yield Result("metrics", case, float(((values[0] - values[1]).abs() / values[1].abs().clamp_min(1e-9)).max()), 1e-11)
    if run.kind == "pretrain":
        task = run.objective.task(UnifracTask)
        z = run.objective.outputs(task, run.objective.held_out)
        with torch.no_grad():
            pairs = sum(len(one) for one, _ in task.compare_pairs(z))
        total = float(run.world.sum(torch.tensor(float(pairs))))
        yield Result("pairs", case, abs(total - samples * (samples - 1) / 2), 0)


def inferred(run: Run, world: World, samples: int) -> Iterator[Result]:
    """`aam predict` and `aam embed` on some samples of the study, in batches of three."""
    model, material = run.model, run.material
    study = some_of(material.study, samples)
    trained = Restored(run.config, model.encoder, model, run.objective.task(TargetTask).targets, None, run.documents)
    here, alone = Compute(world), Compute(ALONE)
    batches = FixedBatches(material.draws, np.arange(material.study.table.n_samples)[-samples:], 3)
    tables = {
        "predict": lambda compute: predict_study(trained, study, 3, compute),
        "embed": lambda compute: embed_study(trained, study, 3, compute),
        "embed ASVs": lambda compute: embed_study_asvs(trained, study, compute),
        "outputs": lambda compute: predict_outputs(
            model, hold_asvs(model, material.nucleotides, batches, compute), batches, compute, 1
        ),
    }
    for name, table in tables.items():
        found, expected = (np.asarray(table(compute), dtype=np.float64) for compute in (here, alone))
        assert found.shape == expected.shape
        case = f"{name}, {samples} samples"
        # embeddings are written in single precision
        bound = 1e-7 if name.startswith("embed") else EQUAL
        yield Result("table", case, float(np.linalg.norm(found - expected) / np.linalg.norm(expected)), bound)


def some_of(study: Study, samples: int) -> Study:
    return select_samples(study, np.arange(samples), "not asked for")

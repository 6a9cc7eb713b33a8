"""Gradients and losses of W ranks against one process: every case of the grid in one launch.

    python gradients.py FOLDER reference                        # writes what one process computes
    torchrun --nproc-per-node W gradients.py FOLDER             # compares, and writes FOLDER/report-W.json

FOLDER holds the files of a simulated study (`aam simulate`), of whose metadata the numeric column ``gaps`` lacks some
values, and a distance matrix, ``matrix.tsv``.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from plain import Reference, reference, targets
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aam.config import DistributedConfig, PretrainConfig, TrainConfig
from aam.data.sampling import dataset
from aam.data.sampling.dataset import StepBatch, StepPlan
from aam.data.sampling.seeded import generator
from aam.data.study import Study, load_study
from aam.training import losses
from aam.training.checkpoints.store import Checkpoint, write_checkpoint
from aam.training.distributed import ProcessGroup, World, setup_distributed
from aam.training.distributed.sharding import fill
from aam.training.tasks.distances import UnifracTask
from aam.training.tasks.targets import TargetTask
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SMALL = {
    "embedding_dim": 32,
    "attention_heads": 2,
    "attention_layers": 1,
    "batch_size": 12,
    "val_fraction": 0.1,
    "rarefy_depth": 150,
    "device": "cpu",
}
# weights that make the gradients of the parts about as long as each other
PARTS = {"unifrac_weight": 2.5, "nucleotide_weight": 0.2, "nuc_asv_fraction": 0.6, "faith_pd_weight": 0.01}
RANKS = {"taxonomy_weight": 1.0}
COUNTS = {"count_weight": 0.3, "target_weight": 0.7, "count_mask_ratio": 0.4, "regressor_hidden_dims": (6,)}
NUMBERS = {"metadata_column": "acidity", **COUNTS}
CLASSES = {"metadata_column": "habitat", "classifier": True, "class_weights": "balanced"}
SEVERAL = {
    "metadata_column": ("acidity", "gaps"),
    "target_loss": ("acidity=quantile", "gaps=asymmetric"),
    "quantiles": (0.2, 0.5, 0.9),
    "over_penalty": 2.0,
    "under_penalty": 0.5,
}
CATEGORIES = {
    "categorical_columns": ("site", "habitat"),
    "categorical_hierarchy": ("site=region",),
    "categorical_fusion": "cross_attention",
    "cross_attn_heads": 2,
    "categorical_dim": 6,
    "categorical_dropout": 0.3,
    "conditional_output_scaling": "habitat",
    "categorical_loss_weights": "auto",
    "categorical_loss_weight_column": ("region", "habitat"),
}


class Task(NamedTuple):
    """What is learned, and from what."""

    options: dict[str, Any]
    source: str | None = None
    """The file of true distances; None to predict a column."""
    reference: str | None = None
    """The task whose reference this one has, unless it is its own."""
    blocks: bool = False
    """Cut the pairs into small blocks, and compute the distances of each from the counts."""


TASKS = {
    "tree": Task({**PARTS, **RANKS}, "tree"),
    "tree, pairs in blocks": Task({**PARTS, **RANKS, "asv_chunk_size": 7}, "tree", "tree", blocks=True),
    "tree, checkpointing": Task({**PARTS, **RANKS, "gradient_checkpointing": True}, "tree", "tree"),
    "matrix": Task({**PARTS, "faith_pd_weight": 0.0}, "unifrac_matrix"),
    "classes": Task(CLASSES),
    "numbers and counts": Task(NUMBERS),
    "several numbers, some missing": Task(SEVERAL),
    "several numbers, by categories": Task({**SEVERAL, **CATEGORIES}),
    "classes and counts, frozen": Task({**CLASSES, **COUNTS, "freeze_base": True}),
}
STEPS = {  # samples, batch size, batches of the step; the last batch has what is left
    "equal": (12, 12, 1),
    "uneven": (7, 12, 1),
    "fewer samples than ranks": (2, 12, 1),
    "one sample": (1, 12, 1),
    "equal, accumulated": (36, 12, 3),
    "uneven, accumulated": (25, 12, 3),
    "ranks without any sample, accumulated": (6, 2, 3),
}
STRATEGIES = {
    "DDP": {"distributed": True},
    "FSDP": {"fsdp": True},
    "FSDP, two copies": {"fsdp": True, "fsdp_replicate": 2},
}
LEAST_SHARED = 10
"""ASVs of a rank that others have too, unless it has but one sample."""


@cache
def study_of(folder: Path, source: str | None) -> Study:
    """Read the study with a tree, with a matrix, or with its metadata alone."""
    config = train_config(folder, **NUMBERS)
    if source is not None:
        config = pretrain_config(folder, source, **(RANKS if source == "tree" else {}))
    if isinstance(config, PretrainConfig):
        return load_pretraining_study(config)
    return load_study(config.inputs, config.sampling, needs=("metadata",))


def pretrain_config(folder: Path, source: str, **options: Any) -> PretrainConfig:
    files = {"table": (folder / "table.biom",), source: folder / {"tree": "tree.nwk"}.get(source, "matrix.tsv")}
    if source == "tree":
        files["taxonomy"] = folder / "taxonomy.tsv"
    return PretrainConfig.from_flat({**SMALL, "output_dir": folder / "run", **files, **options})


def train_config(folder: Path, **options: Any) -> TrainConfig:
    files = {"table": (folder / "table.biom",), "metadata": folder / "metadata.tsv"}
    frozen = {"pretrained_encoder": folder / "encoder"} if options.get("freeze_base") else {}
    # the gradient of all that can learn, on samples of which some share ASVs
    whole = {"freeze_base": False, "asv_features": 0, "stratify": False}
    return TrainConfig.from_flat({**SMALL, "output_dir": folder / "run", **files, **frozen, **whole, **options})


def prepare(folder: Path, task: Task, world: World, **strategy: int) -> Run:
    """Prepare a run; its weights do not depend on the strategy, and are as precise as torch's default type."""
    study = study_of(folder, task.source)
    if task.source is not None:
        return prepare_pretraining(study, pretrain_config(folder, task.source, **task.options, **strategy), world)
    run = prepare_training(study, train_config(folder, **task.options, **strategy), world)
    if torch.get_default_dtype() == torch.float64:
        exact_targets(run)
    if run.config.categories.categorical_columns:
        start_later(run)
    return run


def start_later(run: Run) -> None:
    """Give numbers to all that is zero at the start and would keep gradients from the categories' vectors."""
    for name, parameter in run.model.named_parameters():
        if name.startswith(("conditioning.fusion.attention.out_proj", "target_head.category_scaling")):
            drawn = 0.3 * generator(7, "start", name).standard_normal(tuple(parameter.shape))
            fill(parameter, torch.from_numpy(drawn).to(parameter.dtype))


def exact_targets(run: Run) -> None:
    """Give a run in double precision targets that are as precise; its own are float32, and must agree."""
    task = run.objective.task(TargetTask)
    held = task.table
    value, weight = (torch.from_numpy(array) for array in targets(run))
    torch.testing.assert_close(held.value.double(), value.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(held.weight.double(), weight, rtol=1e-6, atol=0)
    value = value.to(held.value.dtype) if held.targets.is_classes else value
    task.table = replace(held, value=value, weight=weight)


def plan_of(run: Run, step: str) -> StepPlan:
    """A step of so many samples in batches of which the last is short, neither the first step nor of the first epoch.

    A sampler would make batches even; a budget of memory does not.
    """
    samples, batch_size, batches = STEPS[step]
    rows = generator(7, "shuffle", 0).permutation(run.material.split.train[:samples])
    micro = tuple(rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    assert len(micro) == batches
    return StepPlan(step=31, epoch=4, closes_epoch=False, micro=micro)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def cutting(task: Task) -> Iterator[None]:
    """Cut pairs into small blocks, if the task says so."""
    before = losses.PAIR_BLOCK, dataset.DENSE_SAMPLES
    losses.PAIR_BLOCK, dataset.DENSE_SAMPLES = (3, 4) if task.blocks else before
    yield
    losses.PAIR_BLOCK, dataset.DENSE_SAMPLES = before


def write_references(folder: Path) -> None:
    """Compute every step in one process by `plain`, and write what it gives to ``references.pt``."""
    alone = World(torch.device("cpu"))
    run = prepare(folder, TASKS["matrix"], alone)
    document = Checkpoint("pretrain", run.config.model_dump(mode="json"), run.documents, run.model.state_dict())
    write_checkpoint(document, folder / "encoder")
    found = {}
    for dtype in TOLERANCE:
        with precision(dtype):
            for name, task in TASKS.items():
                if task.reference is None:
                    run = prepare(folder, task, alone)
                    found |= {(str(dtype), name, step): tuple(reference(run, plan_of(run, step))) for step in STEPS}
    torch.save(found, folder / "references.pt")


def gradient(model: nn.Module) -> Tensor:
    """Take the gradient as one vector, gathered from all ranks where it is sharded among them, and clear it."""
    parts = []
    for parameter in model.parameters():
        part = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parts.append((part.full_tensor() if isinstance(part, DTensor) else part).detach().flatten().clone())
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def backward(run: Run, step: StepBatch) -> tuple[dict[str, float], Tensor]:
    """Losses of a step, summed over ranks as they are logged, and its gradient."""
    own = run.objective.backward(step, lambda loss: loss)
    total = run.world.sum(torch.stack([part.double() for part in own.values()])).tolist()
    return dict(zip(own, total, strict=True)), gradient(run.model)


class Case(NamedTuple):
    """A task with a strategy, in a precision; each is prepared once and makes every step of `STEPS`."""

    task: str
    strategy: str
    dtype: torch.dtype

    def steps(self, folder: Path, world: World, references: dict[tuple[str, ...], Any]) -> Iterator[dict[str, Any]]:
        """Compare every step."""
        task = TASKS[self.task]
        with precision(self.dtype):
            run = prepare(folder, task, world, **STRATEGIES[self.strategy])
            for name in STEPS:
                expected = Reference(*references[str(self.dtype), task.reference or self.task, name])
                with cutting(task):
                    found = self._compare(run, plan_of(run, name), expected)
                yield {"task": self.task, "strategy": self.strategy, "dtype": str(self.dtype), "step": name} | found

    def _compare(self, run: Run, plan: StepPlan, expected: Reference) -> dict[str, Any]:
        """Differences from the reference, as shares of it."""
        step = run.dataset[plan]
        check_shares(run, step)
        values, pull = backward(run, step)
        wanted = torch.cat([expected.gradient[name].flatten() for name, _ in run.model.named_parameters()])
        assert values.keys() == expected.losses.keys(), (values, expected.losses)
        wrong = mutated(run, step) if self.strategy == "DDP" and self.dtype == torch.float64 else ()
        return {
            "gradient": float((pull - wanted).norm() / wanted.norm()),
            "parameter": worst_parameter(run.model, pull, wanted),
            "loss": max(relative(values[name], loss) for name, loss in expected.losses.items()),
            "size": float(wanted.norm()),
            "mutations": {name: float((other - wanted).norm() / wanted.norm()) for name, other in wrong},
        }


def relative(value: float, expected: float) -> float:
    return abs(value - expected) / max(abs(expected), 1e-12)


def worst_parameter(model: nn.Module, pull: Tensor, wanted: Tensor) -> float:
    """Largest difference of a parameter's gradient, relative to it, or to a thousandth of all where that is more."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    parts = zip(pull.split(sizes), wanted.split(sizes), strict=True)
    return max(float((one - other).norm() / max(other.norm(), 1e-3 * wanted.norm())) for one, other in parts)


def check_shares(run: Run, step: StepBatch) -> None:
    """See that ranks have different samples, all of them, evenly, and that their samples share ASVs."""
    own = [row for batch in step.micro for row in batch.sample[batch.real].tolist()]
    asvs = {asv for batch in step.micro if not batch.is_padding for asv in batch.asv.tolist()}
    found: list[Any] = [None] * run.world.size
    dist.all_gather_object(found, (own, asvs))
    rows = [row for of_rank, _ in found for row in of_rank]
    sizes = [len(of_rank) for of_rank, _ in found]
    assert sorted(rows) == sorted(step.plan.samples.tolist())
    assert tuple(sizes) == step.sizes
    assert rows == step.samples.tolist()
    assert max(sizes) - min(sizes) <= len(step.micro)
    assert [batch.is_padding for batch in step.micro] == [len(part) <= run.world.rank for part in step.plan.micro]
    others = {asv for rank, (_, of_rank) in enumerate(found) for asv in of_rank if rank != run.world.rank}
    assert len(own) < 2 or run.world.size == 1 or len(asvs & others) > LEAST_SHARED


class Deaf(ProcessGroup):
    """Ranks that take their own totals for those of all: the loss is the mean of the means of the ranks."""

    def sum(self, tensor: Tensor) -> Tensor:
        return self.size * tensor.detach()


def own_pairs(
    world: World, own: Tensor, everyone: Tensor, start: int, distance: Any, true: Callable[[slice, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """In place of `pairwise_gradient`: every rank compares its own samples alone, as without a gather."""
    value, pull = losses.pairwise_gradient(
        own, own, 0, distance, lambda rows, columns: true(rows, slice(start + columns.start, start + columns.stop))
    )
    return value / world.size, pull / world.size


def mutated(run: Run, step: StepBatch) -> Iterator[tuple[str, Tensor]]:
    """Gradients that must differ where there are several ranks: those of wrong ways to share a step."""
    right = run.objective.parallel
    if run.world.size == 1:
        return
    if run.kind == "pretrain" and min(step.sizes) > 1:
        task = run.objective.task(UnifracTask)
        task.pair_gradient = partial(own_pairs, run.world)
        yield "own pairs", backward(run, step)[1]
        task.pair_gradient = losses.pairwise_gradient
    if run.kind == "train" and len(set(step.sizes)) > 1 and min(step.sizes) > 0:
        deaf = Deaf(right.world.device, right.world.rank, right.world.size)
        run.objective.parallel = replace(right, compute=replace(right.compute, world=deaf))
        yield "means of ranks", backward(run, step)[1]
        run.objective.parallel = right


def cases(ranks: int) -> Iterator[Case]:
    """The whole grid; variants of a task, and of a strategy, in double precision alone."""
    for dtype, strategy, name in product(TOLERANCE, STRATEGIES, TASKS):
        copies = STRATEGIES[strategy].get("fsdp_replicate", 1)
        variant = copies > 1 or TASKS[name].reference is not None
        if ranks % copies == 0 and not (variant and dtype == torch.float32) and not (copies > 1 and name != "tree"):
            yield Case(name, strategy, dtype)


def main() -> None:
    """Write the references, or compare with them."""
    folder, is_reference = Path(sys.argv[1]), sys.argv[2:] == ["reference"]
    torch.use_deterministic_algorithms(True)
    if is_reference:
        write_references(folder)
        return
    references = torch.load(folder / "references.pt", weights_only=True)
    with setup_distributed("cpu", DistributedConfig(distributed=True)) as world:
        results = [found for case in cases(world.size) for found in case.steps(folder, world, references)]
        if world.is_main:
            (folder / f"report-{world.size}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

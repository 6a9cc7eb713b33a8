"""Every strategy with everything else that a run can ask for, against one plain process; all in one launch.

    torchrun --nproc-per-node W compositions.py FOLDER         # writes FOLDER/compositions-W.json

FOLDER holds the files of a simulated study (`aam simulate`). With 4 ranks the model is sharded twice over, and never
whole; with 2 and 3 they apply models to samples that do not divide among them.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sharded_models
import torch
from together import ALONE, COMPILER, WEIGHTS, Result, gradient, prepare, relative, weights
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from aam.config import DistributedConfig
from aam.data.sampling.dataset import StepBatch, StepPlan
from aam.data.sampling.packing import Cutting, MemoryBudget
from aam.models.transformer import Block, compile_blocks
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, write_checkpoint
from aam.training.distributed import World, setup_distributed
from aam.training.memory.budget import LOWERED, predicted_cost
from aam.training.memory.meters import Watch
from aam.training.optim import make_optimizer
from aam.workflows.fit import Run

Options = Mapping[str, Any]

EXACT = ("gradient_checkpointing", "num_workers", "asv_chunk_size")
"""Options that change how a step is computed, and not what: the plain process goes without them."""
EQUAL = {torch.float64: 1e-10, torch.float32: 1e-5}
GRAPHS = 8
"""Graphs of a block that a run without dropout may need: with and without gradients, padding, and a single row."""
WHOLE, UNEVEN = (12,), (8, 1)
"""Samples in the batches of a step; of a batch of one sample, some ranks have none."""

DDP: Options = {"distributed": True}
FSDP: Options = {"fsdp": True}
OFFLOADED: Options = {**FSDP, "fsdp_cpu_offload": True}
MIXED: Options = {**FSDP, "fsdp_mixed_precision": True}
STRATEGIES = {"ddp": DDP, "fsdp": FSDP}
CHECKPOINTING: Options = {"gradient_checkpointing": True, "asv_chunk_size": 7}
BF16: Options = {"mixed_precision": "bf16"}
INDUCED: Options = {"sample_attention": "induced", "induced_points": 4}
DROPOUT: Options = {"nucleotide_dropout": 0.2, "sample_dropout": 0.2}


@dataclass(frozen=True)
class Case:
    """A step of a strategy with some options, and the process alone that it is held against."""

    name: str
    strategy: Options
    options: Options = field(default_factory=dict)
    task: str = "pretrain"
    batches: tuple[int, ...] = WHOLE
    dtype: torch.dtype = torch.float64
    backend: str | None = None
    """Compile the blocks with this backend of torch.compile."""
    twin: Options | None = None
    """Strategy of the run it is held against; None for a process alone."""
    share: float | None = None
    """Of the memory of a step in one batch, what a process may take; the process alone may take all."""

    @property
    def in_half(self) -> bool:
        return "mixed_precision" in self.options or "fsdp_mixed_precision" in self.strategy


def cases_of_two() -> Iterator[Case]:
    """What runs on two ranks."""
    every = {**STRATEGIES, "fsdp offloaded": OFFLOADED, "fsdp replicated": {**FSDP, "fsdp_replicate": 2}}
    for name, strategy in every.items():
        yield from exact_cases(name, strategy)
    for name, strategy in STRATEGIES.items():
        yield from more_cases(name, strategy)
    for name, strategy in STRATEGIES.items():
        yield Case(f"{name}, a budget of memory", strategy, share=0.2)
    for name, strategy in {"mixed": MIXED, "mixed, offloaded": {**MIXED, **OFFLOADED}}.items():
        for more in ({}, CHECKPOINTING, BF16):
            yield Case(f"fsdp {name} {sorted(more)}", strategy, more, dtype=torch.float32)
        for task in ("train", "frozen"):
            yield Case(f"fsdp {name}, {task}", strategy, task=task, dtype=torch.float32)
    yield from compiled_cases()


def cases_of_four() -> Iterator[Case]:
    """What runs on four ranks: two copies of a model in two parts."""
    replicated = {**FSDP, "fsdp_replicate": 2}
    yield from exact_cases("replicated", replicated)
    yield Case("replicated, mixed", {**replicated, **MIXED}, dtype=torch.float32)
    yield Case("replicated, bf16", replicated, BF16, dtype=torch.float32)
    yield Case("replicated, offloaded", {**replicated, **OFFLOADED}, batches=UNEVEN)


def exact_cases(name: str, strategy: Options) -> Iterator[Case]:
    """What must be as exact as double precision is, with any strategy."""
    yield Case(f"{name}, plain", strategy)
    yield Case(f"{name}, checkpointing", strategy, CHECKPOINTING)
    yield Case(f"{name}, induced", strategy, INDUCED, batches=UNEVEN)
    yield Case(f"{name}, a worker", strategy, {"num_workers": 1})
    yield Case(f"{name}, accumulated", strategy, batches=UNEVEN)
    yield Case(f"{name}, train", strategy, task="train")
    yield Case(f"{name}, frozen", strategy, task="frozen", batches=UNEVEN)


def more_cases(name: str, strategy: Options) -> Iterator[Case]:
    """Single precision, half precision, single losses, and dropout."""
    yield Case(f"{name}, float32", strategy, dtype=torch.float32)
    for more in ({}, CHECKPOINTING):
        yield Case(f"{name}, bf16 {sorted(more)}", strategy, {**BF16, **more}, dtype=torch.float32)
    yield Case(f"{name}, train, bf16", strategy, BF16, "train", dtype=torch.float32)
    for loss in WEIGHTS:
        others = {other: 0.0 for other in WEIGHTS if other != loss}
        yield Case(f"{name}, {loss} alone", strategy, others)
    yield Case(f"{name}, dropout", strategy, DROPOUT, twin=DDP)
    # in one chunk: the order of the draws is that of the chunks
    recomputed = {**DROPOUT, "gradient_checkpointing": True}
    yield Case(f"{name}, dropout, checkpointing", strategy, recomputed, twin=DDP)


def compiled_cases() -> Iterator[Case]:
    """Compiled blocks, besides `Matrix.shapes`; all but one without C++, whose compiler takes most of the time."""
    yield Case("fsdp, compiled by inductor, checkpointing", FSDP, CHECKPOINTING, backend="inductor")
    yield Case("fsdp offloaded, train, compiled, checkpointing", OFFLOADED, CHECKPOINTING, "train", backend="aot_eager")
    yield Case("ddp, compiled, checkpointing, accumulated", DDP, CHECKPOINTING, batches=UNEVEN, backend="aot_eager")
    yield Case("ddp, frozen, compiled", DDP, task="frozen", backend="aot_eager")


@dataclass(frozen=True, eq=False)
class Taken:
    """One step of the optimizer, in whole numbers on every rank."""

    gradient: Tensor
    norm: float
    weights: Tensor


def plan_of(run: Run, batches: tuple[int, ...]) -> StepPlan:
    """A step of batches of these sizes, neither the first nor in the first epoch."""
    rows = torch.from_numpy(run.material.split.train[: sum(batches)]).split(batches)
    return StepPlan(31, 4, False, tuple(part.numpy() for part in rows))


def load(run: Run, plan: StepPlan) -> StepBatch:
    loader = DataLoader(run.dataset, sampler=[plan], batch_size=None, num_workers=run.config.runtime.num_workers or 0)
    return next(iter(loader))


def within(run: Run, case: Case) -> Run:
    """Give a run a budget of memory that cuts the step of a case into several batches on each rank."""
    assert case.share is not None
    cost = predicted_cost(run.config.model, run.config.masking)
    plan = plan_of(run, case.batches)
    asvs = run.dataset.read(plan.samples, plan.epoch)
    limit = case.share * cost.of_batch(len(np.unique(np.concatenate(asvs))), [len(each) for each in asvs])
    run = replace(run, dataset=replace(run.dataset, cutting=Cutting(MemoryBudget(limit, cost))))
    assert len(run.dataset[plan].micro) > 1
    return run


def take_step(run: Run, batches: tuple[int, ...]) -> Taken:
    """Make a step as `Trainer.train_step` does, and look at it on the way."""
    optimizer = make_optimizer(run.model, run.config.optim)
    run.objective.backward(load(run, plan_of(run, batches)), lambda loss: loss)
    pull = gradient(run.model)
    norm = clip_grad_norm_(run.model.parameters(), run.config.optim.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Taken(pull, float(norm.full_tensor() if isinstance(norm, DTensor) else norm), weights(run.model))


@contextmanager
def compiling(model: nn.Module, backend: str | None) -> Iterator[None]:
    """Compile as `--compile-model` does, with another backend if that is asked for."""
    if backend is None:
        yield
        return
    torch.compiler.reset()
    counters.clear()
    plain = torch.compile
    if backend != "inductor":  # whose options no other backend has
        torch.compile = lambda function, dynamic, **_: plain(function, dynamic=dynamic, backend=backend)
    compile_blocks(model)
    torch.compile = plain
    yield


def halved(model: nn.Module) -> None:
    """Compute the blocks in bf16, their inputs and weights rounded to it: what FSDP's mixed precision says it does."""
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.forward = partial(_forward_in_half, block)


def _forward_in_half(block: Block, x: Tensor, attend: Tensor | None) -> Tensor:
    inner = block.__dict__.pop("forward")
    rounded = {name: weight.bfloat16() for name, weight in block.named_parameters()}
    output = functional_call(block, rounded, (x.bfloat16(), attend)).float()
    block.forward = inner
    return output


class Matrix:
    """The cases, and the processes alone that they are held against, each computed once.

    Args:
        folder: the study, and the encoder to fine-tune.
        world: the ranks.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self._known: dict[str, Taken] = {}

    def run_of(self, case: Case, world: World, **options: Any) -> Run:
        if case.in_half and case.task != "pretrain":
            # the mean and deviation of samples are taken before the blocks of the process alone are rounded
            options["standardize_samples"] = False
        return prepare(self.folder, case.task, world, case.dtype, **options)

    def _alone(self, case: Case, half: bool, **options: Any) -> Taken:
        """The step of one process."""
        key = repr((case.task, case.batches, case.dtype, half, sorted(options.items())))
        if key not in self._known:
            run = self.run_of(case, ALONE, **options)
            if half:
                halved(run.model)
            self._known[key] = take_step(run, case.batches)
        return self._known[key]

    def expected(self, case: Case) -> Taken:
        """What a case is held against."""
        options = {name: value for name, value in case.options.items() if name not in EXACT}
        if case.twin is not None:
            return take_step(self.run_of(case, self.world, **options, **case.twin), case.batches)
        return self._alone(case, "fsdp_mixed_precision" in case.strategy, **options)

    def rounding(self, case: Case) -> float:
        """What half precision changes in one process: how far apart two ways of rounding may lie."""
        rounded = self.expected(case)
        options = {name: value for name, value in case.options.items() if name not in BF16}
        exact = self.expected(replace(case, strategy={}, options=options))
        return relative(rounded.gradient, exact.gradient)

    def compare(self, case: Case) -> Iterator[Result]:
        """Take the step of a case, and tell how far it is from what it should be."""
        expected = self.expected(case)
        run = self.run_of(case, self.world, **case.strategy, **case.options)
        if case.share is not None:
            run = within(run, case)
        with compiling(run.model, case.backend):
            taken = take_step(run, case.batches)
        bound = self.rounding(case) if case.in_half else EQUAL[case.dtype]
        assert expected.gradient.norm() > 1e-3
        yield Result("gradient", case.name, relative(taken.gradient, expected.gradient), bound)
        yield Result("norm", case.name, abs(taken.norm / expected.norm - 1), bound)
        if case.dtype == torch.float64:
            yield Result("weights", case.name, relative(taken.weights, expected.weights), 1e-9)
        if case.backend is not None:
            yield Result("graphs", case.name, counters["stats"]["unique_graphs"], GRAPHS)
            yield Result("broken graphs", case.name, len(counters["graph_break"]), 0)

    def shapes(self, name: str, strategy: Options) -> Iterator[Result]:
        """Batches of many shapes, validation between them: few graphs, none of them new the second time."""
        case = Case(f"{name}, shapes", strategy, CHECKPOINTING, backend="aot_eager")
        run, plain = (
            self.run_of(case, world, **options)
            for world, options in ((self.world, {**strategy, **CHECKPOINTING}), (ALONE, {}))
        )
        seen, worst = [], 0.0
        with compiling(run.model, case.backend):
            for batches in 2 * ((12,), (9,), (8, 1), (2,), (1,), (5, 5, 3), (20,)):
                pulls = []
                for each in (run, plain):
                    each.objective.backward(load(each, plan_of(each, batches)), lambda loss: loss)
                    pulls.append(gradient(each.model))
                    each.model.zero_grad(set_to_none=True)
                worst = max(worst, relative(*pulls))
                run.objective.validate()
                seen.append(counters["stats"]["unique_graphs"])
        yield Result("gradient", case.name, worst, EQUAL[case.dtype])
        yield Result("graphs", case.name, seen[-1], GRAPHS)
        yield Result("graphs of known shapes", case.name, seen[-1] - seen[len(seen) // 2 - 1], 0)


class Greedy:
    """A meter of a process that takes too much, or nothing, in its first step."""

    def __init__(self, peak: float) -> None:
        self.taken = peak

    def start(self) -> None:
        pass

    def peak(self) -> float:
        return self.taken

    def forget(self) -> None:
        self.taken = 0.0


def watched(folder: Path, world: World) -> Iterator[Result]:
    """One rank takes more memory than it may, once: all cut the steps that follow into smaller batches."""
    run = prepare(folder, "pretrain", world, torch.float32, **DDP, epochs=1, output_dir=folder / "watched")
    cost = predicted_cost(run.config.model, run.config.masking)
    trainer = run.trainer(CheckpointStore(folder / "watched" / "checkpoints"))
    memory = trainer.memory
    memory.dataset = replace(run.dataset, cutting=Cutting(MemoryBudget(0.95, cost, 1.0)))
    memory.begin = lambda _: setattr(memory, "watch", Watch(Greedy(2.0 if world.rank == 1 else 0.0), 1.0))
    trainer.fit()
    yield Result("limit", "watched", abs(memory.budget.limit / 0.95 - LOWERED), 1e-12)


def write_encoder(folder: Path, world: World) -> None:
    """Write the encoder that a frozen run begins from."""
    if world.is_main:
        run = prepare(folder, "pretrain", ALONE, torch.float32)
        config = run.config.model_dump(mode="json")
        write_checkpoint(Checkpoint("pretrain", config, run.documents, run.model.state_dict()), folder / "encoder")
    world.barrier()


def results_of(folder: Path, world: World) -> Iterator[Result]:
    """All that is asked of this number of ranks."""
    matrix = Matrix(folder, world)
    cases: Mapping[int, Callable[[], Iterator[Case]]] = {2: cases_of_two, 4: cases_of_four}
    if world.size in cases:
        for case in cases[world.size]():
            if case.backend != "inductor" or COMPILER:
                yield from matrix.compare(case)
    if world.size == 2:
        yield from matrix.shapes("fsdp", FSDP)
        yield from watched(folder, world)
        yield from sharded_models.levels(folder, world)
    if world.size == 4:
        yield from sharded_models.allocated(folder, world)
    else:
        yield from sharded_models.applied(folder, world)


def main() -> None:
    """Compute all results, the worst of any rank, and write them."""
    folder = Path(sys.argv[1])
    with setup_distributed("cpu", DistributedConfig(distributed=True)) as world:
        write_encoder(folder, world)
        results = list(results_of(folder, world))
        own = torch.tensor([result.error for result in results], dtype=torch.float64)
        worst = world.gather(own[None], [1] * world.size).amax(0).tolist()
        if world.is_main:
            lines = [result._replace(error=error)._asdict() for result, error in zip(results, worst, strict=True)]
            (folder / f"compositions-{world.size}.json").write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()

"""`--compile-model`: batches of every shape share a few graphs."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from aam.data.sampling.dataset import StepPlan
from aam.models.transformer import compile_blocks
from aam.workflows.fit import Run
from aam.workflows.pretrain import prepare_pretraining

pytestmark = pytest.mark.slow
GRAPHS = 8
"""A block with and without gradients, with and without padding, of one row and of more."""
SHAPES = ((12,), (9,), (8, 1), (2,), (1,), (5, 5, 3), (20,), (7, 4))
"""Samples in the batches of each step."""


@pytest.fixture
def compiler(monkeypatch):
    """Trace and differentiate as for the real compiler, and run what was traced without C++."""
    torch.compiler.reset()
    counters.clear()
    plain = torch.compile
    traced = lambda function, dynamic, options: plain(function, dynamic=dynamic, backend="aot_eager")  # noqa: E731
    monkeypatch.setattr(torch, "compile", traced)
    yield counters
    torch.compiler.reset()
    counters.clear()


def gradient(run: Run, sizes: tuple[int, ...]) -> list[Tensor]:
    """Gradient of a step of batches of these sizes."""
    rows = torch.from_numpy(run.material.split.train[: sum(sizes)]).split(sizes)
    step = run.dataset[StepPlan(3, 0, False, tuple(part.numpy() for part in rows))]
    run.objective.backward(step, lambda loss: loss)
    found = [weight.grad for weight in run.model.parameters() if weight.grad is not None]
    run.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True, "asv_chunk_size": 7}, {"sample_attention": "induced"}]
)
@pytest.mark.filterwarnings("ignore")
def test_batches_of_many_shapes_share_a_few_graphs(study, make_pretrain_config, compiler, options):
    prepare = partial(prepare_pretraining, study)
    plain, run = (prepare(make_pretrain_config(rarefy_depth=None, **options)) for _ in range(2))
    for each in (plain, run):
        each.model.double()
    compile_blocks(run.model)
    graphs = []
    for sizes in 2 * SHAPES:
        torch.testing.assert_close(gradient(run, sizes), gradient(plain, sizes), rtol=1e-9, atol=1e-12)
        run.objective.validate()
        graphs.append(compiler["stats"]["unique_graphs"])
    assert 0 < graphs[-1] <= GRAPHS
    assert graphs[-1] == graphs[len(SHAPES) - 1]  # no shape is compiled again
    assert not compiler["graph_break"]

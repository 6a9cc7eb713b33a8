"""How a step calls the model with each strategy in one process, and what is refused before it could go wrong.

What several processes compute is in `tests/distributed`.
"""

import shutil
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
import torch._inductor.config
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from aam.config import (
    CategoricalFusion,
    CategoryConfig,
    DistributedConfig,
    ModelConfig,
    PretrainConfig,
    TargetConfig,
    TrainConfig,
)
from aam.data.sampling.samples import Samples
from aam.errors import InputError
from aam.models.heads import TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.transformer import Block, compile_blocks
from aam.models.types import CategorySpec
from aam.training.distributed import World, setup_distributed
from aam.training.distributed.strategies import check_compiler, give_weights, parallelize
from aam.training.machine.compute import Compute, seeded
from aam.workflows.pretrain import pretrain
from aam.workflows.train import train

CPU = torch.device("cpu")
SHAPE = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "max_bp": 12}
STRATEGIES = {
    "none": DistributedConfig(),
    "ddp": DistributedConfig(distributed=True),
    "fsdp": DistributedConfig(fsdp=True),
    "offload": DistributedConfig(fsdp=True, fsdp_cpu_offload=True),
    "mixed": DistributedConfig(fsdp=True, fsdp_mixed_precision=True),
}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")


@pytest.fixture(autouse=True)
def _alone(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    yield
    assert not dist.is_initialized()


def hollow_predictor(fusion: str | None = None, count_weight: float = 1.0) -> SequencePredictor:
    target = TargetConfig(metadata_column="x", count_weight=count_weight)
    given = {"categorical_columns": "a,b", "categorical_fusion": fusion, "categorical_hierarchy": "a=c"}
    categories = None if fusion is None else CategoryConfig.model_validate(given | {"hierarchy_combine": "gated"})
    spec = None if fusion is None else CategorySpec(sizes=(5, 4, 4), parents=(2, None, None), fused=2)
    with torch.device("meta"):
        encoder = SequenceEncoder(ModelConfig.model_validate(SHAPE))
        return SequencePredictor(encoder, TargetSpec((2,), ((),), (0.0,)), target, categories, spec)


def two_samples(asvs: Tensor, categories: Tensor | None = None) -> Samples:
    """Samples of two ASVs, one of which the second lacks; an abundance is masked."""
    counts = torch.tensor([[3, 4], [5, 0]])
    return Samples(
        asvs,
        torch.tensor([[0, 1], [1, 0]]),
        counts,
        counts.sum(1),
        counts == 0,
        masked_abundances=counts > 3,
        categories=categories,
    )


def values(model: nn.Module) -> dict[str, Tensor]:
    whole = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.state_dict().items()}
    return {name: value.detach().clone() for name, value in whole.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_first_weights_and_what_is_frozen_do_not_depend_on_the_strategy(name: str):
    plain, model = hollow_predictor(), hollow_predictor()
    give_weights(plain, STRATEGIES["none"], Compute(World(CPU)), 5)
    with setup_distributed("cpu", STRATEGIES[name]) as world:
        model.freeze()
        give_weights(model, STRATEGIES[name], Compute(world), 5)
        assert [p.requires_grad for p in model.encoder.parameters()] == [False] * len(list(plain.encoder.parameters()))
        assert isinstance(model.encoder.scale.log_tau, DTensor) == STRATEGIES[name].fsdp
        found, expected = values(model), values(plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_calls_the_whole_model_on_nucleotides_and_on_embedded_asvs(name: str, embedded: bool):
    model = hollow_predictor()
    if embedded:
        model.freeze()
    with setup_distributed("cpu", STRATEGIES[name]) as world:
        give_weights(model, STRATEGIES[name], Compute(world), 5)
        parallel = parallelize(model, STRATEGIES[name], Compute(world))
        assert parallel.world is world
        if name == "ddp":
            assert isinstance(parallel.call, DistributedDataParallel)
            assert parallel.call.module is model
            with parallel.no_sync():
                assert not parallel.call.require_backward_grad_sync
        else:
            assert parallel.call is model
        tokens = torch.randint(1, 5, (2, 12), dtype=torch.uint8)
        asvs = model.embed_asvs(tokens) if embedded else tokens
        output = parallel.call(two_samples(asvs))
    assert output.prediction.shape == (2, 2)
    assert output.abundances.shape == (2, 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_may_begin_from_embedded_samples(name: str):
    plain, model = (hollow_predictor(count_weight=0.0) for _ in range(2))
    for each in (plain, model):
        each.freeze()
    give_weights(plain, STRATEGIES["none"], Compute(World(CPU)), 5)
    samples = Samples.of_pooled(torch.randn(3, plain.encoder.config.embedding_dim))
    expected = plain(samples)
    expected.prediction.square().sum().backward()
    with setup_distributed("cpu", STRATEGIES[name]) as world:
        give_weights(model, STRATEGIES[name], Compute(world), 5)
        output = parallelize(model, STRATEGIES[name], Compute(world)).call(samples)
        torch.testing.assert_close(output.prediction, expected.prediction)
        output.prediction.square().sum().backward()
        for key, parameter in model.target_head.named_parameters():
            gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
            torch.testing.assert_close(gradient, plain.target_head.get_parameter(key).grad)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("fusion", get_args(CategoricalFusion))
@pytest.mark.parametrize("name", STRATEGIES)
def test_categories_go_with_every_strategy(name: str, fusion: str, embedded: bool):
    plain, model = hollow_predictor(fusion), hollow_predictor(fusion)
    for each in (plain, model):
        if embedded:
            each.freeze()
    give_weights(plain, DistributedConfig(), Compute(World(CPU)), 5)
    samples = two_samples(torch.randint(1, 5, (2, 12), dtype=torch.uint8), torch.tensor([[2, 3, 2], [1, 2, 3]]))
    if embedded:
        samples = samples._replace(asvs=plain.embed_asvs(samples.asvs).detach())
    expected = plain(samples)
    (expected.prediction.square().sum() + expected.abundances.square().sum()).backward()
    gradients = {key: p.grad for key, p in plain.named_parameters() if p.requires_grad}
    # of the blocks in bfloat16
    close = {"rtol": 0.1, "atol": 0.1} if name == "mixed" else {"rtol": 1e-4, "atol": 1e-5}
    with setup_distributed("cpu", STRATEGIES[name]) as world:
        give_weights(model, STRATEGIES[name], Compute(world), 5)
        parallel = parallelize(model, STRATEGIES[name], Compute(world))
        output = parallel.call(samples)
        torch.testing.assert_close(output.prediction, expected.prediction, **close)
        (output.prediction.square().sum() + output.abundances.square().sum()).backward()
        found = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
        whole = {key: grad.full_tensor() if isinstance(grad, DTensor) else grad for key, grad in found.items()}
        if fusion == "cross_attention":
            weights = model.category_attention(samples)
            torch.testing.assert_close(weights.sum(-1), (~samples.padding)[:, None].expand(-1, 4, -1).float())
    assert whole.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(whole[key], gradient, **close, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("more", [{}, {"fsdp_cpu_offload": True}, {"fsdp_mixed_precision": True}])
def test_divided_weights_in_fp16_are_refused(more: dict[str, bool]):
    model = hollow_predictor()
    with pytest.raises(InputError, match=r"--fsdp with --mixed-precision fp16: .*use --mixed-precision bf16"):
        give_weights(model, DistributedConfig(fsdp=True, **more), Compute(World(CPU), torch.float16), 0)
    assert all(parameter.is_meta for parameter in model.parameters()), "refused before anything is made"


REFUSED = [
    ({"mixed_precision": "fp16"}, 1, "--mixed-precision fp16 needs a GPU; on a CPU use bf16"),
    ({"mixed_precision": "fp16", "distributed": True}, 1, "--mixed-precision fp16 needs a GPU"),
    ({"mixed_precision": "fp16", "fsdp": True}, 1, "--mixed-precision fp16 needs a GPU"),
    ({"attn_implementation": "mem_efficient", "fsdp": True}, 1, "mem_efficient needs a GPU; on a CPU give sdpa"),
    ({"data_parallel": True}, 1, "leave the option out, or start several processes"),
    ({"data_parallel": True}, 2, r"a launcher started 2 \(WORLD_SIZE\): start one, or use --distributed"),
    ({"fsdp": True, "fsdp_replicate": 2}, 1, "--fsdp-replicate 2 does not divide the 1 processes"),
    ({"fsdp": True, "fsdp_replicate": 2}, 3, "--fsdp-replicate 2 does not divide the 3 processes"),
    ({}, 3, r"3 processes were started .*give --distributed or --fsdp, or start one"),
]


@pytest.fixture
def run_of(study_folder, make_pretrain_config, make_train_config) -> Callable[..., None]:
    """Pretrain or train on the files of the study."""
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}

    def run(task: str, **options: object) -> None:
        if task == "pretrain":
            config: PretrainConfig | TrainConfig
            config = make_pretrain_config(table=files["table"], tree=study_folder / "tree.nwk", **options)
            pretrain(config)
        else:
            train(make_train_config(**files, **options))

    return run


@pytest.mark.parametrize("task", ["pretrain", "train"])
@pytest.mark.parametrize(("options", "processes", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(
    run_of, tmp_path, monkeypatch, task: str, options: dict[str, object], processes: int, message: str
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(InputError, match=message):
        run_of(task, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_missing_compiler_is_told_before_training(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    without = {"cpp.cxx": (None, "/nowhere/g++")}
    with (
        torch._inductor.config.patch(without),
        pytest.raises(InputError, match=r"--compile-model: .*C\+\+ compiler found.*: leave the option out, or install"),
    ):
        check_compiler(CPU)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_works_is_not_complained_about():
    torch.compiler.reset()
    check_compiler(CPU)


def random_rows(rows: int, positions: int) -> Tensor:
    return torch.randn(rows, positions, 8, generator=torch.Generator().manual_seed(rows))


def transform(block: Block, rows: int, positions: int, padded: bool, graph: bool) -> Tensor:
    """Run a block on rows, with the same dropout each time."""
    attend = torch.ones(rows, 1, 1, positions, dtype=torch.bool) if padded else None
    with seeded(5), torch.set_grad_enabled(graph):
        return block(random_rows(rows, positions).requires_grad_(), attend)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_drop_out_the_same():
    """An accumulated step runs twice, and compiled and plain passes may meet in it, as where PyTorch compiles no more.

    The gradient would then belong to another loss than the one that is compared.
    """
    torch.compiler.reset()
    block = Block(ModelConfig.model_validate(SHAPE), 0.3)
    plain = transform(block, 7, 5, False, True)
    compile_blocks(block)
    assert torch.allclose(transform(block, 7, 5, False, True), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_batch_is_compiled(monkeypatch):
    """Beyond a number of graphs that an ordinary run reaches, PyTorch goes on uncompiled, with a line in the log."""
    torch.compiler.reset()
    counters.clear()
    compiler = torch.compile
    # without C++: which graphs there are is the same
    monkeypatch.setattr(torch, "compile", lambda f, dynamic, **_: compiler(f, dynamic=dynamic, backend="aot_eager"))
    block = Block(ModelConfig.model_validate(SHAPE), 0.3)
    compile_blocks(block)
    kinds = [(rows, padded, kind) for rows in (7, 1) for padded in (False, True) for kind in ("step", "cache", "held")]
    for rows, padded, kind in kinds:
        block.train(kind != "held")
        transform(block, rows, 5, padded, kind == "step")
    assert counters["stats"]["unique_graphs"] == len(kinds)

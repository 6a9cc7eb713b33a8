import shutil
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import replicate

from aam.config import CategoricalFusion, CategoryConfig, ModelConfig, TargetConfig
from aam.errors import InputError
from aam.models.heads import TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import EmbeddedPredictor, SequencePredictor
from aam.models.transformer import compile_blocks
from aam.models.types import CategorySpec, EncoderOutput, PredictorOutput
from aam.training import data_parallel as module
from aam.training.compute import seeded
from aam.training.data_parallel import (
    SampleParallel,
    check_data_parallel,
    gather_encoder,
    in_precision_of_caller,
    scatter_batch,
)
from aam.training.hardware import Build

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
CLOSE = 1e-12


class Batch(NamedTuple):
    tokens: Tensor
    slot: Tensor
    count: Tensor
    depth: Tensor
    mask: Tensor
    hidden_count: Tensor


def draw_batch(seed: int, samples: int = 7, unique: int = 12, longest: int = 14) -> Batch:
    """Samples that share ASVs, each ASV in one at least; shorter samples and ASVs are padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 6, (unique, longest), generator=generator, dtype=torch.uint8)
    length = torch.randint(5, longest + 1, (unique, 1), generator=generator)
    tokens = tokens.masked_fill(torch.arange(longest) >= length, 0)
    held = torch.rand(samples, unique, generator=generator) < 0.3
    held[torch.randint(samples, (unique,), generator=generator), torch.arange(unique)] = True
    held[torch.arange(samples), torch.randint(unique, (samples,), generator=generator)] = True
    size = held.sum(1)
    slot = held.to(torch.int8).argsort(dim=1, descending=True)[:, : int(size.max())]
    absent = torch.arange(slot.shape[1]) >= size[:, None]
    count = torch.randint(1, 500, slot.shape, generator=generator).masked_fill(absent, 0)
    mask = (torch.rand(tokens.shape, generator=generator) < 0.3) & (tokens != 0)
    mask[::3] = False
    hidden = (torch.rand(slot.shape, generator=generator) < 0.3) & ~absent
    return Batch(tokens, slot, count, count.sum(1) + 9, mask, hidden)


def build_encoder(**options: object) -> SequenceEncoder:
    torch.manual_seed(0)
    shape = {"embedding_dim": 16, "attention_heads": 2, "attention_layers": 2, "max_bp": 14, "nucleotide_patch": 4}
    config = ModelConfig.model_validate(shape | {"asv_chunk_size": 5} | options)
    return SequenceEncoder(config, faith_pd=True, taxonomy={"phylum": 3, "class": 5}).double()


TARGET = TargetConfig(metadata_column="x", count_weight=1.0)
COLUMNS = CategorySpec(sizes=(5, 4, 4), parents=(2, None, None), fused=2)
FUSIONS = get_args(CategoricalFusion)


def draw_categories(seed: int, samples: int) -> Tensor:
    return torch.randint(4, (samples, 3), generator=torch.Generator().manual_seed(seed))


def build_predictor(fusion: str | None = None) -> SequencePredictor:
    encoder = build_encoder()
    if fusion is None:
        return SequencePredictor(encoder, TargetSpec((3,), ((),), (0.0,)), TARGET).double()
    config = CategoryConfig(categorical_columns="a,b", categorical_fusion=fusion, categorical_dim=6)
    model = SequencePredictor(encoder, TargetSpec((3,), ((),), (0.0,)), TARGET, config, COLUMNS).double()
    for parameter in model.conditioning.parameters():
        # maps that are zero at first would hide what they map
        nn.init.normal_(parameter, std=0.3)
    return model


def gradient(model: nn.Module) -> Tensor:
    parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def random_like(x: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.device)


def pretraining_loss(model: SequenceEncoder, output: EncoderOutput, batch: Batch) -> Tensor:
    """Every output counts, z in all pairs."""
    distance = model.distance(output.z, output.z)
    loss = (distance - random_like(distance)).triu(1).square().sum()
    loss = loss + (output.faith_pd - random_like(output.faith_pd)).square().mean()
    loss = loss + (output.asv_embedding * random_like(output.asv_embedding)).mean()
    loss = loss + (output.taxonomy_logits - random_like(output.taxonomy_logits)).square().mean()
    if output.nucleotide_logits is None:
        return loss
    wrong = functional.cross_entropy(output.nucleotide_logits, batch.tokens[batch.mask].long(), reduction="none")
    return loss + (wrong * random_like(wrong)).sum() / 10


def assert_same(actual: NamedTuple, expected: NamedTuple, tolerance: float = CLOSE) -> None:
    assert type(actual) is type(expected)
    for name, one, other in zip(expected._fields, actual, expected, strict=True):
        assert (one is None) == (other is None), name
        if other is not None:
            torch.testing.assert_close(
                one, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


def present(output: PredictorOutput, batch: Batch) -> PredictorOutput:
    """Without the abundances of padding, which mean nothing."""
    return output if output.counts is None else output._replace(counts=output.counts * (batch.count > 0))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 8), parts=st.integers(1, 5), unique=st.integers(1, 12))
def test_scatter_cuts_by_samples_and_hides_each_nucleotide_once(seed: int, samples: int, parts: int, unique: int):
    batch = draw_batch(seed, samples, unique)
    categories = draw_categories(seed, samples)
    scattered = scatter_batch(*batch, categories, parts=parts)
    assert len(scattered) == min(samples, parts)
    assert torch.cat([sub.index[sub.owned] for sub in scattered]).sort().values.tolist() == list(range(unique))
    times_hidden = torch.zeros_like(batch.mask, dtype=torch.int64)
    start = 0
    for sub in scattered:
        rows = slice(start, start + len(sub.slot))
        start = rows.stop
        here = batch.count[rows] > 0
        assert torch.equal(sub.asvs, batch.tokens[sub.index])
        assert torch.equal(sub.index, batch.slot[rows][here].unique())
        assert torch.equal(sub.index[sub.slot][here], batch.slot[rows][here])
        assert torch.equal(sub.count, batch.count[rows])
        assert torch.equal(sub.depth, batch.depth[rows])
        assert torch.equal(sub.by_sample[0], batch.hidden_count[rows])
        assert torch.equal(sub.by_sample[1], categories[rows])
        times_hidden[sub.index] += sub.mask
    assert start == samples
    assert torch.equal(times_hidden, batch.mask.long())


def test_sub_batches_share_asvs():
    """Else the tests of gradients would say nothing about ASVs that several devices hold."""
    scattered = scatter_batch(*draw_batch(0), parts=3)
    assert sum(int((~sub.owned).sum()) for sub in scattered) >= 6


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_gathering_what_was_scattered_gives_the_batch(value: float):
    """Outputs that name their ASV and position, by a value unique to each."""
    batch = draw_batch(3)
    name = torch.arange(batch.tokens.numel()).view(batch.tokens.shape) + value
    scattered = scatter_batch(name, *batch[1:], parts=3)
    outputs = [
        EncoderOutput(s.depth[:, None], s.depth[:, None], s.asvs[s.mask][:, None], s.asvs, None, s.asvs[:, :2])
        for s in scattered
    ]
    whole = gather_encoder(outputs, scattered, CPU)
    assert torch.equal(whole.nucleotide_logits, name[batch.mask][:, None])
    assert torch.equal(whole.asv_embedding, name)
    assert torch.equal(whole.z, batch.depth[:, None])
    assert whole.faith_pd is None
    assert torch.equal(whole.taxonomy_logits, name[:, :2])


def test_an_asv_of_no_sample_is_refused():
    batch = draw_batch(0)
    with pytest.raises(ValueError, match="in none of its samples"):
        scatter_batch(torch.cat([batch.tokens, batch.tokens[:1]]), *batch[1:4], parts=2)


@pytest.mark.parametrize("devices", [1, 2, 3, 9])
@pytest.mark.parametrize("hide", ["some", "none", "without"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_encoder_in_parts_is_the_encoder(devices: int, hide: str, checkpointing: bool):
    batch = draw_batch(1)
    batch = batch._replace(mask=batch.mask & (hide == "some"))
    mask = None if hide == "without" else batch.mask
    model = build_encoder(gradient_checkpointing=checkpointing)
    results = []
    for call in (model, SampleParallel(model, [CPU] * devices)):
        output = call(*batch[:4], mask)
        pretraining_loss(model, output, batch).backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, parts) = results
    assert_same(actual, expected)
    assert whole.norm() > 1e-3
    assert (parts - whole).norm() <= CLOSE * whole.norm()


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("devices", [2, 3])
def test_the_predictor_in_parts_is_the_predictor(embedded: bool, hide: bool, devices: int):
    batch = draw_batch(2)
    model = build_predictor()
    asvs = model.encoder.embed_asvs(batch.tokens).detach() if embedded else batch.tokens
    if embedded:
        model.freeze()
    whole_model = EmbeddedPredictor(model) if embedded else model
    hidden = batch.hidden_count if hide else None
    results = []
    for call in (whole_model, SampleParallel(whole_model, [CPU] * devices)):
        output = present(call(asvs, *batch[1:4], hidden), batch)
        parts = [part for part in output if part is not None and part.requires_grad]
        torch.stack([(part * random_like(part)).sum() for part in parts]).sum().backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, scattered) = results
    assert_same(actual, expected)
    assert whole.norm() > 1e-3
    assert (scattered - whole).norm() <= CLOSE * whole.norm()


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_categories_in_parts_are_the_categories(fusion: str, embedded: bool):
    batch, categories = draw_batch(2), draw_categories(2, 7)
    model = build_predictor(fusion)
    asvs = model.encoder.embed_asvs(batch.tokens).detach() if embedded else batch.tokens
    if embedded:
        model.freeze()
    whole_model = EmbeddedPredictor(model) if embedded else model
    results = []
    for call in (whole_model, SampleParallel(whole_model, [CPU] * 3)):
        output = present(call(asvs, *batch[1:4], batch.hidden_count, categories), batch)
        (output.prediction.square().sum() + output.counts.square().sum()).backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, scattered) = results
    assert_same(actual, expected)
    assert (scattered - whole).norm() <= CLOSE * whole.norm()
    others = whole_model(asvs, *batch[1:4], None, categories.flip(0)).prediction
    assert not torch.allclose(others, expected.prediction), "categories matter"


def test_hidden_abundances_reach_the_encoder():
    batch = draw_batch(1)
    model = build_encoder()
    call = SampleParallel(model, [CPU] * 2)
    output = call(*batch)
    assert_same(output, model(*batch))
    assert not torch.allclose(output.z, call(*batch[:5]).z)


def cpu_replicas(model: nn.Module, devices: Sequence[torch.device]) -> list[nn.Module]:
    """What `replicate` makes of a model, with copies in main memory in place of those on other GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        source = replicate.__globals__
        patch.setitem(source, "_get_device_index", lambda device, optional: device)
        patch.setitem(
            source,
            "_broadcast_coalesced_reshape",
            lambda tensors, devices, detach=False: [[t.clone() for t in tensors] for _ in devices],
        )
        return replicate(model, list(devices))


def apply_in_threads(calls: Sequence[Callable[..., object]], inputs: Sequence[tuple], devices: object) -> list[object]:
    """What `parallel_apply` does, on a CPU: gradients are enabled in a thread as in its caller, autocast is not."""
    results: dict[int, object] = {}
    enabled = torch.is_grad_enabled()

    def work(i: int) -> None:
        with torch.set_grad_enabled(enabled):
            results[i] = calls[i](*inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(calls))]


@pytest.fixture
def several_devices(monkeypatch) -> list[torch.device]:
    """Devices that differ by name, all of them main memory; replicas and threads are as on GPUs."""
    monkeypatch.setattr(module, "replicate", cpu_replicas)
    monkeypatch.setattr(module, "parallel_apply", apply_in_threads)
    return [torch.device("cpu", index) for index in range(3)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_replicas_give_outputs_and_gradients_of_the_model(several_devices, checkpointing: bool):
    """Replicas have no parameters but plain tensors: a model that looks for its parameters would fail here."""
    batch = draw_batch(1)
    model = build_encoder(gradient_checkpointing=checkpointing)
    results = []
    for call in (model, SampleParallel(model, several_devices)):
        output = call(*batch[:5])
        pretraining_loss(model, output, batch).backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, parts) = results
    assert_same(actual, expected)
    assert (parts - whole).norm() <= CLOSE * whole.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_compiled_blocks_work_in_replicas(several_devices):
    torch.compiler.reset()
    plain, compiled = build_encoder(), build_encoder()
    compile_blocks(compiled)
    call = SampleParallel(compiled, several_devices)
    for seed in range(3):
        batch = draw_batch(seed)
        results = []
        for model, run in ((plain, plain), (compiled, call)):
            output = run(*batch[:5])
            pretraining_loss(model, output, batch).backward()
            results.append((output, gradient(model)))
        assert_same(results[1][0], results[0][0])
        assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


def test_replicas_make_no_graph_where_none_is_wanted(several_devices):
    batch = draw_batch(1)
    with torch.no_grad():
        output = SampleParallel(build_encoder(), several_devices)(*batch[:5])
    assert not output.z.requires_grad


def test_replicas_of_a_predictor_with_a_frozen_encoder(several_devices):
    batch = draw_batch(2)
    model = build_predictor()
    model.freeze()
    whole_model = EmbeddedPredictor(model)
    asvs = model.encoder.embed_asvs(batch.tokens)
    results = []
    for call in (whole_model, SampleParallel(whole_model, several_devices)):
        output = present(call(asvs, *batch[1:4], batch.hidden_count), batch)
        (output.prediction.square().sum() + output.counts.square().sum()).backward()
        results.append((output, gradient(model)))
    assert_same(results[1][0], results[0][0])
    assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_replicas_read_categories(several_devices, fusion: str):
    batch, categories = draw_batch(2), draw_categories(2, 7)
    model = build_predictor(fusion)
    results = []
    for call in (model, SampleParallel(model, several_devices)):
        output = call(*batch[:4], None, categories)
        output.prediction.square().sum().backward()
        results.append((output, gradient(model)))
    assert_same(results[1][0], results[0][0])
    assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


def test_replicas_compute_in_the_precision_of_the_caller(several_devices):
    """Autocast is a thread's own: without handing it on, threads compute in float32 or in another half type."""
    batch = draw_batch(1)
    model = build_encoder().float()
    with torch.autocast("cpu", torch.bfloat16):
        output = SampleParallel(model, several_devices)(*batch[:5])
        assert output.nucleotide_logits.dtype == model(*batch[:5]).nucleotide_logits.dtype == torch.bfloat16


def test_the_type_of_autocast_is_handed_to_a_thread():
    linear = nn.Linear(2, 2)
    with torch.autocast("cpu", torch.float16):
        calls = [in_precision_of_caller(linear, "cpu"), linear]
    handed, plain = apply_in_threads(calls, [(torch.ones(1, 2),)] * 2, None)
    assert (handed.dtype, plain.dtype) == (torch.float16, torch.float32)


def test_a_kernel_of_attention_is_a_setting_of_the_whole_process():
    """Why `check_data_parallel` refuses one on several GPUs: their threads would set it for one another."""
    with sdpa_kernel([SDPBackend.MATH]):
        seen = apply_in_threads([torch.backends.cuda.flash_sdp_enabled], [()], None)
    assert seen == [False]
    assert torch.backends.cuda.flash_sdp_enabled()


GPUS = Build(None, "12.8", 4)


def test_all_visible_gpus_are_used():
    assert check_data_parallel(1, GPU, GPUS) == [torch.device("cuda", index) for index in range(4)]


@pytest.mark.parametrize(
    ("world_size", "device", "options", "message"),
    [
        (1, CPU, {}, "already uses all its cores"),
        (2, GPU, {}, r"a launcher started 2 \(WORLD_SIZE\).*--distributed or --fsdp"),
        (2, CPU, {}, "a launcher started 2"),
        (1, GPU, {"implementation": "math"}, r"\(math\) is a setting of the whole process"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(world_size: int, device: torch.device, options, message: str):
    with pytest.raises(InputError, match=message):
        check_data_parallel(world_size, device, GPUS, **options)


def test_one_gpu_has_no_replicas_to_disagree():
    assert check_data_parallel(1, GPU, Build(None, "12.8", 1), implementation="math") == [GPU]


several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def on_gpus(batch: Batch) -> Batch:
    return Batch(*(part.to(GPU) for part in batch))


@several_gpus
def test_gpus_give_outputs_and_gradients_of_one():
    batch = on_gpus(draw_batch(1))
    model = build_encoder().to(GPU)
    results = []
    for call in (model, SampleParallel(model, check_data_parallel(1, GPU))):
        output = call(*batch[:5])
        pretraining_loss(model, output, batch).backward()
        results.append((output, gradient(model)))
    assert_same(results[1][0], results[0][0], 1e-10)
    assert (results[1][1] - results[0][1]).norm() <= 1e-10 * results[0][1].norm()


@several_gpus
def test_dropout_of_every_gpu_is_seeded_by_the_first():
    batch = on_gpus(draw_batch(1))
    model = build_encoder(nucleotide_dropout=0.3, sample_dropout=0.3).to(GPU)
    call = SampleParallel(model, check_data_parallel(1, GPU))
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed, GPU):
            drawn.append(call(*batch[:5]).z)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][-1], drawn[2][-1])

import shutil
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import replicate

from aam.config import CategoricalFusion, CategoryConfig, ModelConfig, TargetConfig
from aam.data.sampling.samples import Samples
from aam.errors import InputError
from aam.models.heads import AbundanceHead, FaithPdHead, TargetSpec, TaxonomyHead
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.transformer import compile_blocks
from aam.models.types import CategorySpec, EncoderOutput, PredictorOutput
from aam.training.distributed import data_parallel as module
from aam.training.distributed.data_parallel import (
    SampleParallel,
    check_data_parallel,
    gather_encoder,
    in_precision_of_caller,
)
from aam.training.machine.compute import seeded
from aam.training.machine.hardware import Build

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
CLOSE = 1e-12


def draw_samples(seed: int, samples: int = 7, unique: int = 12, longest: int = 14) -> Samples:
    """Samples that share ASVs, each ASV in one at least; shorter samples and ASVs are padded, some of both masked."""
    generator = torch.Generator().manual_seed(seed)
    asvs = torch.randint(1, 6, (unique, longest), generator=generator, dtype=torch.uint8)
    length = torch.randint(5, longest + 1, (unique, 1), generator=generator)
    asvs = asvs.masked_fill(torch.arange(longest) >= length, 0)
    held = torch.rand(samples, unique, generator=generator) < 0.3
    held[torch.randint(samples, (unique,), generator=generator), torch.arange(unique)] = True
    held[torch.arange(samples), torch.randint(unique, (samples,), generator=generator)] = True
    size = held.sum(1)
    index = held.to(torch.int8).argsort(dim=1, descending=True)[:, : int(size.max())]
    padding = torch.arange(index.shape[1]) >= size[:, None]
    counts = torch.randint(1, 500, index.shape, generator=generator).masked_fill(padding, 0)
    masked = (torch.rand(asvs.shape, generator=generator) < 0.3) & (asvs != 0)
    masked[::3] = False
    abundances = (torch.rand(index.shape, generator=generator) < 0.3) & ~padding
    return Samples(asvs, index, counts, counts.sum(1) + 9, padding, masked, abundances)


def draw_pretraining(seed: int) -> Samples:
    """Samples whose abundances are all seen."""
    return draw_samples(seed)._replace(masked_abundances=None)


def draw_training(seed: int) -> Samples:
    """Samples without masked nucleotides."""
    return draw_samples(seed)._replace(masked_nucleotides=None)


def build_encoder(**options: object) -> SequenceEncoder:
    torch.manual_seed(0)
    shape = {"embedding_dim": 16, "attention_heads": 2, "attention_layers": 2, "max_bp": 14, "nucleotide_patch": 4}
    config = ModelConfig.model_validate(shape | {"asv_chunk_size": 5} | options)
    heads = {
        "faith_pd": FaithPdHead(16),
        "taxonomy": TaxonomyHead(16, {"phylum": 3, "class": 5}),
        "abundance": AbundanceHead(16),
    }
    return SequenceEncoder(config, heads=heads).double()


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


def pretraining_loss(model: SequenceEncoder, output: EncoderOutput, samples: Samples) -> Tensor:
    """Every output counts, z in all pairs."""
    distance = model.distance(output.z, output.z)
    loss = (distance - random_like(distance)).triu(1).square().sum()
    loss = loss + (output.asv_embedding * random_like(output.asv_embedding)).mean()
    for predicted in present(output, samples).heads.values():
        loss = loss + (predicted - random_like(predicted)).square().mean()
    if output.nucleotide_logits is None:
        return loss
    true = samples.asvs[samples.masked_nucleotides].long()
    wrong = functional.cross_entropy(output.nucleotide_logits, true, reduction="none")
    return loss + (wrong * random_like(wrong)).sum() / 10


def assert_same(actual: NamedTuple, expected: NamedTuple, tolerance: float = CLOSE) -> None:
    assert type(actual) is type(expected)
    parts = actual._asdict(), expected._asdict()
    flat, wanted = (part | part.pop("heads", {}) for part in parts)
    assert flat.keys() == wanted.keys()
    for name, other in wanted.items():
        one = flat[name]
        assert (one is None) == (other is None), name
        if other is not None:
            torch.testing.assert_close(
                one, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


Returned = TypeVar("Returned", EncoderOutput, PredictorOutput)


def present(output: Returned, samples: Samples) -> Returned:
    """Without the abundances of padding, which mean nothing."""
    if isinstance(output, EncoderOutput):
        heads = output.heads | {"abundance": output.heads["abundance"] * ~samples.padding}
        return output._replace(heads=heads)
    return output if output.abundances is None else output._replace(abundances=output.abundances * ~samples.padding)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_joining_what_was_cut_gives_the_batch(value: float):
    """Outputs that name their ASV and position, by a value unique to each."""
    samples = draw_samples(3)
    name = torch.arange(samples.asvs.numel()).view(samples.asvs.shape) + value
    parts = samples._replace(asvs=name).split(3)
    outputs = [
        EncoderOutput(
            cut.depth[:, None],
            cut.depth[:, None],
            cut.asvs[cut.masked_nucleotides][:, None],
            cut.asvs,
            {"of_asvs": cut.asvs[:, :2], "of_samples": cut.depth, "in_samples": cut.counts},
        )
        for cut, _, _ in parts
    ]
    reads = {"of_asvs": "asvs", "of_samples": "samples", "in_samples": "contexts"}
    whole = gather_encoder(outputs, parts, reads, CPU)
    assert torch.equal(whole.nucleotide_logits, name[samples.masked_nucleotides][:, None])
    assert torch.equal(whole.asv_embedding, name)
    assert torch.equal(whole.z, samples.depth[:, None])
    assert torch.equal(whole.heads["of_asvs"], name[:, :2])
    assert torch.equal(whole.heads["of_samples"], samples.depth)
    assert torch.equal(whole.heads["in_samples"], samples.counts)


@pytest.mark.parametrize("devices", [1, 2, 3, 9])
@pytest.mark.parametrize("mask", ["some", "none", "without"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_encoder_in_parts_is_the_encoder(devices: int, mask: str, checkpointing: bool):
    samples = draw_pretraining(1)
    masked = None if mask == "without" else samples.masked_nucleotides & (mask == "some")
    samples = samples._replace(masked_nucleotides=masked)
    model = build_encoder(gradient_checkpointing=checkpointing)
    results = []
    for call in (model, SampleParallel(model, [CPU] * devices)):
        output = call(samples)
        pretraining_loss(model, output, samples).backward()
        results.append((present(output, samples), gradient(model)))
    (expected, whole), (actual, parts) = results
    assert_same(actual, expected)
    assert whole.norm() > 1e-3
    assert (parts - whole).norm() <= CLOSE * whole.norm()


def embedded(model: SequencePredictor, samples: Samples) -> Samples:
    """The samples as a model with a frozen encoder is given them; freezes it."""
    asvs = model.embed_asvs(samples.asvs).detach()
    model.freeze()
    return samples._replace(asvs=asvs)


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("devices", [2, 3])
def test_the_predictor_in_parts_is_the_predictor(embed: bool, mask: bool, devices: int):
    samples, model = draw_training(2), build_predictor()
    samples = samples if mask else samples._replace(masked_abundances=None)
    samples = embedded(model, samples) if embed else samples
    results = []
    for call in (model, SampleParallel(model, [CPU] * devices)):
        output = present(call(samples), samples)
        parts = [part for part in output if part is not None and part.requires_grad]
        torch.stack([(part * random_like(part)).sum() for part in parts]).sum().backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, cut) = results
    assert_same(actual, expected)
    assert whole.norm() > 1e-3
    assert (cut - whole).norm() <= CLOSE * whole.norm()


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_categories_in_parts_are_the_categories(fusion: str, embed: bool):
    model = build_predictor(fusion)
    samples = draw_training(2)._replace(categories=draw_categories(2, 7))
    samples = embedded(model, samples) if embed else samples
    results = []
    for call in (model, SampleParallel(model, [CPU] * 3)):
        output = present(call(samples), samples)
        (output.prediction.square().sum() + output.abundances.square().sum()).backward()
        results.append((output, gradient(model)))
    (expected, whole), (actual, cut) = results
    assert_same(actual, expected)
    assert (cut - whole).norm() <= CLOSE * whole.norm()
    others = model(samples._replace(categories=samples.categories.flip(0))).prediction
    assert not torch.allclose(others, expected.prediction), "categories matter"


def test_masked_abundances_reach_the_encoder():
    samples, model = draw_samples(1), build_encoder()
    call = SampleParallel(model, [CPU] * 2)
    output = call(samples)
    assert_same(present(output, samples), present(model(samples), samples))
    assert not torch.allclose(output.z, call(samples._replace(masked_abundances=None)).z)


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
    samples = draw_pretraining(1)
    model = build_encoder(gradient_checkpointing=checkpointing)
    results = []
    for call in (model, SampleParallel(model, several_devices)):
        output = call(samples)
        pretraining_loss(model, output, samples).backward()
        results.append((present(output, samples), gradient(model)))
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
        samples = draw_pretraining(seed)
        results = []
        for model, run in ((plain, plain), (compiled, call)):
            output = run(samples)
            pretraining_loss(model, output, samples).backward()
            results.append((present(output, samples), gradient(model)))
        assert_same(results[1][0], results[0][0])
        assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


def test_replicas_make_no_graph_where_none_is_wanted(several_devices):
    with torch.no_grad():
        output = SampleParallel(build_encoder(), several_devices)(draw_pretraining(1))
    assert not output.z.requires_grad


def test_replicas_of_a_predictor_with_a_frozen_encoder(several_devices):
    model = build_predictor()
    samples = embedded(model, draw_training(2))
    results = []
    for call in (model, SampleParallel(model, several_devices)):
        output = present(call(samples), samples)
        (output.prediction.square().sum() + output.abundances.square().sum()).backward()
        results.append((output, gradient(model)))
    assert_same(results[1][0], results[0][0])
    assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_replicas_read_categories(several_devices, fusion: str):
    samples = draw_samples(2)._replace(
        masked_nucleotides=None, masked_abundances=None, categories=draw_categories(2, 7)
    )
    model = build_predictor(fusion)
    results = []
    for call in (model, SampleParallel(model, several_devices)):
        output = call(samples)
        output.prediction.square().sum().backward()
        results.append((output, gradient(model)))
    assert_same(results[1][0], results[0][0])
    assert (results[1][1] - results[0][1]).norm() <= CLOSE * results[0][1].norm()


def test_replicas_compute_in_the_precision_of_the_caller(several_devices):
    """Autocast is a thread's own: without handing it on, threads compute in float32 or in another half type."""
    samples, model = draw_pretraining(1), build_encoder().float()
    with torch.autocast("cpu", torch.bfloat16):
        output = SampleParallel(model, several_devices)(samples)
        assert output.nucleotide_logits.dtype == model(samples).nucleotide_logits.dtype == torch.bfloat16


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


@several_gpus
def test_gpus_give_outputs_and_gradients_of_one():
    samples, model = draw_pretraining(1).to(GPU), build_encoder().to(GPU)
    results = []
    for call in (model, SampleParallel(model, check_data_parallel(1, GPU))):
        output = call(samples)
        pretraining_loss(model, output, samples).backward()
        results.append((present(output, samples), gradient(model)))
    assert_same(results[1][0], results[0][0], 1e-10)
    assert (results[1][1] - results[0][1]).norm() <= 1e-10 * results[0][1].norm()


@several_gpus
def test_dropout_of_every_gpu_is_seeded_by_the_first():
    samples, model = draw_pretraining(1).to(GPU), build_encoder(nucleotide_dropout=0.3, sample_dropout=0.3).to(GPU)
    call = SampleParallel(model, check_data_parallel(1, GPU))
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed, GPU):
            drawn.append(call(samples).z)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][-1], drawn[2][-1])

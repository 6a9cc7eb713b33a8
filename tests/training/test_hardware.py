import pytest
import torch

from aam.errors import InputError
from aam.training.machine.hardware import (
    Build,
    advise_attention,
    advise_precision,
    backend_for,
    compile_obstacle,
    describe,
    device_for,
    processor_flags,
    visible_devices,
)

CUDA = Build(None, "12.8", 2)
NO_GPU = Build(None, None, 0)
OLD = "6.2.41133-dd7f95766"
KERNELS = ["sdpa", "flash", "mem_efficient", "math"]


def rocm(version: str) -> Build:
    return Build(version, None, 4)


@pytest.mark.parametrize(
    ("hip", "version"),
    [
        (OLD, (6, 2)),
        ("6.3.42131", (6, 3)),
        ("7.0.51831-a3e329ad8", (7, 0)),
        ("6.10.1", (6, 10)),
        ("7.14.60850", (7, 14)),
        ("5.7", (5, 7)),
        ("unknown", None),
        ("", None),
    ],
)
def test_the_version_of_rocm_is_read_from_that_of_hip(hip, version):
    assert rocm(hip).is_rocm
    assert rocm(hip).rocm_version == version


def test_other_builds_have_no_version_of_rocm():
    assert not CUDA.is_rocm
    assert CUDA.rocm_version is None


def test_what_is_installed_is_described():
    build = Build.of_torch()
    assert (build.hip, build.cuda) == (torch.version.hip, torch.version.cuda)
    assert build.gpus == len(visible_devices(build)) == torch.cuda.device_count()


@pytest.mark.parametrize("version", [OLD, "6.1.40091", "5.7.31921"])
def test_attention_falls_back_to_math_on_old_rocm(version):
    kernel, warning = advise_attention(rocm(version), "sdpa")
    assert kernel == "math"
    assert f"ROCm {version[:3]}" in warning
    assert "below ROCm 6.3" in warning
    assert "math kernel" in warning


@pytest.mark.parametrize("kernel", ["flash", "mem_efficient"])
def test_a_fused_kernel_asked_for_on_old_rocm_is_kept_with_a_warning(kernel):
    chosen, warning = advise_attention(rocm(OLD), kernel)
    assert chosen == kernel
    assert f"--attn-implementation {kernel} is kept" in warning


def test_math_needs_no_warning():
    assert advise_attention(rocm(OLD), "math") == ("math", None)


@pytest.mark.parametrize("build", [rocm("6.3.42131"), rocm("6.10.1"), rocm("7.0.51831"), rocm("unknown"), CUDA, NO_GPU])
@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_is_left_alone_elsewhere(build, kernel):
    assert advise_attention(build, kernel) == (kernel, None)


@pytest.mark.parametrize("version", [OLD, "7.0.51831", "unknown"])
def test_compilation_is_skipped_on_rocm(version):
    assert "--compile-model is skipped" in compile_obstacle(torch.device("cuda"), rocm(version))


@pytest.mark.parametrize("build", [CUDA, NO_GPU])
def test_compilation_is_allowed_elsewhere(build):
    assert compile_obstacle(torch.device("cuda"), build) is None


def test_backends():
    assert backend_for(torch.device("cpu")) == "gloo"
    assert backend_for(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize(
    ("asked", "local_rank", "build", "device"),
    [
        ("auto", None, NO_GPU, "cpu"),
        ("auto", 3, NO_GPU, "cpu"),
        ("cpu", 3, CUDA, "cpu"),
        ("auto", None, CUDA, "cuda:0"),
        ("cuda", None, CUDA, "cuda:0"),
        ("cuda", 1, CUDA, "cuda:1"),
        ("auto", 1, CUDA, "cuda:1"),
        ("cuda", 3, rocm(OLD), "cuda:3"),
    ],
)
def test_the_device_of_a_process(asked, local_rank, build, device):
    assert device_for(asked, local_rank, build) == torch.device(device)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="--device cuda: PyTorch sees no GPU; use --device cpu"):
        device_for("cuda", 0, NO_GPU)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused(asked):
    """With auto too: two processes on one GPU, or one of them on the CPU, is never what was meant."""
    with pytest.raises(InputError, match=r"process 2 of this node .* sees 2 GPU.*--nproc-per-node 2") as caught:
        device_for(asked, 2, CUDA)
    assert "--gpus-per-node" in str(caught.value)


def test_the_log_says_what_computes():
    assert describe(NO_GPU, torch.device("cpu")).startswith(f"cpu, {torch.get_num_threads()} threads, PyTorch ")
    line = describe(rocm(OLD), torch.device("cuda", 0))
    assert f"ROCm (HIP {OLD})" in line
    assert "4 GPU(s) visible" in line
    assert "CUDA 12.8" in describe(CUDA, torch.device("cuda", 0))
    assert "\n" not in line


@pytest.mark.parametrize(
    ("flags", "chosen", "why"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "bf16", "AVX512-BF16"),
        ({"avx2", "avx512f"}, "none", "not known to multiply bf16"),
        (set(), "none", "not known to multiply bf16"),
    ],
)
def test_precision_is_chosen_by_what_the_processor_can_do(flags, chosen, why):
    precision, reason = advise_precision(torch.device("cpu"), frozenset(flags))
    assert precision == chosen
    assert why in reason


def test_what_the_processor_can_do_is_read_from_its_description(tmp_path):
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t\t: x\n\nflags\t\t: fpu\n")
    assert processor_flags(told) == {"fpu", "avx2", "avx512_bf16"}
    told.write_text("processor\t: 0\nFeatures\t: asimd bf16\n")
    assert processor_flags(told) == processor_flags(tmp_path / "absent") == frozenset()

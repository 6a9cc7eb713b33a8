"""What the accelerator can do, by the versions that PyTorch was built for.

ROCm is reached through the names of CUDA (PyTorch, "HIP (ROCm) semantics"): its GPUs are ``cuda:N`` and RCCL answers to
``nccl``. Versions are arguments, so that what is said of a build can be tested without its GPU. aam was never run on
ROCm: what is said of it here is what PyTorch's own issues document.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from aam.config import AttnImplementation, MixedPrecision
from aam.errors import InputError

Backend = Literal["gloo", "cpu:gloo,cuda:nccl"]

FUSED_ATTENTION_SINCE: Final = (6, 3)
"""ROCm from which PyTorch's fused attention is trusted.

PyTorch's issue 138764 reports gradients that become NaN on an MI300X (ROCm 6.2, PyTorch 2.5), and 147460 wrong outputs
of the memory-efficient kernel given a mask on an MI250 (ROCm 6.2.4, PyTorch 2.6); 147460's author saw no error with
PyTorch's ROCm 6.3 build (huggingface/transformers issue 30056).
"""


@dataclass(frozen=True)
class Build:
    """What PyTorch was built for, and how many GPUs it sees."""

    hip: str | None
    """Version of HIP such as ``6.2.41133-dd7f95766``, which begins with that of ROCm; None where not built for ROCm."""
    cuda: str | None
    """Version of CUDA such as ``12.8``; None where not built for CUDA."""
    gpus: int
    """GPUs that this process sees."""

    @classmethod
    def of_torch(cls) -> "Build":
        """Ask the PyTorch that is installed."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(torch.version.hip, torch.version.cuda, gpus)

    @property
    def is_rocm(self) -> bool:
        """Whether PyTorch was built for AMD's GPUs."""
        return self.hip is not None

    @property
    def rocm_version(self) -> tuple[int, int] | None:
        """Major and minor version of ROCm; None for other builds, and where the version says neither."""
        found = re.match(r"(\d+)\.(\d+)", self.hip or "")
        return (int(found[1]), int(found[2])) if found else None


def advise_attention(build: Build, implementation: AttnImplementation) -> tuple[AttnImplementation, str | None]:
    """Choose the kernel of attention on a GPU, where ``sdpa`` leaves it to PyTorch, and warn if there is reason to."""
    version = build.rocm_version
    if version is None or version >= FUSED_ATTENTION_SINCE or implementation == "math":
        return implementation, None
    reason = (
        f"PyTorch was built for ROCm {version[0]}.{version[1]}, and below ROCm 6.3 its fused attention is reported to "
        "give gradients that are NaN and wrong outputs under a mask (PyTorch issues 138764 and 147460)"
    )
    if implementation == "sdpa":
        return "math", f"{reason}: attention uses the math kernel, which needs more memory"
    return implementation, f"{reason}: --attn-implementation {implementation} is kept as you asked; math is safer"


def processor_flags(information: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Names of what the processor can do, as Linux gives them; none on other systems."""
    found = re.search(r"^flags\s*:(.*)$", information.read_text(), re.MULTILINE) if information.exists() else None
    return frozenset(found[1].split()) if found else frozenset()


def advise_precision(device: torch.device, flags: frozenset[str]) -> tuple[MixedPrecision, str]:
    """Choose the precision of ``--mixed-precision auto``, and say why.

    bf16 where the hardware multiplies it: by what the machine is (see `processor_flags`), never by a measurement, so
    that a run has the same precision each time.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU multiplies bf16 in hardware"
        return "none", "the GPU does not multiply bf16 in hardware"
    if "avx512_bf16" in flags:
        return "bf16", "the processor multiplies bf16 in hardware (AVX512-BF16)"
    return "none", "the processor is not known to multiply bf16 in hardware"


def compile_obstacle(device: torch.device, build: Build | None = None) -> str | None:
    """Say why ``--compile-model`` is skipped on a device, by the PyTorch that is installed; None where it is not."""
    if device.type == "cuda" and (build or Build.of_torch()).is_rocm:
        return "--compile-model is skipped: aam's models were never run compiled on ROCm"
    return None


def backend_for(device: torch.device) -> Backend:
    """Name the backend of torch.distributed for the tensors of a device; objects and flags travel on the CPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def visible_devices(build: Build) -> list[torch.device]:
    """List the GPUs that this process sees."""
    return [torch.device("cuda", index) for index in range(build.gpus)]


def device_for(
    asked: Literal["auto", "cpu", "cuda"], local_rank: int | None = None, build: Build | None = None
) -> torch.device:
    """Choose the device of this process.

    Args:
        asked: ``--device``; auto takes a GPU where there is one.
        local_rank: number of the process on its node, as launchers set it; None without one.
        build: what PyTorch was built for; that of the PyTorch that is installed unless given.

    Raises:
        InputError: a GPU was asked for and there is none, or there are more processes than GPUs on this node.
    """
    build = build or Build.of_torch()
    if asked == "cuda" and build.gpus == 0:
        raise InputError(
            "--device cuda: PyTorch sees no GPU; use --device cpu, or install a PyTorch build for your GPU"
        )
    if asked == "cpu" or build.gpus == 0:
        return torch.device("cpu")
    index = local_rank or 0
    if index >= build.gpus:
        raise InputError(
            f"process {index} of this node (LOCAL_RANK, counted from 0) sees {build.gpus} GPU(s), and every process "
            f"needs one of its own: start at most {build.gpus} on a node (torchrun --nproc-per-node {build.gpus}) or "
            "use --device cpu; where a scheduler shows each process its own GPU alone, show it those of the whole node "
            "(Slurm: --gpus-per-node instead of --gpus-per-task)"
        )
    return torch.device("cuda", index)


def describe(build: Build, device: torch.device) -> str:
    """Describe device and build in one line for the log."""
    torch_version = f"PyTorch {torch.__version__}"
    if device.type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads, {torch_version}"
    name = torch.cuda.get_device_name(device) if torch.cuda.is_available() else "GPU of unknown name"
    platform = f"ROCm (HIP {build.hip})" if build.is_rocm else f"CUDA {build.cuda}"
    return f"{device}, {name}, {build.gpus} GPU(s) visible, {platform}, {torch_version}"

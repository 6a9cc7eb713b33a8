"""Sections about the machine that a run computes on, or the many."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import Positive, Section, flag

MixedPrecision = Literal["none", "bf16", "fp16", "auto"]


class MachineConfig(Section):
    """The machine, and how precisely it computes."""

    panel: ClassVar[str] = "Machine"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one (ROCm counts as cuda)."""
    num_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that prepare batches beside the main one. Default: 2 for training on a GPU, else 0."""
    mixed_precision: MixedPrecision = "none"
    """Lower precision where it is safe: bf16, fp16 (GPUs only), or auto (bf16 where the machine is faster with it)."""
    tf32: bool = True
    """Allow TF32 matrix products on GPUs that have them (never for distances)."""


class SeededMachineConfig(MachineConfig):
    """The machine, and the seed of what is drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of every draw: split, shuffling, rarefaction, masks, weights."""


class RuntimeConfig(SeededMachineConfig):
    """The machine of a whole run."""

    compile_model: bool = False
    """Compile the model with torch.compile."""
    memory_profile: bool = False
    """Write memory_profile.tsv: which phase of a step and which part of the model take how much memory. Slows down."""


class DistributedConfig(Section):
    """Several processes or several GPUs for one run; the result does not depend on how many."""

    panel: ClassVar[str] = "Many GPUs"

    distributed: bool = False
    """Every process holds the whole model (DDP); start one for each GPU: torchrun --nproc-per-node 4 -m aam.cli ..."""
    data_parallel: bool = False
    """DataParallel: one process drives every visible GPU of the machine."""
    fsdp: bool = False
    """Fully sharded data parallel: weights, gradients and optimizer are sharded among the processes."""
    fsdp_replicate: Positive = 1
    """Copies of the sharded model: with one for each node, weights only travel within a node."""
    fsdp_mixed_precision: bool = False
    """Gather weights and compute the layers in bf16; sum gradients in float32."""
    fsdp_cpu_offload: bool = False
    """Keep weights, gradients and optimizer in main memory: slow, for models that fit nowhere else."""
    fsdp_sharded_checkpoint: bool = False
    """Every process writes its own part of a checkpoint; the run ends with a whole one. Read by --resume alone."""
    async_checkpoint: bool = False
    """Go on training while a sharded checkpoint is written."""
    rank_timeout: Annotated[float, Field(gt=0)] = 25.0
    """Seconds without a sign of life after which a process counts as lost, which ends the run."""
    log_all_ranks: bool = False
    """Every process writes a log, training-rankN.log; otherwise only the first one does."""

    @model_validator(mode="after")
    def _one_strategy(self) -> Self:
        asked = [flag(name) for name in ("distributed", "data_parallel", "fsdp") if getattr(self, name)]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} exclude each other: give one of them")
        if not self.fsdp:
            for option in ("fsdp_replicate", "fsdp_mixed_precision", "fsdp_cpu_offload", "fsdp_sharded_checkpoint"):
                self._refuse_unused(option, "--fsdp")
        if not self.fsdp_sharded_checkpoint:
            self._refuse_unused("async_checkpoint", "--fsdp-sharded-checkpoint")
        return self

    @property
    def several_processes(self) -> bool:
        """Whether the strategy is one of processes that train together, or of one that trains alone that way."""
        return self.distributed or self.fsdp

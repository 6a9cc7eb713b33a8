"""One process on several GPUs: a batch is scattered by samples, and gathered before the loss.

The loss is computed on the gathered outputs, so that every pair of samples counts and the gradient is that of one GPU.

Memory. Every GPU holds the weights (copied from the first one for every pass), the gradients of its copy during the
backward pass, and the activations of its samples. On top of that the first one holds, for n parameters of 4 bytes:

- the gradients that are summed up (4n bytes) and the two moments of AdamW (8n); its weights are the only master copy,
  and its own replica shares them;
- the gathered outputs and their gradients, 8 bytes for each number of: B x D for the embeddings and again for z, U x D
  for the ASVs, M x V for the masked nucleotides, U x C for taxonomic ranks, B x S if abundances are predicted;
- the loss over all pairs, and what lies there anyway: the nucleotides of the study and the batch.

So the first GPU needs at least 12 bytes a parameter more than the others: 0.6 GB for 50 million parameters.
An ASV that samples on k GPUs hold is encoded k times; of its masked nucleotides and ranks, one prediction counts.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, M masked nucleotides, D width,
V vocabulary, K outputs, C classes of all taxonomic ranks together; B_p, U_p and M_p those of a part.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import parallel_apply, replicate

from aam.config import AttnImplementation
from aam.data.sampling.samples import SamplePart, Samples
from aam.data.sampling.seeded import derived_seed
from aam.errors import InputError
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import EncoderOutput, PredictorOutput
from aam.training.machine.hardware import Build, visible_devices


def gather_encoder(
    outputs: Sequence[EncoderOutput], parts: Sequence[SamplePart], reads: Mapping[str, str], device: torch.device
) -> EncoderOutput:
    """Join the outputs of parts, on any device, to those of the whole batch; the inverse of `Samples.split`.

    `reads` says what each head is given (see `Head`); ``asv`` and ``owned`` of the parts are on the device.
    """
    embedding, z, logits, asvs, heads = zip(*outputs, strict=True)
    joined = {}
    for name, given in reads.items():
        rows = [each[name] for each in heads]
        joined[name] = _gather_asvs(rows, parts, device) if given == "asvs" else _join(rows, device)
    return EncoderOutput(
        _join(embedding, device),
        _join(z, device),
        _gather_logits(logits, parts, device),
        _gather_asvs(asvs, parts, device),
        joined,
    )


def gather_predictor(outputs: Sequence[PredictorOutput], device: torch.device) -> PredictorOutput:
    """Join the outputs of parts, which are all by samples, to those of the whole batch."""
    prediction, embedding, abundances, head_input = zip(*outputs, strict=True)
    joined = _join_present(abundances, device)
    return PredictorOutput(_join(prediction, device), _join(embedding, device), joined, _join(head_input, device))


def _gather_asvs(rows: Sequence[Tensor], parts: Sequence[SamplePart], device: torch.device) -> Tensor:
    """Bring rows by ASV, [U_p, ...], into the order of the batch's ASVs, each from its owner: [U, ...]."""
    owned = [each.to(device)[part.owned] for each, part in zip(rows, parts, strict=True)]
    place = torch.cat([part.asv[part.owned] for part in parts]).argsort()
    return torch.cat(owned)[place]


def _gather_logits(logits: Sequence[Tensor | None], parts: Sequence[SamplePart], device: torch.device) -> Tensor | None:
    """Bring logits [M_p, V] into row-major order of the whole mask: [M, V]."""
    joined = _join_present(logits, device)
    if joined is None:
        return None
    masks = [mask.to(device) for part in parts if (mask := part.samples.masked_nucleotides) is not None]
    rows = [part.asv[mask.nonzero()[:, 0]] for part, mask in zip(parts, masks, strict=True)]
    # an ASV's logits all come from its owner, in order of position already
    return joined[torch.cat(rows).argsort(stable=True)]


def _join(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat([part.to(device) for part in parts])


def _join_present(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """Join what all parts have, or none of them."""
    present = [part for part in parts if part is not None]
    return _join(present, device) if present else None


class SampleParallel:
    """Called like a model, computes on several devices; parameters and state stay the model's.

    Where all devices are the same, the model itself is called on one part after the other.

    Args:
        model: the bare model.
        devices: where to compute; the outputs are gathered on the first.
    """

    def __init__(self, model: SequenceEncoder | SequencePredictor, devices: Sequence[torch.device]) -> None:
        self.model = model
        self.devices = list(devices)

    def __call__(self, samples: Samples) -> EncoderOutput | PredictorOutput:
        """Run the model on a batch; returns what the model returns, on the first device."""
        first, parts = self.devices[0], samples.split(len(self.devices))
        # there may be fewer parts than devices
        outputs = self._run([part.samples.to(device) for part, device in zip(parts, self.devices, strict=False)])
        if isinstance(self.model, SequencePredictor):
            return gather_predictor(outputs, first)
        reads = {name: self.model.head(name).reads for name in self.model.head_names}
        return gather_encoder(outputs, parts, reads, first)

    def _run(self, parts: Sequence[Samples]) -> list[Any]:
        """Call the model on each part, which lies on its device."""
        devices = self.devices[: len(parts)]
        if len(set(devices)) == 1:
            return [self.model(part) for part in parts]
        if devices[0].type == "cuda":
            seed_replicas(devices)
        replicas = [in_precision_of_caller(replica, devices[0].type) for replica in replicate(self.model, devices)]
        # it only calls them, each in a thread; a tuple would be taken for the arguments
        return parallel_apply(replicas, [(part,) for part in parts], devices=devices)  # type: ignore[arg-type]


def in_precision_of_caller(module: nn.Module, device_type: str) -> Callable[..., object]:
    """Make a function that calls a module in the autocast of this thread, whatever thread calls it.

    Autocast belongs to a thread, and `parallel_apply` hands on whether it is enabled, but not its type: replicas would
    compute in fp16 where bf16 was asked for.
    """
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)

    def call(samples: Samples) -> object:
        with torch.autocast(device_type, dtype=dtype, enabled=enabled):
            return module(samples)

    return call


def seed_replicas(devices: Sequence[torch.device]) -> None:
    """Seed the generators of all GPUs but the first from the seed of the first.

    Dropout is seeded by step and batch on the first GPU (`compute.seeded`); without this the two passes of an
    accumulated step would drop different units on the other GPUs.
    """
    generators = torch.cuda.default_generators
    seed = generators[devices[0].index].initial_seed()
    for replica, device in enumerate(devices[1:], start=1):
        generators[device.index].manual_seed(derived_seed(seed, "replica", replica))


def check_data_parallel(
    world_size: int,
    device: torch.device,
    build: Build | None = None,
    *,
    implementation: AttnImplementation = "sdpa",
) -> list[torch.device]:
    """Refuse what one process on all GPUs cannot do, before training.

    Args:
        world_size: processes that a launcher started.
        device: the device of this process.
        build: what PyTorch was built for; that of the PyTorch that is installed unless given.
        implementation: kernel of attention that will be used.

    Returns:
        All visible GPUs.

    Raises:
        InputError: there are several processes, no GPU, or several GPUs and a kernel other than PyTorch's choice.
    """
    if world_size > 1:
        raise InputError(
            f"--data-parallel is one process that drives all GPUs, and a launcher started {world_size} (WORLD_SIZE): "
            "start one, or use --distributed or --fsdp in place of --data-parallel"
        )
    if device.type != "cuda":
        raise InputError(
            "--data-parallel spreads a batch over the GPUs of one process, and one process on a CPU already uses all "
            "its cores: leave the option out, or start several processes with torchrun and --distributed"
        )
    devices = visible_devices(build or Build.of_torch())
    if len(devices) > 1 and implementation != "sdpa":
        raise InputError(
            f"--data-parallel runs the GPUs in threads of one process, and the kernel of attention ({implementation}) "
            "is a setting of the whole process that they would change under each other: use --attn-implementation "
            "sdpa, or --distributed with torchrun"
        )
    return devices

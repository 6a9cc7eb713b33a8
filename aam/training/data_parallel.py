"""One process on several GPUs: a batch is scattered by samples, and gathered before the loss.

The loss is computed on the gathered outputs, so that every pair of samples counts and the gradient is that of one GPU.

Memory. Every GPU holds the weights (copied from the first one for every pass), the gradients of its copy during the
backward pass, and the activations of its samples. On top of that the first one holds, for n parameters of 4 bytes:

- the gradients that are summed up (4n bytes) and the two moments of AdamW (8n); its weights are the only master copy,
  and its own replica shares them;
- the gathered outputs and their gradients, 8 bytes for each number of: B x D for the embeddings and again for z, U x D
  for the ASVs, M x V for the hidden nucleotides, U x C for taxonomic ranks, B x S if abundances are predicted;
- the loss over all pairs, and what lies there anyway: the nucleotides of the study and the batch.

So the first GPU needs at least 12 bytes a parameter more than the others: 0.6 GB for 50 million parameters.
An ASV that samples on k GPUs hold is encoded k times; of its hidden nucleotides and ranks, one prediction counts.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, M hidden nucleotides, D width,
V vocabulary, K outputs, C classes of all taxonomic ranks together; B_p, U_p and M_p those of a sub-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import parallel_apply, replicate

from aam.config import AttnImplementation
from aam.data.addressed import address_hash
from aam.errors import InputError
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.types import EncoderOutput, PredictorOutput
from aam.training.hardware import Build, visible_devices


@dataclass(frozen=True, eq=False)
class SubBatch:
    """Some samples of a batch, with the unique ASVs that they hold."""

    asvs: Tensor
    """Integer [U_p, L], nucleotides; or float [U_p, D], ASVs that are embedded already."""
    slot: Tensor
    """int64 [B_p, S], which of the U_p each ASV of a sample is; 0 where padding."""
    count: Tensor
    """int [B_p, S], reads; 0 marks padding."""
    depth: Tensor
    """int [B_p]."""
    mask: Tensor | None
    """bool [U_p, L], nucleotides to hide and predict, of the owned ASVs alone."""
    by_sample: tuple[Tensor | None, ...]
    """[B_p, ...], what else the model reads of each sample."""
    index: Tensor
    """int64 [U_p], ascending: which of the batch's U each of the U_p is."""
    owned: Tensor
    """bool [U_p], whether this is the first sub-batch that holds the ASV."""

    def to(self, device: torch.device) -> "SubBatch":
        """Move what the model reads; ``index`` and ``owned`` stay where the outputs are gathered."""
        asvs, slot, count, depth = (part.to(device) for part in (self.asvs, self.slot, self.count, self.depth))
        mask, *by_sample = (None if part is None else part.to(device) for part in (self.mask, *self.by_sample))
        return SubBatch(asvs, slot, count, depth, mask, tuple(by_sample), self.index, self.owned)


def scatter_batch(
    asvs: Tensor,
    slot: Tensor,
    count: Tensor,
    depth: Tensor,
    mask: Tensor | None = None,
    *by_sample: Tensor | None,
    parts: int,
) -> list[SubBatch]:
    """Cut a batch into sub-batches of consecutive samples, each with only the unique ASVs that its samples hold.

    Every unique ASV is owned by the first sub-batch that holds it, which alone predicts its hidden nucleotides.

    Args:
        asvs: integer [U, L] nucleotides, or float [U, D] embeddings, of the unique ASVs.
        slot: int64 [B, S], which of the U each ASV of a sample is.
        count: int [B, S], reads; 0 marks padding.
        depth: int [B].
        mask: bool [U, L], nucleotides to hide and predict.
        by_sample: [B, ...], what else the model reads of each sample: abundances to conceal, categories.
        parts: sub-batches to make; there are fewer if there are fewer samples.

    Raises:
        ValueError: a unique ASV is in no sample.
    """
    # all of them first, on one device: what is asked of a tensor's values makes the host wait
    taken = torch.zeros(len(asvs), dtype=torch.bool, device=slot.device)
    batches = []
    for rows in torch.arange(len(slot), device=slot.device).tensor_split(min(parts, len(slot))):
        present = count[rows] > 0
        held = torch.zeros_like(taken).index_fill_(0, slot[rows][present], True)
        index = held.nonzero().squeeze(1)
        place = (held.cumsum(0) - 1)[slot[rows]].masked_fill(~present, 0)
        owned = ~taken[index]
        taken |= held
        hide = None if mask is None else mask[index] & owned[:, None]
        more = tuple(None if part is None else part[rows] for part in by_sample)
        batches.append(SubBatch(asvs[index], place, count[rows], depth[rows], hide, more, index, owned))
    if not bool(taken.all()):
        raise ValueError("a unique ASV of the batch is in none of its samples")
    return batches


def gather_encoder(
    outputs: Sequence[EncoderOutput], batches: Sequence[SubBatch], device: torch.device
) -> EncoderOutput:
    """Join the outputs of sub-batches to those of the whole batch; the inverse of `scatter_batch`.

    Args:
        outputs: of each sub-batch, on any device.
        batches: the sub-batches; ``index`` and ``owned`` on ``device``.
        device: where the joined outputs are.
    """
    embedding, z, logits, asvs, faith_pd, taxonomy = zip(*outputs, strict=True)
    of_ranks = [part for part in taxonomy if part is not None]
    return EncoderOutput(
        _join(embedding, device),
        _join(z, device),
        _gather_logits(logits, batches, device),
        _gather_asvs(asvs, batches, device),
        _join_present(faith_pd, device),
        _gather_asvs(of_ranks, batches, device) if of_ranks else None,
    )


def gather_predictor(outputs: Sequence[PredictorOutput], device: torch.device) -> PredictorOutput:
    """Join the outputs of sub-batches, which are all by samples, to those of the whole batch."""
    prediction, embedding, counts = zip(*outputs, strict=True)
    return PredictorOutput(_join(prediction, device), _join(embedding, device), _join_present(counts, device))


def _gather_asvs(rows: Sequence[Tensor], batches: Sequence[SubBatch], device: torch.device) -> Tensor:
    """Bring rows by ASV, [U_p, ...], into the order of the batch's ASVs, each from its owner: [U, ...]."""
    owned = [part.to(device)[batch.owned] for part, batch in zip(rows, batches, strict=True)]
    place = torch.cat([batch.index[batch.owned] for batch in batches]).argsort()
    return torch.cat(owned)[place]


def _gather_logits(logits: Sequence[Tensor | None], batches: Sequence[SubBatch], device: torch.device) -> Tensor | None:
    """Bring logits [M_p, V] into row-major order of the whole mask: [M, V]."""
    joined = _join_present(logits, device)
    if joined is None:
        return None
    masks = [batch.mask.to(device) for batch in batches if batch.mask is not None]
    rows = [batch.index[mask.nonzero()[:, 0]] for batch, mask in zip(batches, masks, strict=True)]
    # an ASV's logits all come from its owner, in order of position already
    return joined[torch.cat(rows).argsort(stable=True)]


def _join(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat([part.to(device) for part in parts])


def _join_present(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """Join what all sub-batches have, or none of them."""
    present = [part for part in parts if part is not None]
    return _join(present, device) if present else None


class SampleParallel:
    """Called like a model, computes on several devices; parameters and state stay the model's.

    Where all devices are the same, the model itself is called on one sub-batch after the other.

    Args:
        module: a `SequenceEncoder`, a `SequencePredictor`, or an `EmbeddedPredictor`.
        devices: where to compute; the outputs are gathered on the first.
    """

    def __init__(self, module: nn.Module, devices: Sequence[torch.device]) -> None:
        self.module = module
        self.devices = list(devices)

    def __call__(
        self, asvs: Tensor, slot: Tensor, count: Tensor, depth: Tensor, *rest: Tensor | None
    ) -> EncoderOutput | PredictorOutput:
        """Run the model on a batch.

        Args:
            asvs: integer [U, L] nucleotides of the unique ASVs, or float [U, D] embeddings, as the model takes them.
            slot: int64 [B, S], which of the U each ASV of a sample is.
            count: int [B, S], reads; 0 marks padding.
            depth: int [B].
            rest: what the model's forward pass takes after these, in its order: of a `SequenceEncoder` ``mask`` bool
                [U, L] and ``hidden_count`` bool [B, S], else ``hidden_count`` and ``categories`` int64 [B, K].

        Returns:
            What the model returns, on the first device.
        """
        first, parts = self.devices[0], len(self.devices)
        if isinstance(self.module, SequenceEncoder):
            batches = scatter_batch(asvs, slot, count, depth, *rest, parts=parts)
            inputs = [(b.asvs, b.slot, b.count, b.depth, b.mask, *b.by_sample) for b in self._place(batches)]
            return gather_encoder(self._run(inputs), batches, first)
        batches = scatter_batch(asvs, slot, count, depth, None, *rest, parts=parts)
        outputs = self._run([(b.asvs, b.slot, b.count, b.depth, *b.by_sample) for b in self._place(batches)])
        return gather_predictor(outputs, first)

    def _place(self, batches: Sequence[SubBatch]) -> list[SubBatch]:
        """Move each sub-batch to its device; there may be fewer than devices."""
        return [batch.to(device) for batch, device in zip(batches, self.devices, strict=False)]

    def _run(self, inputs: Sequence[tuple[Tensor | None, ...]]) -> list[Any]:
        """Call the model on the inputs of each sub-batch, which lie on its device."""
        devices = self.devices[: len(inputs)]
        if len(set(devices)) == 1:
            return [self.module(*each) for each in inputs]
        if devices[0].type == "cuda":
            seed_replicas(devices)
        replicas = [in_precision_of_caller(replica, devices[0].type) for replica in replicate(self.module, devices)]
        # it only calls them, each in a thread
        return parallel_apply(replicas, inputs, devices=devices)  # type: ignore[arg-type]


def in_precision_of_caller(module: nn.Module, device_type: str) -> Callable[..., object]:
    """Make a function that calls a module in the autocast of this thread, whatever thread calls it.

    Autocast belongs to a thread, and `parallel_apply` hands on whether it is enabled, but not its type: replicas would
    compute in fp16 where bf16 was asked for.
    """
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)

    def call(*inputs: Tensor | None) -> object:
        with torch.autocast(device_type, dtype=dtype, enabled=enabled):
            return module(*inputs)

    return call


def seed_replicas(devices: Sequence[torch.device]) -> None:
    """Seed the generators of all GPUs but the first from the seed of the first.

    Dropout is seeded by address on the first GPU (`compute.seeded`); without this the two passes of an accumulated step
    would drop different units on the other GPUs.
    """
    generators = torch.cuda.default_generators
    seed = generators[devices[0].index].initial_seed()
    for replica, device in enumerate(devices[1:], start=1):
        generators[device.index].manual_seed(address_hash(seed, "replica", replica))


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

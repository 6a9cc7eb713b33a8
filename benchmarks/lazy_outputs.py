"""What a pretraining step would hold if the model returned all that it could, and not what is asked for.

    AAM_TEST_DATA=../shared/data python benchmarks/lazy_outputs.py --json lazy_outputs.json

Forward and backward pass of one batch of ``moving_pictures``, with the losses of pretraining. The first line is the
step as aam makes it. Each of the next returns something more, to the end of the step, the last one all of it: the ASVs
of every sample in the light of the others, [B, S, D]; logits of all nucleotides of the ASVs that hide some, and of all
ASVs, [U, L, V]; attention weights of all layers, [rows, heads, N, N], made by a kernel that has them. Peaks are what
tensors allocate above the level before the step, as PyTorch's profiler says.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, V vocabulary, N positions.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import arguments, print_table, write_json
from torch import Tensor
from torch.nn import functional

from aam.config import MaskConfig, ModelConfig, SamplingConfig
from aam.data.files.sequences import MASK, PAD, VOCABULARY_SIZE, encode_sequences, sequence_keys
from aam.data.files.tables import read_tables
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import Samples
from aam.models.asv_encoder import predict_masked
from aam.models.initial import initialize
from aam.models.packing import Attend, Lengths
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.transformer import SelfAttention, Transformer
from aam.training.losses import pairwise_gradient
from aam.training.memory.profile import Allocations
from aam.training.tasks.masking import mask_nucleotides

STEP = "step"
TOLERANCE = 1e-5


class Asked(NamedTuple):
    """What a step returns besides its losses."""

    context: bool = False
    logits: str = "masked"
    """Of the nucleotides that are ``masked``, of all of the ASVs that have some (``masking``), or of ``all`` ASVs."""
    attention: bool = False


CASES = {
    "as it is": Asked(),
    "ASVs in their samples": Asked(context=True),
    "logits of ASVs with masked ones": Asked(logits="masking"),
    "logits of all ASVs": Asked(logits="all"),
    "attention weights": Asked(attention=True),
    "all of it": Asked(context=True, logits="all", attention=True),
}


class Batch(NamedTuple):
    """What a step reads."""

    samples: Samples
    mask: Tensor
    true: Tensor

    @property
    def tokens(self) -> Tensor:
        """Nucleotides of the unique ASVs."""
        return self.samples.asvs


def load(data: Path, batch_size: int) -> Batch:
    """Draw one batch; the true distances are any numbers."""
    table = read_tables([data / "moving_pictures" / "table.biom"])
    samples = np.random.default_rng(0).permutation(table.n_samples)[:batch_size]
    batch = FixedBatches(SampleDraws(table, SamplingConfig(), seed=0), samples, batch_size)[0]
    tokens = torch.from_numpy(encode_sequences([table.sequences[asv] for asv in batch.asv.tolist()]))
    keys = torch.from_numpy(sequence_keys(table.sequences))[batch.asv]
    mask = mask_nucleotides(tokens, keys, MaskConfig(), seed=0, step=0)
    true = torch.rand(batch_size, batch_size, generator=torch.Generator().manual_seed(0))
    return Batch(batch.samples(tokens), mask, true)


@contextmanager
def weights_kept(model: SequenceEncoder, kept: list[Tensor], asked: bool) -> Iterator[None]:
    """Let attention make its weights, of rows with their padding, and keep those of every layer."""
    ours = SelfAttention.forward

    def forward(layer: SelfAttention, x: Tensor, attend: Attend) -> Tensor:
        assert not isinstance(attend, Lengths)
        query, key, value = (part.unflatten(2, (layer.heads, -1)).transpose(1, 2) for part in layer.qkv(x).chunk(3, 2))
        score = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        weight = (score if attend is None else score.masked_fill(~attend, -torch.inf)).softmax(3)
        kept.append(weight)
        output: Tensor = layer.output((weight @ value).transpose(1, 2).flatten(2))
        return output

    stacks = [module for module in model.modules() if isinstance(module, Transformer)]
    for stack in stacks:
        stack.pads = asked
    setattr(SelfAttention, "forward", forward if asked else ours)  # noqa: B010
    yield
    setattr(SelfAttention, "forward", ours)  # noqa: B010
    for stack in stacks:
        stack.pads = False


def logits_of(model: SequenceEncoder, batch: Batch, which: str, kept: list[Tensor]) -> Tensor:
    """Logits of masked nucleotides, [M, V], through those of more if asked."""
    if which == "masked":
        return predict_masked(model.asv_encoder, batch.tokens, batch.mask)
    rows = torch.arange(len(batch.tokens)) if which == "all" else batch.mask.any(1).nonzero().squeeze(1)
    encoded = model.asv_encoder(batch.tokens[rows].masked_fill(batch.mask[rows], MASK)).patches
    head = model.asv_encoder.nucleotide_head
    logits = functional.linear(encoded, head.weight, head.bias).view(len(rows), -1, VOCABULARY_SIZE)
    kept.append(logits)
    longest = int((batch.tokens != PAD).sum(1).max())
    return logits[:, :longest][batch.mask[rows, :longest]]


def step(model: SequenceEncoder, batch: Batch, asked: Asked) -> tuple[list[Tensor], list[float]]:
    """Forward and backward pass: what is returned, and the losses."""
    kept: list[Tensor] = []
    with weights_kept(model, kept, asked.attention):
        asvs = model.embed_asvs(batch.tokens)
        samples = model.sample_encoder(batch.samples._replace(asvs=asvs))
        if asked.context:
            kept.append(samples.asv_context)
        z = model.scale(samples.embedding)
        del samples
        masked = functional.cross_entropy(logits_of(model, batch, asked.logits, kept), batch.tokens[batch.mask].long())
    fixed = z.detach()
    unifrac, pull = pairwise_gradient(fixed, fixed, 0, model.distance, lambda rows, columns: batch.true[rows, columns])
    ((z * pull).sum() + 0.1 * masked).backward()
    return kept, [float(unifrac), float(masked)]


def measure(model: SequenceEncoder, batch: Batch, asked: Asked) -> dict[str, Any]:
    """Peak of one step, with what is returned alive to its end."""
    model.zero_grad(set_to_none=True)
    allocations = Allocations()
    allocations.enter(STEP)
    kept, losses = step(model, batch, asked)
    peak = allocations.close()[STEP]
    return {"peak MiB": peak / 2**20, "returned MiB": sum(tensor.nbytes for tensor in kept) / 2**20, "losses": losses}


def main() -> None:
    """Measure every case and print the table."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--attention-layers", type=int, default=3)
    parser.add_argument("--nucleotide-patch", type=int, default=5)
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    batch = load(options.data, options.batch_size)
    shape = {name: getattr(options, name) for name in ("embedding_dim", "attention_layers", "nucleotide_patch")}
    model = SequenceEncoder(ModelConfig(max_bp=batch.tokens.shape[1], **shape))
    initialize(model, 0)
    _, expected = step(model, batch, Asked())
    lines: list[dict[str, Any]] = []
    for name, asked in CASES.items():
        figures = measure(model, batch, asked)
        losses = figures.pop("losses")
        lines.append({"a step returns": name, **figures})
        lines[-1]["times the memory"] = lines[-1]["peak MiB"] / lines[0]["peak MiB"]
        lines[-1]["difference"] = float(np.abs(np.subtract(losses, expected)).max())
    print_table(list(lines[0]), [list(line.values()) for line in lines])
    size = {
        "samples": len(batch.samples.depth),
        "ASVs of a sample": batch.samples.counts.shape[1],
        "unique ASVs": len(batch.tokens),
    }
    print(
        ", ".join(f"{name}: {number}" for name, number in size.items()), f"masked nucleotides: {int(batch.mask.sum())}"
    )
    write_json(options.json, {"cases": lines, "batch": size})
    if max(line["difference"] for line in lines) > TOLERANCE:
        raise SystemExit(f"the losses should be equal to {TOLERANCE}")


if __name__ == "__main__":
    main()

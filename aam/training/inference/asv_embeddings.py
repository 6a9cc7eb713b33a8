"""Embeddings of ASVs by an encoder that does not change: each is computed once, and can be kept for other runs.

Shapes: U ASVs, L nucleotides, D width.
"""

import logging
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from aam.data.arrays import Ints
from aam.data.files.embedding_files import UNKNOWN, EmbeddingFiles, Keys, Places, token_keys
from aam.errors import InputError
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.training.distributed.sharding import gather_whole
from aam.training.machine.compute import Compute

logger = logging.getLogger(__name__)

FORMAT: Final = 1
"""Of kept embeddings; raised whenever an encoder of the same weights would give others."""
ROWS: Final = 1024
"""ASVs that are encoded together where no gradient is needed."""
TOGETHER: Final = 65_536
"""ASVs that are gathered from all ranks, and written to one file, together."""
HELD_BYTES: Final = 2**30
"""Kept embeddings up to this size are held on the device; larger ones stay on disk, and batches read their own."""


class AsvEncoding(Protocol):
    """A model that embeds ASVs."""

    def embed_asvs(self, tokens: Tensor) -> Tensor:
        """Embed unique ASVs: integer [U, L] -> [U, D]."""
        ...


class AsvEmbeddings(Protocol):
    """Embeddings of ASVs of a table."""

    def of(self, asv: Tensor) -> Tensor:
        """Give those of some ASVs, columns of the table on the device: int64 [U] -> [U, D], on the device."""
        ...


@dataclass(frozen=True, eq=False)
class HeldEmbeddings:
    """Embeddings on the device."""

    rows: Tensor
    """[ASVs that were embedded, D]."""
    place: Tensor
    """int64 [ASVs of the table], their rows."""

    def of(self, asv: Tensor) -> Tensor:
        """See `AsvEmbeddings`."""
        return self.rows[self.place[asv]]


@dataclass(frozen=True, eq=False)
class MappedEmbeddings:
    """Embeddings on disk."""

    files: EmbeddingFiles
    places: Places
    place: Ints
    """int64 [ASVs of the table], which of the places is theirs."""

    def of(self, asv: Tensor) -> Tensor:
        """See `AsvEmbeddings`."""
        places = _some(self.places, self.place[asv.cpu().numpy()])
        return torch.from_numpy(self.files.read(places)).to(asv.device)


def _some(places: Places, chosen: Ints) -> Places:
    return Places(places.files, places.file[chosen], places.record[chosen])


@torch.no_grad()
def embed_asvs(model: AsvEncoding, nucleotides: Tensor, asv: Ints, compute: Compute) -> Tensor:
    """Embed ASVs, columns of the table [U], each on one rank, for all ranks: [U, D], in single precision or better.

    The model is in evaluation mode; the nucleotides of the table, uint8 [ASVs, L], are on the device.
    """
    done: Tensor | None = None
    for start in range(0, len(asv), TOGETHER):
        some = asv[start : start + TOGETHER]
        own = torch.from_numpy(some[compute.world.part(len(some)).position]).to(compute.device)
        with compute.autocast():
            rows = torch.cat([model.embed_asvs(nucleotides[part]) for part in torch.split(own, ROWS)])
        joined = compute.world.join(rows, len(some))
        if done is None:
            done = joined.new_empty(len(asv), joined.shape[1], dtype=torch.promote_types(rows.dtype, torch.float32))
        done[start : start + len(some)] = joined
    assert done is not None
    return done


def embeddings_of(
    model: SequenceEncoder | SequencePredictor,
    nucleotides: Tensor,
    asv: Ints,
    compute: Compute,
    cache: Path | None = None,
) -> AsvEmbeddings:
    """Embed ASVs as `embed_asvs`, or read what another run with the same encoder has kept; every rank calls this.

    The cache is a folder of kept embeddings, of any encoders; None keeps none.

    Raises:
        InputError: the folder cannot be written, or not be seen from every process.
    """
    if cache is None:
        return held(embed_asvs(model, nucleotides, asv, compute), asv, len(nucleotides))
    files = cache_of(model, compute, cache)
    keys = token_keys(nucleotides[torch.from_numpy(asv).to(nucleotides.device)].cpu().numpy())
    places = compute.world.on_main(lambda: files.find(keys))
    new = np.flatnonzero(places.file == UNKNOWN)
    logger.info("embeddings of %d ASVs: %d are kept in %s, %d are new", len(asv), len(asv) - len(new), cache, len(new))
    if len(asv) * files.record["row"].itemsize <= HELD_BYTES:
        rows = _completed(model, nucleotides, asv, compute, (files, keys, places))
        return held(rows, asv, len(nucleotides))
    for start in range(0, len(new), TOGETHER):
        some = new[start : start + TOGETHER]
        _keep(files, keys[some], embed_asvs(model, nucleotides, asv[some], compute), compute)
    places = compute.world.on_main(lambda: files.find(keys))
    if not files.folder.exists():
        raise InputError(
            f"--embedding-cache {cache} cannot be seen from process {compute.world.rank}: put it on a shared disk"
        )
    return MappedEmbeddings(files, places, _place(asv, len(nucleotides)))


def held(rows: Tensor, asv: Ints, asvs: int) -> HeldEmbeddings:
    """Hold embeddings [U, D] of some ASVs, columns [U] of a table with so many."""
    return HeldEmbeddings(rows, torch.from_numpy(_place(asv, asvs)).to(rows.device))


def _place(asv: Ints, asvs: int) -> Ints:
    place = np.full(asvs, len(asv))  # no row: to ask for an ASV that was not embedded fails
    place[asv] = np.arange(len(asv))
    return place


def _completed(
    model: AsvEncoding,
    nucleotides: Tensor,
    asv: Ints,
    compute: Compute,
    kept: tuple[EmbeddingFiles, Keys, Places],
) -> Tensor:
    """Embeddings [U, D] on the device: rank 0 reads what is kept, for all ranks, and keeps what is new."""
    files, keys, places = kept
    known, new = np.flatnonzero(places.file != UNKNOWN), np.flatnonzero(places.file == UNKNOWN)
    rows = torch.from_numpy(np.zeros((len(asv), files.width), files.record["row"].base))
    if compute.world.is_main:
        rows[torch.from_numpy(known)] = torch.from_numpy(files.read(_some(places, known)))
    rows = compute.world.sum(rows.to(compute.device))
    if len(new):
        added = embed_asvs(model, nucleotides, asv[new], compute)
        _keep(files, keys[new], added, compute)
        rows[torch.from_numpy(new).to(rows.device)] = added
    return rows


def _keep(files: EmbeddingFiles, keys: Keys, rows: Tensor, compute: Compute) -> None:
    compute.world.on_main(lambda: files.add(keys, rows.cpu().numpy()))


def cache_of(model: SequenceEncoder | SequencePredictor, compute: Compute, cache: Path) -> EmbeddingFiles:
    """The kept embeddings of a model's encoder at a precision; every rank calls this.

    The folder's name is a hash of all that an embedding depends on besides the ASV: the weights of the nucleotide level
    but for its head, its shape, and how precisely it computes. How attention is computed only rounds.
    """
    encoder = model.encoder if isinstance(model, SequencePredictor) else model
    config, weights = encoder.config, gather_whole(encoder.asv_encoder.state_dict(), keep=True)
    precise = not (compute.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32)
    shape = (config.attention_heads, config.nucleotide_patch, compute.device.type, compute.dtype, precise)
    hashed = blake2b(repr((FORMAT, *shape)).encode(), digest_size=16)
    for name, weight in sorted(weights.items()):
        if not name.startswith("nucleotide_head."):
            hashed.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            hashed.update(weight.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    dtype: np.dtype[np.floating] = np.dtype("<f8" if next(encoder.scale.parameters()).dtype == torch.float64 else "<f4")
    return EmbeddingFiles(cache / hashed.hexdigest(), config.embedding_dim, dtype)

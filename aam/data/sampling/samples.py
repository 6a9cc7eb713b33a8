"""Samples as tensors: what is drawn of them for a batch, and what a model reads of the batch.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides, D width, F features, K categorical
columns.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from aam.data.arrays import Ints


class Samples(NamedTuple):
    """What models read. A tuple of tensors, which PyTorch's wrappers (DDP, FSDP, export) look into."""

    asvs: Tensor
    """The unique ASVs: integer [U, L], nucleotides with padding at the end; or floating [U, D], their embeddings."""
    asv_index: Tensor
    """int64 [B, S], which of the U each ASV of a sample is; any valid index where padding."""
    counts: Tensor
    """[B, S], reads of each ASV."""
    depth: Tensor
    """[B], reads of the sample, also of ASVs that are not among the S."""
    padding: Tensor
    """bool [B, S], True where there is no ASV."""
    masked_nucleotides: Tensor | None = None
    """bool [U, L], nucleotides to mask and predict, none of them padding; None for none."""
    masked_abundances: Tensor | None = None
    """bool [B, S], ASVs whose abundance is masked and predicted; None for none."""
    categories: Tensor | None = None
    """int64 [B, K], indices of categories, where the prediction depends on some."""
    pooled: Tensor | None = None
    """[B, D + F], samples that are embedded already (`aam.models.sequence_predictor.pool`): ASVs are not read then."""

    @property
    def are_embedded(self) -> bool:
        """Whether the ASVs are embeddings and not nucleotides."""
        return self.asvs.is_floating_point()

    @classmethod
    def of_pooled(cls, pooled: Tensor, categories: Tensor | None = None) -> Self:
        """Samples of which their embeddings [B, D + F] are all that is read."""
        rows = len(pooled)
        no_asvs = pooled.new_zeros(0, 0)
        none = pooled.new_zeros(rows, 0, dtype=torch.int64)
        padding = pooled.new_zeros(rows, 0, dtype=torch.bool)
        return cls(no_asvs, none, none, none.new_zeros(rows), padding, categories=categories, pooled=pooled)

    def to(self, device: torch.device) -> Self:
        """Copy to a device."""
        return type(self)._make(None if part is None else part.to(device) for part in self)

    def split(self, parts: int) -> list["SamplePart"]:
        """Cut into parts of consecutive samples (no more than there are), each with the unique ASVs that it holds.

        Every unique ASV is owned by the first part that holds it, where alone its nucleotides are masked.

        Raises:
            ValueError: a unique ASV is in no sample.
        """
        # all of them first, on one device: what is asked of a tensor's values makes the host wait
        taken = torch.zeros(len(self.asvs), dtype=torch.bool, device=self.padding.device)
        cut = []
        for rows in torch.arange(len(self.padding), device=self.padding.device).tensor_split(
            min(parts, len(self.padding))
        ):
            present = ~self.padding[rows]
            held = torch.zeros_like(taken).index_fill_(0, self.asv_index[rows][present], True)
            asv = held.nonzero().squeeze(1)
            owned = ~taken[asv]
            taken |= held
            index = (held.cumsum(0) - 1)[self.asv_index[rows]].masked_fill(~present, 0)
            cut.append(SamplePart(self._rows(rows, asv, index, owned), asv, owned))
        if not bool(taken.all()):
            raise ValueError("a unique ASV of the batch is in none of its samples")
        return cut

    def _rows(self, rows: Tensor, asv: Tensor, index: Tensor, owned: Tensor) -> Self:
        def of(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[rows]

        masked = self.masked_nucleotides
        return type(self)(
            self.asvs[asv],
            index,
            self.counts[rows],
            self.depth[rows],
            self.padding[rows],
            None if masked is None else masked[asv] & owned[:, None],
            of(self.masked_abundances),
            of(self.categories),
            of(self.pooled),
        )


class SamplePart(NamedTuple):
    """Some samples of a batch, with the unique ASVs that they hold."""

    samples: Samples
    asv: Tensor
    """int64 [U_p], ascending: which of the batch's U each of its ASVs is."""
    owned: Tensor
    """bool [U_p], whether this is the first part that holds the ASV."""


class TensorRecord:
    """Moving the tensors of a frozen dataclass, for the trainer and for DataLoader's pinning."""

    def _map(self, move: str, *args: object, **kwargs: object) -> Self:
        moved: dict[str, object] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor | TensorRecord):
                moved[field.name] = getattr(value, move)(*args, **kwargs)
            elif isinstance(value, tuple) and value and isinstance(value[0], TensorRecord):
                moved[field.name] = tuple(getattr(item, move)(*args, **kwargs) for item in value)
        return replace(self, **moved)  # type: ignore[type-var]

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """Copy to a device."""
        return self._map("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from which a GPU reads faster."""
        return self._map("pin_memory")


@dataclass(frozen=True, eq=False)
class SampleBatch(TensorRecord):
    """Samples of the table as they were drawn for a batch, with indices into their unique ASVs."""

    sample: Tensor
    """int64 [B], rows of the table."""
    asv: Tensor
    """int64 [U], columns of the table (rows of the table of nucleotides), ascending."""
    asv_index: Tensor
    """int64 [B, S], which of the U each ASV of a sample is; 0 where padding."""
    counts: Tensor
    """int64 [B, S], reads of the ASV in the sample; 0 where padding."""
    depth: Tensor
    """int64 [B], reads drawn of the sample, also of ASVs that ``max_asvs`` leaves out."""
    padding: Tensor
    """bool [B, S], True where there is no ASV."""
    occurrence: Tensor
    """int64 [U], samples of the batch that hold the ASV."""
    is_padding: bool = False
    """Whether this stands in for a rank's part without samples: it counts for nothing, and its occurrences are 0."""

    @classmethod
    def without_asvs(cls, samples: Ints, is_padding: bool = False) -> Self:
        """Samples of the table, for a model that begins from embedded samples."""
        none, flat = torch.zeros(0, dtype=torch.int64), torch.zeros(len(samples), 0, dtype=torch.int64)
        sample, depth = torch.from_numpy(samples), flat.new_zeros(len(samples))
        return cls(sample, none, flat, flat, depth, flat.bool(), none, is_padding)

    @property
    def real(self) -> slice:
        """The rows that count."""
        return slice(0, 0 if self.is_padding else len(self.sample))

    def samples(self, asvs: Tensor, categories: Tensor | None = None) -> Samples:
        """What a model reads of it: nucleotides [U, L] or embeddings [U, D] of `asv`, and categories, int64 [B, K]."""
        return Samples(asvs, self.asv_index, self.counts, self.depth, self.padding, categories=categories)

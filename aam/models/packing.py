"""How rows of different lengths go through the blocks: with their padding, or packed one after the other without it.

Shapes: R rows (ASVs or samples), N positions of the longest, T real positions of all rows together, H heads, E width of
a head, D width.
"""

from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from aam.config import AttnImplementation

HAS_VARLEN: Final = find_spec("torch.nn.attention.varlen") is not None
"""Whether PyTorch has attention over packed rows (CUDA, half precision)."""


class Lengths(NamedTuple):
    """Packed rows, and where each begins; rows of equal length follow one another."""

    runs: tuple[tuple[int, int], ...]
    """Numbers of rows, and the positions of each of these rows."""
    varlen: bool = False
    """Whether one kernel attends within all rows; else each run has a call of its own."""

    @classmethod
    def of(cls, lengths: list[int], varlen: bool) -> Self:
        """Describe rows of these lengths, in their order; rows without positions are nowhere."""
        runs = [(len(list(rows)), length) for length, rows in groupby(lengths)]
        return cls(tuple(run for run in runs if run[1]), varlen)

    def cut(self, rows: int | None, positions: int) -> list[Self]:
        """Cut into chunks of whole rows: each of up to so many rows, or else positions, but one row at least."""
        chunks: list[list[tuple[int, int]]] = []
        room = 0
        for number, length in self.runs:
            cost, limit = (length, max(positions, length)) if rows is None else (1, rows)
            left = number
            while left:
                if room < cost:
                    chunks.append([])
                    room = limit
                taken = min(left, room // cost)
                chunks[-1].append((taken, length))
                left, room = left - taken, room - taken * cost
        return [type(self)(tuple(chunk), self.varlen) for chunk in chunks]

    @property
    def total(self) -> int:
        """Positions of all rows, T."""
        return sum(number * length for number, length in self.runs)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within each row: [T, H, E] -> [T, H, E]."""
        if not self.runs:
            return value
        return self._attend_at_once(query, key, value) if self.varlen else self._attend_by_runs(query, key, value)

    def _attend_by_runs(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        sizes = [number * length for number, length in self.runs]
        # a split, since the backward pass of single slices would fill the whole with zeros for each
        parts = zip(self.runs, *(torch.split(x, sizes) for x in (query, key, value)), strict=True)
        mixed = []
        for run, *of_run in parts:
            heads_first = (x.unflatten(0, run).transpose(1, 2) for x in of_run)
            mixed.append(functional.scaled_dot_product_attention(*heads_first).transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed)

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        lengths = [length for number, length in self.runs for _ in range(number)]
        start = functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(query.device, torch.int32)
        # absent from older PyTorch
        varlen_attn = import_module("torch.nn.attention.varlen").varlen_attn
        mixed: Tensor = varlen_attn(query, key, value, start, start, max(lengths), max(lengths))
        return mixed


Attend = Lengths | Tensor | None
"""What a block knows of rows: that they are packed; where padding is, False in bool [R, 1, 1, N]; None: all real."""


class Padded(NamedTuple):
    """Rows stay as they are: none has padding, or attention gets a mask of it."""

    attend: Tensor | None

    def pack(self, x: Tensor) -> Tensor:
        """The same; see `Packed`."""
        return x

    def unpack(self, x: Tensor) -> Tensor:
        """The same; see `Packed`."""
        return x


class Packed(NamedTuple):
    """Real positions of all rows, shorter rows first."""

    attend: Lengths
    place: Tensor
    """int64 [T], where the positions are among the R x N."""
    rows: int
    positions: int

    @classmethod
    def of(cls, padding: Tensor, lengths: list[int], varlen: bool) -> Self:
        """Pack rows, bool [R, N], True where padding, with so many real positions each; see `Lengths` for `varlen`."""
        rows, positions = padding.shape
        order = sorted(range(rows), key=lengths.__getitem__)
        by_length = torch.tensor(order, device=padding.device)
        row, column = (~padding[by_length]).nonzero(as_tuple=True)
        attend = Lengths.of([lengths[i] for i in order], varlen)
        return cls(attend, by_length[row] * positions + column, rows, positions)

    def pack(self, x: Tensor) -> Tensor:
        """Take the real positions: [R, N, ...] -> [T, ...]."""
        return x.flatten(0, 1).index_select(0, self.place)

    def unpack(self, x: Tensor) -> Tensor:
        """Put them back: [T, ...] -> [R, N, ...], zero where padding."""
        # no view of a flat one: FSDP, which hooks what a level returns, warns of them
        padded = x.new_zeros(self.rows, self.positions, *x.shape[1:])
        return padded.index_put((self.place // self.positions, self.place % self.positions), x)


Layout = Padded | Packed
"""The form in which blocks transform padded rows."""


def layout_of(padding: Tensor, implementation: AttnImplementation, head: int) -> Layout:
    """Choose how rows with padding go through the blocks.

    Packed where attention over packed rows is fast: on a CPU, row by row, and on a GPU in half precision, by the kernel
    of variable length; padded elsewhere.

    Args:
        padding: bool [R, N], True where padding.
        implementation: the kernel that was asked for.
        head: width of a head, E.
    """
    varlen = has_varlen(padding.device, implementation, head)
    if padding.is_cuda and not varlen:
        return Padded(~padding[:, None, None, :])
    lengths = (~padding).sum(1).tolist()
    if min(lengths, default=0) == padding.shape[1]:
        return Padded(None)
    return Packed.of(padding, lengths, varlen)


def has_varlen(device: torch.device, implementation: AttnImplementation, head: int) -> bool:
    """Whether a device has the kernel of variable length, for heads of a width and the precision of autocast here."""
    if device.type != "cuda":
        return False
    half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in (torch.bfloat16, torch.float16)
    fits = head % 8 == 0 and head <= 256 and implementation in ("sdpa", "flash")
    ampere = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return HAS_VARLEN and half and fits and ampere

"""Seeded draws: every draw is a function of what it is for, never of what was drawn before.

Two counter-based sources: `generator` (numpy's Philox keyed by a hash of what it is for, on the host) and
`uniforms` (the SplitMix64 finaliser over key and position, vectorised, the same bits on CPU and GPU).

Sources: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox); Steele, Lea and Flood 2014, Fast
splittable pseudorandom number generators (SplitMix64).
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from aam.data.arrays import Ints

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def derived_seed(*purpose: int | str, bits: int = 64) -> int:
    """Hash what a draw is for to an unsigned integer, the same on every machine and in every run of Python."""
    # numpy's integers and strings are spelled differently by repr than Python's own
    plain = tuple(str(part) if isinstance(part, str) else int(part) for part in purpose)
    return int.from_bytes(blake2b(repr(plain).encode(), digest_size=bits // 8).digest(), "little")


def text_keys(names: Iterable[str]) -> Ints:
    """Hash each name to a key for `uniforms`: int64 [names]."""
    return np.array([derived_seed(name) for name in names], dtype=np.uint64).view(np.int64)


def generator(*purpose: int | str) -> np.random.Generator:
    """Return the generator of a purpose such as ``(seed, "shuffle", epoch)``."""
    return np.random.Generator(np.random.Philox(key=derived_seed(*purpose, bits=128)))


def uniforms(seed: int, keys: Tensor, length: int) -> Tensor:
    """Draw uniform numbers in [0, 1) for keys and positions: float64 [U, length].

    A row depends on the seed (a `derived_seed`) and its key alone, of int64 [U], such as the hash of an ASV's sequence.
    """
    position = torch.arange(1, length + 1, dtype=torch.int64, device=keys.device) * _signed(_GOLDEN)
    state = _finalise(keys ^ _signed(seed))[:, None] + position
    return _logical_shift(_finalise(state), 11).to(torch.float64) * 2.0**-53


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * _signed(_MIX[0])
    x = (x ^ _logical_shift(x, 27)) * _signed(_MIX[1])
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros; torch's own shift of int64 copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value

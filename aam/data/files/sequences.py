"""DNA text to token rows.

Shapes: L nucleotides. A token row is padded on the right with `PAD`.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aam.data.arrays import Ints
from aam.data.files.counts import release, scratch
from aam.errors import InputError

PAD, A, C, G, T, N, MASK = range(7)
VOCABULARY_SIZE = 7

TOKENS_IN_MEMORY = 2**26
"""Nucleotides from which token rows lie in a scratch file."""
SEQUENCES_AT_ONCE = 2**14
"""Sequences that are encoded together."""

_INVALID = 255
_AMBIGUOUS = "RYSWKMBDHVN"
_DNA = re.compile(f"[ACGTU{_AMBIGUOUS}]+", re.IGNORECASE | re.ASCII)


def _token_of_byte() -> NDArray[np.uint8]:
    table = np.full(256, _INVALID, dtype=np.uint8)
    tokens = {"A": A, "C": C, "G": G, "T": T, "U": T} | dict.fromkeys(_AMBIGUOUS, N)
    for letter, token in tokens.items():
        table[[ord(letter), ord(letter.lower())]] = token
    return table


_TOKENS = _token_of_byte()


def is_dna(text: str) -> bool:
    """Whether the text is made of IUPAC nucleotide letters only (U included, any case); an empty text is not."""
    return _DNA.fullmatch(text) is not None


def normalize(sequence: str) -> str:
    """Spelling by which equal sequences are recognized: upper case, T for U."""
    return sequence.upper().replace("U", "T")


def check_letters(sequences: Sequence[str], names: Sequence[str], source: str = "") -> None:
    """Make sure that every sequence is DNA; messages call each ASV by its name, and name the file they are from.

    Raises:
        InputError: a sequence is empty or has a letter outside IUPAC's; names the ASV, the letter and its place.
    """
    for name, sequence in zip(names, sequences, strict=True):
        if not is_dna(sequence):
            shown = name if len(name) <= 40 else f"{name[:37]}..."
            raise InputError(f"{source}{': ' if source else ''}ASV {shown} {_fault(sequence)}")


def _fault(sequence: str) -> str:
    if not sequence:
        return "has an empty sequence"
    place, letter = next((place, letter) for place, letter in enumerate(sequence, start=1) if not is_dna(letter))
    return f"has {letter!r} at position {place}, which is no nucleotide (IUPAC letters are; remove gaps)"


def encode_sequences(sequences: Sequence[str], max_bp: int | None = None) -> NDArray[np.uint8]:
    """Turn DNA text, in any case, into token rows: uint8 [ASVs, L], L being the length of the longest that is kept.

    Ambiguity codes become `N`, never `PAD`. Sequences of more than ``max_bp`` nucleotides are cut at their end.

    Raises:
        InputError: a sequence is empty or has a letter outside IUPAC's.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    lengths = lengths if max_bp is None else np.minimum(lengths, max_bp)
    shape = (len(lengths), int(lengths.max(initial=0)))
    tokens = scratch(shape, np.uint8) if math.prod(shape) > TOKENS_IN_MEMORY else np.empty(shape, np.uint8)
    for start in range(0, len(lengths), SEQUENCES_AT_ONCE):
        part = slice(start, start + SEQUENCES_AT_ONCE)
        _encode(sequences[part], lengths[part], tokens[part])
        release(tokens)
    return tokens


def _encode(sequences: Sequence[str], lengths: Ints, tokens: NDArray[np.uint8]) -> None:
    """Fill the rows of some sequences."""
    kept = [text[:length] for text, length in zip(sequences, lengths.tolist(), strict=True)]
    # One byte a letter, so that the lengths hold; what Latin-1 lacks becomes "?", which is no nucleotide either.
    letters = np.frombuffer("".join(kept).encode("latin-1", errors="replace"), dtype=np.uint8)
    flat = _TOKENS[letters]
    if (lengths == 0).any() or (flat == _INVALID).any():
        check_letters(kept, sequences)
    tokens[:] = PAD
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = flat


def sequence_keys(sequences: Sequence[str]) -> Ints:
    """Address of each ASV, int64 [ASVs]: a 64-bit BLAKE2b hash of its normalized sequence, everywhere the same."""
    digests = b"".join(hashlib.blake2b(normalize(text).encode(), digest_size=8).digest() for text in sequences)
    keys: NDArray[Any] = np.frombuffer(digests, dtype="<i8")
    return keys.astype(np.int64)

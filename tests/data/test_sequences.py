"""Nucleotides to tokens, letter by letter, and the address of a sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam.data.files import sequences as seq
from aam.errors import InputError

LETTERS = "ACGTURYSWKMBDHVN"
dna = st.text(alphabet=LETTERS + LETTERS.lower(), min_size=1, max_size=40)


def naive_tokens(text: str) -> list[int]:
    names = {"A": 1, "C": 2, "G": 3, "T": 4, "U": 4}
    return [names.get(letter, 5) for letter in text.upper()]


def test_vocabulary_is_fixed_because_checkpoints_depend_on_it():
    tokens = [seq.PAD, seq.A, seq.C, seq.G, seq.T, seq.N, seq.MASK]
    assert tokens == list(range(7))
    assert seq.VOCABULARY_SIZE == 7


@given(st.lists(dna, min_size=1, max_size=8), st.none() | st.integers(1, 45))
def test_encode_agrees_with_a_letter_by_letter_encoder(texts, max_bp):
    tokens = seq.encode_sequences(texts, max_bp)
    kept = [text[:max_bp] for text in texts]
    assert tokens.dtype == np.uint8
    assert tokens.shape == (len(texts), max(map(len, kept)))
    for row, text in zip(tokens, kept, strict=True):
        assert row[: len(text)].tolist() == naive_tokens(text)
        assert (row[len(text) :] == seq.PAD).all()


def test_no_sequences_give_no_rows():
    assert seq.encode_sequences([]).shape == (0, 0)


@pytest.mark.parametrize("letter", ["-", ".", "X", " ", "\n", "é", "Σ", "5", "\u0131"])
def test_other_letters_are_refused_with_their_place(letter):
    with pytest.raises(InputError, match=r"(?s)ASV ACGTA.* at position 6"):
        seq.encode_sequences(["ACGT", f"ACGTA{letter}"])


def test_empty_sequence_is_refused():
    with pytest.raises(InputError, match="empty sequence"):
        seq.encode_sequences(["ACGT", ""])


def test_letters_behind_the_cut_are_not_read():
    assert seq.encode_sequences(["ACGTXX"], max_bp=4).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("text", ["A", "acgt", "ACGU", "RYSWKMBDHVN"])
def test_is_dna(text):
    assert seq.is_dna(text)


@pytest.mark.parametrize(
    "text", ["", "ACG-T", "ACGT ", "ACGT\n", "4b5eeb300368260019c1fbc7a3c718fc", "\u017f", "ACGT;size=4"]
)
def test_is_not_dna(text):
    assert not seq.is_dna(text)


def test_keys_are_the_same_on_every_machine():
    # printf ACGT | b2sum -l 64, read as a little-endian signed integer
    assert seq.sequence_keys(["ACGT"]).tolist() == [
        int.from_bytes(bytes.fromhex("6aff391ce7387247"), "little", signed=True)
    ]


@given(dna)
def test_keys_ignore_case_and_rna_spelling(text):
    upper, lower, rna = seq.sequence_keys([text.upper(), text.lower(), text.upper().replace("T", "U")])
    assert upper == lower == rna


def test_keys_of_different_sequences_differ():
    rows = np.random.default_rng(1).integers(0, 4, (20_000, 20))
    texts = {"".join("ACGT"[base] for base in row) for row in rows}
    keys = seq.sequence_keys(sorted(texts))
    assert keys.dtype == np.int64
    assert len(set(keys.tolist())) == len(texts)


def test_many_asvs_are_encoded_alike():
    tokens = seq.encode_sequences(["ACGTN" * 30] * 200_000)
    assert tokens.shape == (200_000, 150)
    assert (tokens == tokens[0]).all()

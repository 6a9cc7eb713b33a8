"""HDF5 files with one byte changed, at which libhdf5 would loop for ever: one clear error, in time."""

import io
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import biom
import h5py
import numpy as np
import pytest
from biom.util import biom_open

from aam.cli import main as entry
from aam.data.distances.matrix import read_distance_matrix
from aam.data.files import hdf5_guard
from aam.data.files.hdf5_guard import SIGNATURE, check_ends
from aam.data.files.table_files import read_table_file
from aam.errors import InputError

SAMPLES = [f"S{number:04}" for number in range(60)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is enough for files of these sizes."""
    monkeypatch.setattr(hdf5_guard, "LEAST_SECONDS", 1.0)


def table(path: Path, samples: list[str] = SAMPLES) -> bytes:
    counts = np.random.default_rng(1).integers(1, 9, (80, len(samples))).astype(float)
    ids = ["ACGT" * 8 + f"{number:08b}".replace("0", "A").replace("1", "C") for number in range(80)]
    with biom_open(str(path), "w") as file:
        biom.Table(counts, ids, samples).to_hdf5(file, "test")
    return path.read_bytes()


def looping(content: bytes) -> bytes:
    """Change one byte: the second lowest of the size of a text, so that what follows begins among zeros.

    These are read as an object of index 0 and of no size, after which the library looks at the same place again. Found
    by changing single bytes at random: 6 of 16,844 changes did so, all of them in sizes of texts.
    """
    start = content.rfind(SIGNATURE)  # of short ids
    (length,) = struct.unpack_from("<Q", content, start + 8)
    heap = content[start : start + length]
    for place in _objects(heap):
        for wrong in range(1, 256):
            (size,) = struct.unpack_from("<Q", heap, place + 8)
            after = place + 16 + -(-(size + 256 * wrong) // 8) * 8
            if len(heap[after : after + 16]) == 16 and not any(heap[after : after + 16]):
                return content[: start + place + 9] + bytes([wrong]) + content[start + place + 10 :]
    raise AssertionError("the heap is full")


def _objects(heap: bytes) -> Iterator[int]:
    """Where the texts of a heap begin."""
    place = 16
    while heap[place : place + 2] != bytes(2):
        yield place
        place += 16 + -(-struct.unpack_from("<Q", heap, place + 8)[0] // 8) * 8


def as_it_is(content: bytes) -> bytes:
    return content


def in_an_artifact(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("5178/metadata.yaml", "uuid: 5178\ntype: FeatureTable[Frequency]\nformat: F\n")
        archive.writestr("5178/data/feature-table.biom", content)
    return file.getvalue()


@pytest.mark.parametrize("packed", [as_it_is, in_an_artifact])
def test_a_table_that_libhdf5_loops_at(packed, tmp_path: Path) -> None:
    path = tmp_path / "t.biom"
    path.write_bytes(packed(looping(table(path))))
    began = time.monotonic()
    with pytest.raises(InputError, match=r"t\.biom: the HDF5 file is damaged \(HDF5 does not come to an end .* copy"):
        read_table_file(path)
    assert time.monotonic() - began < 20


def test_the_command_says_so(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("t.biom")
    path.write_bytes(looping(table(path)))
    Path("t.nwk").write_text("(a:1,b:1);\n")
    with pytest.raises(SystemExit) as caught:
        entry(["unifrac", "--table", "t.biom", "--tree", "t.nwk", "--output", "d.tsv"])
    said = capsys.readouterr().err
    assert (caught.value.code, said.count("Error")) == (2, 1), said
    assert "does not come to an end" in said


def test_a_matrix_that_libhdf5_loops_at(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        file["order"] = [name.encode() for name in SAMPLES]
        file.create_dataset("matrix", data=np.zeros((60, 60)), chunks=(10, 10))
    path.write_bytes(looping(path.read_bytes()))
    with pytest.raises(InputError, match=r"d\.h5: the HDF5 file is damaged"):
        read_distance_matrix(path)


def test_a_file_at_which_libhdf5_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program in the place of Python, as no byte was found that makes this version of the library crash."""
    crashing = tmp_path / "crashing"
    crashing.write_text("#!/bin/sh\ncat > /dev/null\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    damaged = looping(table(tmp_path / "t.biom"))
    monkeypatch.setattr("sys.executable", str(crashing))
    with pytest.raises(InputError, match="HDF5 crashes at it, by signal 11"):
        check_ends(io.BytesIO(damaged), ["sample/ids"], "the table")


def test_counts_that_look_like_a_heap(tmp_path: Path) -> None:
    """What is no heap, though it has the signature of one, is left to the other process, which finds nothing wrong."""
    path = tmp_path / "t.biom"
    table(path)
    with h5py.File(path, "r+") as file:
        file["other"] = np.frombuffer(SIGNATURE + bytes(8 * 50 - len(SIGNATURE)), np.int64)
    content = path.read_bytes()
    assert not all(map(hdf5_guard._ends, hdf5_guard._collections(io.BytesIO(content))))
    assert read_table_file(path).sample_ids == tuple(SAMPLES)


def test_sound_files_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.biom"
    table(path, [f"a sample with a longer name {number}" for number in range(3000)])
    monkeypatch.setattr("sys.executable", "")
    assert len(read_table_file(path).sample_ids) == 3000


@pytest.mark.parametrize("block", [1 << 24, 7, 64])
def test_signatures_are_found_across_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_guard, "_BLOCK", block)
    content = b"x" * 5 + SIGNATURE + b"y" * 58 + SIGNATURE + SIGNATURE
    assert list(hdf5_guard._places(io.BytesIO(content))) == [5, 68, 73]

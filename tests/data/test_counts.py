"""Counts in memory and in scratch files."""

import fcntl
import gzip
import mmap
import os
import re
import zipfile
from pathlib import Path

import biom
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from aam.config import PretrainConfig
from aam.data.files import counts as module
from aam.data.files import sequences
from aam.data.files.counts import (
    Counts,
    CountsBuilder,
    Source,
    blocks_of,
    canonical,
    column_sums,
    gather,
    held_by,
    release,
    row_sums,
    scratch,
)
from aam.data.files.tables import read_tables
from aam.errors import InputError
from aam.training.sinks.sink import Results
from aam.workflows.fit import fit
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining


@pytest.fixture
def on_disk(monkeypatch):
    """Let every table lie on disk, and work on a few cells at a time."""
    monkeypatch.setattr(module, "CELLS_IN_MEMORY", -1)
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(sequences, "TOKENS_IN_MEMORY", 0)
    monkeypatch.setattr(sequences, "SEQUENCES_AT_ONCE", 3)


def is_mapped(counts: Counts) -> bool:
    """Whether the cells are views of a file."""
    base = counts.data
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap.mmap)


def dense(seed: int, rows: int, columns: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 9, (rows, columns)) * (random.random((rows, columns)) < 0.4)


@given(seed=st.integers(0, 99), disk=st.booleans(), block=st.sampled_from([1, 5, 1000]))
def test_rows_and_columns_are_chosen_and_added_up(seed: int, disk: bool, block: int):
    random = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELLS_IN_MEMORY", -1 if disk else 10**9)
        patch.setattr(module, "BLOCK", block)
        expected = np.zeros((6, 5), dtype=np.int64)
        sources = []
        for _ in range(random.integers(1, 4)):
            whole = dense(int(random.integers(1000)), 4, 7)
            row, column = random.integers(-1, 4, 6), random.integers(-1, 5, 7)
            for result, source in enumerate(row):
                for start, place in enumerate(column):
                    if source >= 0 and place >= 0:
                        expected[result, place] += whole[source, start]
            sources.append(Source(canonical(sparse.csr_array(whole)), row, column))
        built = gather(sources, 5)
        assert is_mapped(built) == disk
        assert built.toarray().tolist() == expected.tolist()
        again = canonical(built)
        assert np.array_equal(again.indices, built.indices)
        assert column_sums(built).tolist() == expected.sum(0).tolist()
        assert row_sums(built).tolist() == expected.sum(1).tolist()
        some = np.array([3, 1])
        assert held_by(built, some).tolist() == (expected[some] > 0).sum(0).tolist()


@given(sizes=st.lists(st.integers(0, 9), max_size=20), block=st.integers(1, 30))
def test_blocks_hold_whole_rows(sizes: list[int], block: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        cut = list(blocks_of(np.array(sizes, dtype=np.int64)))
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(part.stop == part.start + 1 or sum(sizes[part]) <= block for part in cut)


def test_counts_of_more_than_32_bits_stay_what_they_are(on_disk):
    builder = CountsBuilder(3, 4)
    builder.append(canonical(sparse.csr_array([[1, 0, 2]])))
    assert builder.data.dtype == np.int32
    builder.append(canonical(sparse.csr_array([[0, 2**40, 5]])))
    assert builder.finish().toarray().tolist() == [[1, 0, 2], [0, 2**40, 5]]


def test_a_full_disk_is_told_before_anything_is_written(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(InputError, match=r"no room for 0\.4 GB in .* \(No space left on device\): set .* TMPDIR"):
        scratch(10**8, np.int32)


def test_scratch_files_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    held = scratch((3, 4), np.int64)
    held[:] = 5
    assert held.sum() == 60
    assert list(tmp_path.iterdir()) == []


def test_a_study_on_disk_is_that_in_memory(study_folder: Path, on_disk, monkeypatch):
    files = [study_folder / "table.biom"] * 2
    streamed = read_tables(files)
    assert is_mapped(streamed.counts)
    monkeypatch.undo()
    held = read_tables(files)
    assert not is_mapped(held.counts)
    assert (streamed.sample_ids, streamed.asv_ids, streamed.sequences) == (
        held.sample_ids,
        held.asv_ids,
        held.sequences,
    )
    assert np.array_equal(streamed.counts.toarray(), held.counts.toarray())
    assert held.depth.tolist() == (2 * read_tables(files[:1]).depth).tolist()


@pytest.fixture(params=["BIOM 2.1", "BIOM 2.0", "JSON", "TSV", "TSV gzipped", "qza"])
def write_layout(request):
    """Writes a table in one of the formats."""
    table = biom.Table(SHARED.T, list(SHARED_NAMES), [f"S{row}" for row in range(len(SHARED))])

    def write(path: Path) -> None:
        match request.param:
            case "JSON":
                path.write_text(table.to_json("test"))
            case "TSV":
                path.write_text(table.to_tsv())
            case "TSV gzipped":
                path.write_bytes(gzip.compress(table.to_tsv().encode()))
            case _:
                with h5py.File(path, "w") as file:
                    table.to_hdf5(file, "test")
        if request.param == "BIOM 2.0":
            with h5py.File(path, "r+") as file:
                for name in ("data", "indices", "indptr"):
                    file.move(f"sample/matrix/{name}", f"sample/{name}")
                del file["sample/matrix"]
        if request.param == "qza":
            content = path.read_bytes()
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("u/metadata.yaml", "uuid: u\ntype: FeatureTable[Frequency]\nformat: BIOMV210DirFmt\n")
                archive.writestr("u/data/feature-table.biom", content)

    return write


SHARED = np.random.default_rng(3).integers(0, 4, (9, 6)).astype(float)
SHARED_NAMES = [letters * 5 for letters in ("ACGTA", "acgua", "ACGTC", "GGGTC", "gggtc", "TTTTA")]
"""Two pairs that are one sequence each, in other letters."""


def test_every_format_on_disk_is_that_in_memory(write_layout, tmp_path: Path, on_disk, monkeypatch):
    files = [tmp_path / "one", tmp_path / "other"]
    for path in files:
        write_layout(path)
    streamed = [read_tables(files[:number]) for number in (1, 2)]
    assert all(is_mapped(table.counts) for table in streamed)
    monkeypatch.undo()
    for number, table in enumerate(streamed, start=1):
        held = read_tables(files[:number])
        assert not is_mapped(held.counts)
        assert (table.sample_ids, table.asv_ids, table.sequences) == (held.sample_ids, held.asv_ids, held.sequences)
        assert np.array_equal(table.counts.toarray(), held.counts.toarray())
        assert (table.n_asvs, table.counts.sum()) == (4, number * SHARED.sum())


def resident(array: np.ndarray) -> int:
    """Bytes of a mapped array that are in the memory of this process."""
    address, inside, found = array.ctypes.data, False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if place := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(place[1], 16) <= address < int(place[2], 16)
        elif inside and line.startswith("Rss:"):
            found = 1024 * int(line.split()[1])
    return found


def test_scratch_files_leave_the_memory_and_keep_what_they_hold():
    held = scratch(2**20, np.int32)
    held[:] = 7
    assert resident(held) == held.nbytes
    release(held[5:10].view(np.ndarray))
    assert resident(held) == 0
    assert (held == 7).all()
    plain = np.full(9, 3)
    release(plain)
    assert (plain == 3).all()


def test_changes_that_are_in_memory_alone_are_kept(tmp_path: Path):
    scratch(9, np.int32).tofile(tmp_path / "file")
    private = np.memmap(tmp_path / "file", np.int32, mode="c")
    private[:] = 7
    release(private)
    assert (private == 7).all()


def test_a_table_that_another_program_has_locked_is_read(study_folder: Path):
    path = study_folder / "table.biom"
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert read_tables([path]).n_samples == 40


def test_a_run_on_disk_is_that_in_memory(study_folder: Path, make_run_config, on_disk, monkeypatch):
    results = []
    for place in ("disk", "memory"):
        config = make_run_config(place)
        run = prepare_pretraining(load_pretraining_study(config), config)
        assert is_mapped(run.material.draws.table.counts) == (place == "disk")
        folder = fit(run, config, lambda _: Results())
        (weights,) = (folder / "checkpoints").glob("last/model.safetensors")
        results.append((weights.read_bytes(), (folder / "split.tsv").read_bytes(), run.material.study.fingerprint()))
        monkeypatch.undo()
    assert results[0] == results[1]


@pytest.fixture
def make_run_config(study_folder: Path, tmp_path: Path):
    def make(name: str) -> PretrainConfig:
        shape = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "batch_size": 16, "epochs": 1}
        files = {"table": (study_folder / "table.biom",), "tree": study_folder / "tree.nwk"}
        return PretrainConfig.from_flat({**shape, **files, "output_dir": tmp_path / name, "rarefy_depth": 150})

    return make


@pytest.mark.parametrize("number", [1, 39])
def test_a_wrong_cell_far_down_is_named(study_folder: Path, on_disk, tmp_path: Path, number: int):
    path = tmp_path / "table.biom"
    path.write_bytes((study_folder / "table.biom").read_bytes())
    with h5py.File(path, "r+") as file:
        start = int(file["sample/matrix/indptr"][number])
        name = file["sample/ids"][number].decode()
        file["sample/matrix/data"][start] = 2.5
    with pytest.raises(InputError, match=rf"sample {name}, ASV .*: 2\.5 is not a whole number"):
        read_tables([path])

"""Counts in memory and in scratch files."""

import mmap
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from aam.config import PretrainConfig
from aam.data import counts as module
from aam.data import sequences
from aam.data.counts import (
    Counts,
    CountsBuilder,
    Source,
    blocks_of,
    canonical,
    column_sums,
    gather,
    held_by,
    row_sums,
    scratch,
)
from aam.data.tables import read_tables
from aam.errors import InputError
from aam.workflows.fit import fit
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining


@pytest.fixture
def on_disk(monkeypatch):
    """Let every table lie on disk, and work on a few cells at a time."""
    monkeypatch.setattr(module, "CELLS_IN_MEMORY", -1)
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(sequences, "TOKENS_IN_MEMORY", 0)


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


def test_a_run_on_disk_is_that_in_memory(study_folder: Path, make_run_config, on_disk, monkeypatch):
    results = []
    for place in ("disk", "memory"):
        config = make_run_config(place)
        run = prepare_pretraining(load_pretraining_study(config), config)
        assert is_mapped(run.material.draws.table.counts) == (place == "disk")
        folder = fit(run, config, lambda _: None)
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

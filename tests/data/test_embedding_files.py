import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from aam.data.files.embedding_files import UNKNOWN, EmbeddingFiles, check_cache_folder, token_keys
from aam.data.files.sequences import encode_sequences
from aam.errors import InputError

WIDTH = 6
FLOAT = np.dtype(np.float32)


def rows_of(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keys and embeddings that differ for every number."""
    number = np.arange(first, first + count)
    tokens = 1 + (number[:, None] // 4 ** np.arange(12)) % 4
    return token_keys(tokens.astype(np.uint8)), (number[:, None] + np.arange(WIDTH) / 10).astype(np.float32)


def files_in(folder: Path) -> EmbeddingFiles:
    return EmbeddingFiles(folder / "encoder", WIDTH, FLOAT)


def test_what_was_added_is_found_and_nothing_else(tmp_path):
    keys, rows = rows_of(50)
    assert (files_in(tmp_path).find(keys).file == UNKNOWN).all()
    assert not list(tmp_path.iterdir())
    files_in(tmp_path).add(keys[:20], rows[:20])
    files_in(tmp_path).add(keys[30:], rows[30:])
    files, order = files_in(tmp_path), np.random.default_rng(0).permutation(50)
    places = files.find(keys[order])
    known = places.file != UNKNOWN
    assert (known == ((order < 20) | (order >= 30))).all()
    found = files.read(places._replace(file=places.file[known], record=places.record[known]))
    assert np.array_equal(found, rows[order[known]])
    assert found.dtype == FLOAT


def test_embeddings_are_mapped_and_not_loaded(tmp_path):
    keys, rows = rows_of(10)
    files = files_in(tmp_path)
    files.add(keys, rows)
    files.find(keys)
    assert all(isinstance(records, np.memmap) for records in files._open.values())


def test_keys_are_of_what_a_model_reads():
    same = token_keys(encode_sequences(["ACGTN", "acgur", "ACGTY"]))
    assert (same == same[0]).all()
    padded = token_keys(encode_sequences(["ACGT", "ACGTA"]))
    assert np.array_equal(padded[0], token_keys(encode_sequences(["ACGT"]))[0])
    assert not np.array_equal(padded[0], padded[1])
    many = token_keys(np.random.default_rng(0).integers(1, 5, (5000, 40), dtype=np.uint8))
    assert len(np.unique(many, axis=0)) == len(np.unique(many[:, 0])) == 5000


def test_keys_that_begin_alike_are_not_confused(tmp_path):
    keys, rows = rows_of(3)
    keys[:, 0] = 7
    files = files_in(tmp_path)
    files.add(keys, rows)
    places = files.find(keys)
    known = places.file != UNKNOWN
    assert known.any()
    assert np.array_equal(
        files.read(places._replace(file=places.file[known], record=places.record[known])), rows[known]
    )
    other = keys + np.array([0, 1], dtype=np.uint64)
    assert (files.find(other[2:]).file == UNKNOWN).all()


@pytest.mark.parametrize(
    ("damage", "lost", "says"),
    [
        (lambda content: content[:-4], 20, "is damaged"),
        (lambda content: b"", 20, "is damaged"),
        (lambda content: b"not an array", 20, "is damaged"),
        (lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:], 1, "1 of 20 embeddings are damaged"),
    ],
)
def test_damage_is_told_and_not_read(tmp_path, caplog, damage, lost, says):
    keys, rows = rows_of(30)
    files_in(tmp_path).add(keys[:20], rows[:20])
    (path,) = (tmp_path / "encoder").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    files_in(tmp_path).add(keys[20:], rows[20:])
    with caplog.at_level(logging.WARNING):
        places = files_in(tmp_path).find(keys)
    assert (places.file == UNKNOWN).sum() == lost
    assert says in caplog.text
    assert path.name in caplog.text
    assert "delete" in caplog.text
    files_in(tmp_path).add(keys[places.file == UNKNOWN], rows[places.file == UNKNOWN])
    files = files_in(tmp_path)
    assert np.array_equal(files.read(files.find(keys)), rows)


def test_a_file_of_another_width_is_told_and_not_read(tmp_path, caplog):
    keys, rows = rows_of(4)
    EmbeddingFiles(tmp_path / "encoder", WIDTH - 1, FLOAT).add(keys, rows[:, 1:])
    assert (files_in(tmp_path).find(keys).file == UNKNOWN).all()
    assert "holds no embeddings of this encoder" in caplog.text


def test_objects_are_not_unpickled(tmp_path, caplog):
    (tmp_path / "encoder").mkdir()
    np.save(tmp_path / "encoder/x.npy", np.array([{}], dtype=object), allow_pickle=True)
    keys, _ = rows_of(4)
    assert (files_in(tmp_path).find(keys).file == UNKNOWN).all()
    assert "is damaged" in caplog.text


def _add(folder: Path, first: int) -> None:
    for start in range(first, first + 40, 4):
        files_in(folder).add(*rows_of(8, start))


def test_processes_may_add_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, first)) for first in (0, 0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    keys, rows = rows_of(64)
    files = files_in(tmp_path)
    assert np.array_equal(files.read(files.find(keys)), rows)
    assert not list((tmp_path / "encoder").glob(".tmp*"))


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "encoder").write_text("a file")
    with pytest.raises(InputError, match=r"--embedding-cache: .*encoder cannot be written"):
        files_in(tmp_path).add(*rows_of(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_cache_folder(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        check_cache_folder(tmp_path / "file/below")
    check_cache_folder(tmp_path / "new/folder")
    check_cache_folder(None)

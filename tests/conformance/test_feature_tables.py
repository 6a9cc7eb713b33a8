"""Tables of biom-format's tests and benchmarks - HDF5, JSON, text - with the values that biom-format reads."""

import gzip
import json
from pathlib import Path

import biom
import h5py
import numpy as np
import pytest
from scipy import sparse

from aam.data.files.table_files import RawTable, read_table_file
from aam.errors import InputError

LARGEST = 70_000
"""Bytes of the compressed benchmark tables that are read here; the others hold millions of cells."""
TEXTS = {
    "biom.tests.test_parse": [
        *("legacy_otu_table1", "biom_minimal_sparse", "classic_otu_table1_w_tax", "classic_otu_table1_no_tax"),
    ],
    "biom.tests.test_table": ["legacy_otu_table1", "legacy_otu_table_bad_metadata", "extract_tsv_bug"],
}
NO_TABLES = {
    "biom.tests.test_parse": [
        *("otu_table1", "otu_table1_floats", "uc_lib_minimal", "uc_seed_hits", "uc_mixed_hits"),
        *("uc_underscores_in_sample_id", "classic_table_with_complex_metadata"),
    ],
    "biom.tests.test_table": ["otu_table1"],
}
"""Texts that `biom.load_table` refuses as well, but for the last of test_parse, whose last column is text.

biom-format takes any last column of text for metadata of the ASVs. aam does so where its header says taxonomy:
elsewhere a cell with a slip of the keyboard would cost a whole sample.
"""


def _assert_same(found: RawTable, expected: biom.Table) -> None:
    assert found.sample_ids == tuple(expected.ids())
    assert found.asv_ids == tuple(expected.ids("observation"))
    cells = sparse.vstack(list(found.blocks()), format="csr")
    assert cells.shape == expected.shape[::-1]
    assert (cells != sparse.csr_array(expected.matrix_data.T)).nnz == 0


@pytest.mark.parametrize(
    "name",
    [
        *("bad_table.txt", "bad_table.txt.gz", "edgecase_issue_952.biom", "test.biom", "test.json"),
        "test_grp_metadata.biom",
    ],
)
def test_its_files(installed, name):
    path = installed("biom", "tests", "test_data", name)
    _assert_same(read_table_file(path), biom.load_table(str(path)))


def test_its_compressed_json(installed):
    """Without a type, at which biom-format itself fails; its test takes the cells."""
    path = installed("biom", "tests", "test_data", "test.json.gz")
    document = json.loads(gzip.decompress(path.read_bytes()))
    _assert_same(read_table_file(path), biom.Table.from_json(document | {"type": "OTU table"}))


@pytest.mark.parametrize(
    ("name", "said"), [("empty.biom", "sample/ids holds"), ("no-contents.biom", "the file is empty")]
)
def test_its_files_without_a_sample(installed, name, said):
    with pytest.raises(InputError, match=said):
        read_table_file(installed("biom", "tests", "test_data", name))


def _old_hdf5(path: Path) -> biom.Table:
    """A table of the first HDF5 format, without groups of metadata, which biom-format does not read any more."""
    with h5py.File(path, "r") as file:  # in spite of its name it is not compressed
        group = file["sample"]["matrix"] if "matrix" in file["sample"] else file["sample"]
        ids = [[name.decode() for name in file[axis]["ids"][:]] for axis in ("observation", "sample")]
        shape = (len(ids[1]), len(ids[0]))
        cells = sparse.csr_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=shape)
        return biom.Table(cells.T, *ids)


def test_its_benchmark_tables(installed):
    paths = sorted(installed("biom", "tests", "bench_tables").glob("*.biom.gz"))
    read = [path for path in paths if path.stat().st_size <= LARGEST]
    assert len(read) >= 40
    for path in read:
        expected = _old_hdf5(path) if "hdf5" in path.name else biom.load_table(str(path))
        _assert_same(read_table_file(path), expected)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in TEXTS.items() for name in names])
def test_its_texts(tests_of, tmp_path, module, name):
    path = tmp_path / "table.txt"
    path.write_text(getattr(tests_of(module), name))
    _assert_same(read_table_file(path), biom.load_table(str(path)))


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NO_TABLES.items() for name in names])
def test_its_texts_that_are_no_tables(tests_of, tmp_path, module, name):
    path = tmp_path / "table.txt"
    path.write_text(getattr(tests_of(module), name))
    with pytest.raises(InputError, match=r"is not a number|has 1 cells"):
        read_table_file(path)


def test_values_are_compared_at_all():
    """What the tests above rest on."""
    table = biom.Table(np.array([[1.0, 0.0]]), ["o"], ["a", "b"])
    other = RawTable.of(sparse.csr_array([[1.0], [2.0]]), ("a", "b"), ("o",), "")
    with pytest.raises(AssertionError):
        _assert_same(other, table)

"""Feature tables whose cells, places or ids have a type that is no count, no place and no text."""

import json

import biom
import h5py
import numpy as np
import pytest
from biom.util import biom_open

from aam.data.files.tables import feature_table, read_tables
from aam.errors import InputError

SEQUENCES = tuple("ACGT"[base] * 4 + "ACGTACGTACGTACGTACGT" for base in range(4))
COUNTS = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [0, 7, 2, 5]])
SAMPLES = ("S1", "empty", "S3")
PAIR = np.dtype([("low", "i4"), ("high", "i4")])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.biom"


def table():
    return biom.Table(COUNTS.T.astype(float), list(SEQUENCES), list(SAMPLES))


def replace(path, name, values, dtype=None):
    """Write a table, and one of its datasets anew, of another type."""
    with biom_open(str(path), "w") as file:
        table().to_hdf5(file, "test")
    with h5py.File(path, "r+") as file:
        del file[name]
        if values is None:  # references to the file itself
            file.create_dataset(name, data=[file.ref] * 5, dtype=h5py.ref_dtype)
        else:
            file.create_dataset(name, data=values, dtype=dtype)


def time_type(path, name, size):
    """Write a table, and one of its datasets as a type of HDF5 that numpy does not have."""
    replace(path, name, [0] * size)
    with h5py.File(path, "r+") as file:
        del file[name]
        space = h5py.h5s.create_simple((size,))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.UNIX_D32LE, space)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("indices", [0.5, 2, 1, 2, 3], "indices holds values that are no places"),
        ("indices", [0, 2, 1, 2, np.nan], "indices holds values that are no places"),
        ("indices", [0, 2, 1, 2, 1 + 1j], "indices holds complex128 values"),
        ("indices", np.array([0, 2, 1, 2, 2**64 - 1], "u8"), "no places|does not fit"),
        ("indices", [b"0", b"2", b"1", b"2", b"3"], "indices holds object values"),
        ("indices", [True, False, True, False, True], "indices holds bool values"),
        ("indptr", [0, 2.5, 2.5, 5], "indptr holds values that are no places"),
        ("indptr", [0, 2, 2, 5j], "indptr holds complex128 values"),
        ("data", [3 + 1j, 1, 7, 2, 5], "data holds complex128 values"),
        ("data", np.array([b"3", b"1", b"7", b"2", b"5"]), "data holds .S1 values"),
        ("data", ["3", "1", "7", "2", "5"], "data holds object values"),
        ("data", [True, True, True, True, True], "data holds bool values"),
        ("data", np.zeros(5, PAIR), "data holds .* values"),
        ("data", None, "data holds object values"),
    ],
)
def test_hdf5_of_other_types_is_refused(path, name, values, message):
    replace(path, f"sample/matrix/{name}", values)
    with pytest.raises(InputError, match=rf"table\.biom: .*{message}"):
        read_tables([path])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i8"])
@pytest.mark.parametrize("indptr", [[0, 4, 2, 5], [0, 5, 5, 3], [0, 2, 1, 5]])
def test_falling_indptr_is_refused_whatever_its_type(path, dtype, indptr):
    replace(path, "sample/matrix/indptr", indptr, dtype)
    with pytest.raises(InputError, match="does not fit its 3 sample and 4 ASV ids"):
        read_tables([path])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["indices", "indptr", "data"])
def test_whole_numbers_of_every_type_are_read(path, name, dtype):
    whole = {"indices": [0, 2, 1, 2, 3], "indptr": [0, 2, 2, 5], "data": [3, 1, 7, 2, 5]}
    replace(path, f"sample/matrix/{name}", whole[name], dtype)
    np.testing.assert_array_equal(read_tables([path]).counts.toarray(), COUNTS)


@pytest.mark.parametrize(
    ("name", "values"), [("sample/ids", np.zeros(3, PAIR)), ("sample/ids", None), ("sample/ids", [1.5, 2.5, 3.5])]
)
def test_hdf5_ids_that_are_no_text_are_refused(path, name, values):
    replace(path, name, values)
    with pytest.raises(InputError, match=r"sample/ids holds .* values, not text"):
        read_tables([path])


@pytest.mark.parametrize(("name", "size"), [("sample/ids", 3), ("sample/matrix/data", 5), ("sample/matrix/indices", 5)])
def test_hdf5_types_that_numpy_lacks_are_refused(path, name, size):
    time_type(path, name, size)
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        read_tables([path])


# ---- BIOM JSON


def write_json(path, **changes):
    document = json.loads(table().to_json("test")) | changes
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([0.5, 0, 4], r"entry 2 of 'data' lies between two cells: \[0\.5, 0"),
        ([0, 1.5, 4], "entry 2 of 'data' lies between two cells"),
        ([True, 0, 4], "data.1.0: Input should be a valid number"),
        ([0, 0, True], "data.1.2: Input should be a valid number"),
        (["0", 0, 4], "data.1.0: Input should be a valid number"),
        ([0, 0, "4"], "data.1.2: Input should be a valid number"),
        ([float("nan"), 0, 4], "outside the 4 x 3 cells"),
        ([1e300, 0, 4], "outside the 4 x 3 cells"),
    ],
)
def test_json_entries_that_are_no_numbers_are_refused(path, entry, message):
    write_json(path, data=[[0, 0, 1], entry])
    with pytest.raises(InputError, match=rf"table\.biom: .*{message}"):
        read_tables([path])


@pytest.mark.parametrize("value", [True, "4"])
def test_dense_json_with_other_than_numbers_is_refused(path, value):
    write_json(path, matrix_type="dense", data=[[1, 1, value]] * 4)
    with pytest.raises(InputError, match=r"data\.0\.2: Input should be a valid number"):
        read_tables([path])


@pytest.mark.parametrize("shape", [["4", 3], [4, True], [4.5, 3]])
def test_a_json_shape_is_of_whole_numbers(path, shape):
    write_json(path, shape=shape)
    with pytest.raises(InputError, match=r"shape\.\d"):
        read_tables([path])


def test_json_without_matrix_type_is_sparse_as_for_biom_format(path):
    write_json(path)
    document = json.loads(path.read_text())
    del document["matrix_type"]
    path.write_text(json.dumps(document))
    theirs = biom.Table.from_json(document)
    np.testing.assert_array_equal(theirs.matrix_data.toarray().T, COUNTS)
    np.testing.assert_array_equal(read_tables([path]).counts.toarray(), COUNTS)


@pytest.mark.parametrize("count", [2**53, 2**53 + 1])
def test_counts_that_float64_may_have_rounded_are_refused(path, count):
    replace(path, "sample/matrix/data", np.array([3, 1, 7, 2, count], "i8"))
    with pytest.raises(InputError, match="too large for a count"):
        read_tables([path])
    replace(path, "sample/matrix/data", np.array([3, 1, 7, 2, 2**53 - 1], "i8"))
    assert feature_table(path).counts[2, 3] == 2**53 - 1

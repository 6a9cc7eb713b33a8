"""Distance matrices (lsmat) of scikit-bio's tests, read as scikit-bio reads them."""

import io

import numpy as np
import pytest
from skbio import DistanceMatrix

from aam.data.distances.matrix import read_distance_matrix
from aam.errors import InputError

INVALID = ["INVALID_1", "INVALID_2", "INVALID_3", "INVALID_4", "INVALID_5", "INVALID_6"]
VALID = ["LSMat_1x1", "LSMat_2x2", "LSMat_3x3", "LSMat_3x3_WHITESPACE", "LSMat_3x3_CSV"]
NO_DISTANCES = {
    "LSMat_2x2_ASYM": "negative",
    "LSMat_3x3_FW": "the 0 samples of the first line",  # columns of fixed width: neither tabs nor commas
}
NO_MATRIX = {"mantel_env_dm_vegan.txt", "mantel_veg_dm_vegan.txt"}
"""Columns of numbers without ids, among its files of matrices."""


@pytest.fixture(scope="module")
def written(tests_of, tmp_path_factory):
    """Write one of the texts of its tests to a file."""
    texts, folder = vars(tests_of("skbio.io.format.tests.test_lsmat")), tmp_path_factory.mktemp("lsmat")

    def write(name):
        path = folder / f"{name}.{'csv' if 'CSV' in name else 'tsv'}"
        path.write_text(texts[name])
        return path

    return write


@pytest.mark.parametrize("name", VALID)
def test_its_valid_texts(written, name):
    path = written(name)
    delimiter = "," if path.suffix == ".csv" else "\t"
    expected = DistanceMatrix.read(io.StringIO(path.read_text()), format="lsmat", delimiter=delimiter)
    found = read_distance_matrix(path)
    assert found.ids == tuple(expected.ids)
    np.testing.assert_array_equal(found.values, expected.data)


@pytest.mark.parametrize("name", INVALID)
def test_its_invalid_texts(written, name):
    with pytest.raises(InputError, match="distance matrix"):
        read_distance_matrix(written(name))


@pytest.mark.parametrize("name", NO_DISTANCES)
def test_its_matrices_that_are_none_of_distances(written, name):
    with pytest.raises(InputError, match=NO_DISTANCES[name]):
        read_distance_matrix(written(name))


def test_all_its_texts_are_tested(tests_of):
    texts = {name for name in vars(tests_of("skbio.io.format.tests.test_lsmat")) if name.startswith(("LSMat_", "INVA"))}
    assert texts == {*VALID, *INVALID, *NO_DISTANCES}


def test_its_files(installed, tmp_path):
    folder, read = installed("skbio", "stats", "distance", "tests", "data"), 0
    for path in sorted(folder.glob("*dm*")):
        if path.name.startswith("pwmantel") or path.name in NO_MATRIX:
            continue
        copy = tmp_path / f"{path.stem}.tsv"  # the ending decides how a matrix is read
        copy.write_bytes(path.read_bytes())
        expected = DistanceMatrix.read(str(path))
        found = read_distance_matrix(copy)
        assert found.ids == tuple(expected.ids)
        np.testing.assert_allclose(found.values, expected.data, rtol=1e-15)
        read += 1
    assert read >= 8

"""Distance matrices in every format, and every way in which a file can be none."""

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from skbio import DistanceMatrix as SkbioMatrix

from aam.data.distances.matrix import DistanceMatrix, read_distance_matrix, write_distance_matrix
from aam.errors import InputError

IDS = ("s1", "007", "10249.5")
VALUES = np.array([[0, 0.1, 1 / 3], [0.1, 0, 0.7], [1 / 3, 0.7, 0]])
FORMATS = [".tsv", ".csv", ".npz", ".h5"]


def text_matrix(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(row + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_writing_and_reading_is_exact(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"matrix{ending}"
    write_distance_matrix(DistanceMatrix(IDS, VALUES), path)
    again = read_distance_matrix(path, bounded=True)
    assert again.ids == IDS
    np.testing.assert_array_equal(again.values, VALUES)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_scikit_bio_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "matrix.tsv"
    write_distance_matrix(DistanceMatrix(IDS, VALUES), path)
    read = SkbioMatrix.read(str(path))
    assert read.ids == IDS
    np.testing.assert_array_equal(read.data, VALUES)


def test_npy_takes_its_ids_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", VALUES.astype(np.float32))
    ids = text_matrix(tmp_path / "ids.txt", list(IDS))
    matrix = read_distance_matrix(tmp_path / "matrix.npy", ids)
    assert matrix.ids == IDS
    assert matrix.values.dtype == np.float32


def test_reads_hdf5_as_ssu_writes_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "matrix.h5", "w") as file:
        file["format"] = [b"BDSM"]
        file.create_dataset("order", data=[name.encode() for name in IDS], dtype=h5py.string_dtype())
        file["matrix"] = VALUES.astype(np.float32)
        file["pcoa_eigvals"] = np.zeros(10)
    assert read_distance_matrix(tmp_path / "matrix.h5").ids == IDS


def artifact(path: Path, kind: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("5178/VERSION", "QIIME 2\narchive: 5\n")
        archive.writestr("5178/metadata.yaml", f"uuid: 5178\ntype: {kind}\nformat: F\n")
        archive.writestr("5178/data/distance-matrix.tsv", "\ta\tb\na\t0.0\t0.5\nb\t0.5\t0.0\n")
    return path


def test_reads_a_qiime2_artifact(tmp_path: Path) -> None:
    matrix = read_distance_matrix(artifact(tmp_path / "distance.qza", "DistanceMatrix"))
    assert matrix.ids == ("a", "b")
    with pytest.raises(InputError, match=r"tree\.qza.*Phylogeny\[Rooted\].*DistanceMatrix is wanted"):
        read_distance_matrix(artifact(tmp_path / "tree.qza", "Phylogeny[Rooted]"))


def test_reads_a_real_artifact(real_data: Path) -> None:
    matrix = read_distance_matrix(real_data / "qiime2/moving_pictures_tutorial/distance.qza")
    assert len(matrix.ids) == 34
    assert matrix.ids[0] == "L1S105"
    assert matrix.values[0, 1] == 3.459214907085057


def test_blocks_follow_ids_not_positions() -> None:
    matrix = DistanceMatrix(IDS, VALUES.astype(np.float32))
    block = matrix.block(matrix.index(["10249.5", "s1"]), matrix.index(["007"]))
    assert block.tolist() == [[float(np.float32(0.7))], [float(np.float32(0.1))]]


def test_missing_samples_are_named() -> None:
    with pytest.raises(InputError, match=r"lacks 2 of 3 samples: s9, 7; its ids are like s1, 007"):
        DistanceMatrix(IDS, VALUES).index(["s9", "s1", "7"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["\ta\tb", "a\t0\t0.5", "b\t0.4\t0"], r"0\.5 in row a, column b is not the same in both directions"),
        (["\ta\tb", "a\t0\t-0.5", "b\t-0.5\t0"], r"-0\.5 in row a, column b is negative"),
        (["\ta\tb", "a\t0\tnan", "b\tnan\t0"], "row a, column b is not a finite number"),
        (["\ta\tb", "a\t0\tinf", "b\tinf\t0"], "row a, column b is not a finite number"),
        (["\ta\tb", "a\t0\t0.5", "b\t0.5\t0.1"], r"0\.1 in row b, column b is not zero, but the distance of a sample"),
        (["\ta\tb", "a\t0\t1.5", "b\t1.5\t0"], r"distance 1\.5 of a and b is above 1.*--unifrac-metric"),
        (["\ta\ta", "a\t0\t0.5", "a\t0.5\t0"], "occur more than once: a"),
        (["\ta\tb", "a\t0\t0.5"], "2 columns of distances, but 1 rows"),
        (["\ta\tb", "b\t0\t0.5", "a\t0.5\t0"], "line 2: b with 2 values.*same order"),
        (["\ta\tb", "a\t0", "b\t0.5\t0"], "line 2: a with 1 values"),
        (["\ta\tb", "a\t0\t0.5", "b\t0.5\t0", "c\t1\t1"], "line 4: c with 2 values"),
        (["\ta\tb", "a\t0\tfar", "b\t0.5\t0"], "line 2, row a: not a number"),
        (["\ta\tb", "a\t0\t", "b\t\t0"], "line 2, row a: not a number"),
        (["just words"], "0 columns of distances"),
        (["x" * 200_000], "not a table of distances"),
        ([], "empty"),
    ],
)
def test_refuses_what_is_no_distance_matrix(tmp_path: Path, rows: list[str], message: str) -> None:
    path = text_matrix(tmp_path / "matrix.tsv", rows)
    with pytest.raises(InputError, match=r"matrix\.tsv.*" + message):
        read_distance_matrix(path, bounded=True)


def test_faults_far_down_a_large_matrix_are_found(tmp_path: Path) -> None:
    """Rows are checked in parts; ids and positions must still be those of the whole."""
    values = np.ones((1500, 1500), dtype=np.float32)
    np.fill_diagonal(values, 0)
    ids = [f"s{i}" for i in range(1500)]
    for place, message in [((1400, 1400), "row s1400, column s1400 is not zero"), ((1450, 3), "not the same")]:
        wrong = values.copy()
        wrong[place] = 0.5
        np.savez(tmp_path / "m.npz", ids=np.array(ids), values=wrong)
        with pytest.raises(InputError, match=message):
            read_distance_matrix(tmp_path / "m.npz")


def test_single_precision_may_differ_in_its_last_digits(tmp_path: Path) -> None:
    values = VALUES.astype(np.float32)
    values[0, 2] = np.nextafter(values[0, 2], np.float32(1))
    np.savez(tmp_path / "m.npz", ids=np.array(IDS), values=values)
    assert read_distance_matrix(tmp_path / "m.npz").ids == IDS


def test_refuses_broken_files_and_names(tmp_path: Path) -> None:
    for ending in [".npz", ".h5", ".npy"]:
        (tmp_path / f"broken{ending}").write_bytes(b"PK\x03\x04 cut short")
    ids = text_matrix(tmp_path / "ids.txt", list(IDS))
    np.save(tmp_path / "m.npy", VALUES)
    np.save(tmp_path / "flat.npy", VALUES[0])
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "four.npy", np.zeros((4, 4)))
    np.savez(tmp_path / "unnamed.npz", VALUES)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    cases: list[tuple[str, Path | None, str]] = [
        ("broken.npz", None, "npz"),
        ("broken.h5", None, "cannot be read as HDF5"),
        ("broken.npy", ids, "not a .npy array"),
        ("absent.npz", None, "no such file"),
        ("absent.h5", None, "no such file"),
        ("absent.npy", ids, "no such file"),
        ("absent.tsv", None, "no such file"),
        ("m.npy", None, "--matrix-ids"),
        ("unnamed.npz", ids, "leave it out"),
        ("unnamed.npz", None, "arrays ids and values"),
        ("other.h5", None, "order and matrix"),
        ("flat.npy", ids, "a square matrix"),
        ("words.npy", ids, "numbers are wanted"),
        ("four.npy", ids, "4 rows, but 3 sample ids"),
        ("m.xlsx", None, "name should end in"),
    ]
    for name, ids_path, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            read_distance_matrix(tmp_path / name, ids_path)
        assert name in str(caught.value)


def test_refuses_to_write_where_it_cannot(tmp_path: Path) -> None:
    matrix = DistanceMatrix(IDS, VALUES)
    (tmp_path / "folder.tsv").mkdir()
    cases = {"m.png": "name should end in", "absent/m.tsv": "there is no folder", "folder.tsv": "a folder"}
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            write_distance_matrix(matrix, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.tsv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.npz"
    write_distance_matrix(DistanceMatrix(IDS, VALUES), path)
    before = path.read_bytes()

    def full(draft: Path, **arrays: object) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="No space left"):
        write_distance_matrix(DistanceMatrix(IDS[:1], VALUES[:1, :1]), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]

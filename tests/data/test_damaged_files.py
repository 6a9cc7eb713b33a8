"""Files that are damaged, or written as no program should: one `InputError`, whatever the library below raises."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aam.data.distances.matrix import read_distance_matrix
from aam.data.files.artifacts import read_json_object
from aam.data.files.metadata import categorical_column, read_metadata
from aam.data.labels.taxonomy import read_taxonomy
from aam.errors import InputError

VALUES = np.array([[0, 0.5], [0.5, 0]])
TABLE = "\ta\tb\na\t0.0\t0.5\nb\t0.5\t0.0\n"


def npy(header: str, body: bytes = b"") -> bytes:
    """A .npy file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def declared(shape: str, kind: str = "<f8") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n")


def read_npy(content: bytes, folder: Path) -> None:
    (folder / "ids.txt").write_text("a\nb\n")
    (folder / "d.npy").write_bytes(content)
    read_distance_matrix(folder / "d.npy", folder / "ids.txt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (declared("(1000000000, 1000000000)"), "Unable to allocate"),
        (declared(f"(2, {'9' * 30})"), "too large"),
        (declared(f"(2, {'9' * 5000})"), r"9\.\.\."),
        (npy("{'descr': '<f8', 'shape': (2, 2), (\n"), "multi-line statement"),
        (npy("{'descr': '''\n"), "multi-line string"),
        (npy("(" * 5000), "multi-line statement"),
    ],
    ids=["memory", "overflow", "digits", "open parenthesis", "open text", "nested"],
)
def test_headers_of_numpy_files(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"d\.npy: not a \.npy array of numbers .*{says}") as caught:
        read_npy(content, tmp_path)
    assert len(str(caught.value)) < 1300


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, ids=np.array(["a", "b"]), values=VALUES)
    return file.getvalue()


def artifact(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("5178/metadata.yaml", "uuid: 5178\ntype: DistanceMatrix\nformat: F\n")
        archive.writestr("5178/data/d.tsv", TABLE)
    return file.getvalue()


def mutations(content: bytes, count: int) -> list[bytes]:
    """Copies with one to four bytes changed."""
    source, changed = random.Random(5), []
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(source.choice([1, 1, 2, 4])):
            copy[source.randrange(len(copy))] = source.randrange(256)
        changed.append(bytes(copy))
    return changed


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".npz", npz()),
        (".qza", artifact(zipfile.ZIP_DEFLATED)),
        (".qza", artifact(zipfile.ZIP_BZIP2)),
        (".qza", artifact(zipfile.ZIP_LZMA)),
    ],
    ids=["npz", "deflate", "bzip2", "lzma"],
)
@pytest.mark.filterwarnings("ignore")  # numpy and zipfile warn of some of these
def test_damaged_archives(ending: str, content: bytes, tmp_path: Path) -> None:
    """Bytes of data, headers and directory: zlib, bzip2 and lzma errors, unknown compression, encryption."""
    path, said = tmp_path / f"d{ending}", list[str]()
    for damaged in mutations(content, 300):
        path.write_bytes(damaged)
        try:
            read = read_distance_matrix(path)
        except InputError as error:
            said.append(str(error))
        else:  # the change is where nothing is read from, such as a date, or in an id
            assert read.values.tolist() == VALUES.tolist()
    assert len(said) > 100
    assert [error for error in said if str(path) not in error] == []


def write_h5(path: Path, order: object = (b"a", b"b"), matrix: object = VALUES) -> None:
    with h5py.File(path, "w") as file:
        for name, content in (("order", order), ("matrix", matrix)):
            if content is not None:
                file[name] = list(content) if isinstance(content, tuple) else content
            else:
                file.create_group(name)


def declare_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["order"] = [b"a", b"b"]
        file.create_dataset("matrix", (10**8, 10**8), np.float64, chunks=(10, 10))


def dangling_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["order"] = [b"a", b"b"]
        file["matrix"] = h5py.SoftLink("/nowhere")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: write_h5(path, order=(b"\xff", b"b")), "not UTF-8"),
        (lambda path: write_h5(path, order=(1, 2)), "sample ids, a text each"),
        (lambda path: write_h5(path, order=b"ab"), "should be a dataset"),
        (lambda path: write_h5(path, order=None), "order should be a dataset"),
        (lambda path: write_h5(path, matrix=None), "matrix should be a dataset"),
        (declare_h5, "Unable to allocate"),
        (dangling_h5, "cannot be read as HDF5"),
    ],
    ids=["not UTF-8", "numbers", "one text", "group of ids", "group", "memory", "link"],
)
def test_hdf5_matrices(write: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    write(tmp_path / "d.h5")
    with pytest.raises(InputError, match=rf"d\.h5.*{says}"):
        read_distance_matrix(tmp_path / "d.h5")


@pytest.mark.parametrize("ending", [".tsv", ".csv"])
def test_a_matrix_that_is_only_a_byte_order_mark(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"d{ending}"
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(InputError, match="0 columns of distances, but 0 rows"):
        read_distance_matrix(path)


def test_a_taxonomy_that_is_only_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(InputError, match="the file is empty"):
        read_taxonomy(tmp_path / "t.tsv")


def test_blank_lines_before_the_header_of_a_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("\n \t\nFeature ID\tTaxon\n\na\tk__B\n")
    assert read_taxonomy(tmp_path / "t.tsv") == {"a": "k__B"}
    (tmp_path / "t.tsv").write_text("\n\nFeature ID\tTaxon\na\tk__B\nb\n")
    with pytest.raises(InputError, match="line 5 should hold an ASV id"):
        read_taxonomy(tmp_path / "t.tsv")


@pytest.mark.parametrize("cell", ["\uff11\uff12", "\u0663", "1" * 5000], ids=["full-width", "Arabic", "5,000 digits"])
@pytest.mark.parametrize("types", ["", "#q2:types\tnumeric\n"])
def test_numbers_that_only_python_reads(cell: str, types: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text(f"sample-id\tage\n{types}s1\t1\ns2\t{cell}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"m\.tsv: .*write numbers with the digits 0 to 9"):
        read_metadata(path)
    path.write_text(f"sample-id\tage\n#q2:types\tcategorical\ns1\t1\ns2\t{cell}\n", encoding="utf-8")
    assert categorical_column(read_metadata(path), "age").tolist() == ["1", cell]


def test_long_cells_are_cut_and_control_characters_escaped(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text(f"sample-id\tage\n#q2:types\tnumeric\ns1\t{'x' * 5000}\x1b[31m\ns2\t1\n")
    with pytest.raises(InputError, match=r"m\.tsv: .*x{196}\.\.\.") as caught:
        read_metadata(path)
    assert "x" * 198 not in str(caught.value)
    path.write_text(f"sample-id\tage\n#q2:types\tnumeric\ns1\t{'x y ' * 5000}\ns2\t1\n")
    with pytest.raises(InputError, match="numeric") as caught:
        read_metadata(path)
    assert str(caught.value).count("x y") <= 50
    path.write_text("sample-id\tage\n#q2:types\tnumeric\ns1\ta\x1b[31m\u202e\ns2\t1\n")
    with pytest.raises(InputError, match=r"a\\+x1b\[31m\\+u202e"):
        read_metadata(path)


@pytest.mark.parametrize("text", ['{"a": ' + "[" * 100_000, '{"a": ' + "1" * 5000 + "}"], ids=["nested", "digits"])
def test_json_that_python_does_not_take(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(InputError, match=r"weights .*w\.json: not JSON \("):
        read_json_object(tmp_path / "w.json", "weights")

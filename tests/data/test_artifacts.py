"""Plain, gzipped and QIIME 2 files by content, and FASTA."""

import gzip
import zipfile

import pytest

from aam.data.distances.matrix import read_distance_matrix
from aam.data.distances.phylogeny import read_phylogeny
from aam.data.files.artifacts import read_bytes, read_json_object, read_text
from aam.data.files.fasta import read_fasta
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.data.labels.taxonomy import read_taxonomy
from aam.errors import InputError

TYPES = ("FeatureData[Sequence]",)


def write_artifact(path, artifact_type, payload, name="dna-sequences.fasta"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("uuid-1/VERSION", "QIIME 2\narchive: 5\nframework: 2024.5\n")
        archive.writestr("uuid-1/metadata.yaml", f"uuid: uuid-1\ntype: {artifact_type}\nformat: SomeDirFmt\n")
        archive.writestr("uuid-1/provenance/metadata.yaml", "uuid: uuid-1\ntype: Phylogeny[Rooted]\nformat: null\n")
        archive.writestr("uuid-1/provenance/artifacts/uuid-0/data/x", "not the payload")
        if payload is not None:
            archive.writestr(f"uuid-1/data/{name}", payload)
    return path


@pytest.mark.parametrize("name", ["reads.txt", "reads.gz", "reads.qza"])
def test_the_content_decides_not_the_ending(tmp_path, name):
    plain, packed = tmp_path / name, tmp_path / f"packed-{name}"
    plain.write_bytes(b"\xef\xbb\xbfhello\n")
    packed.write_bytes(gzip.compress(b"hello\n"))
    artifact = write_artifact(tmp_path / f"artifact-{name}", "FeatureData[Sequence]", "hello\n")
    assert {read_text(path, "file", TYPES) for path in (plain, packed, artifact)} == {"hello\n"}


def test_properties_of_an_artifact_type_do_not_matter(tmp_path):
    path = write_artifact(tmp_path / "a.qza", "\"FeatureData[Sequence % Properties('aligned')]\"", "hello")
    assert read_bytes(path, "file", TYPES) == b"hello"


def test_wrong_artifact_type_says_found_and_wanted(tmp_path):
    path = write_artifact(tmp_path / "a.qza", "Phylogeny[Rooted]", "(a,b);")
    with pytest.raises(InputError, match=r"artifact Phylogeny\[Rooted\], but FeatureData\[Sequence\] is wanted"):
        read_bytes(path, "file", TYPES)
    with pytest.raises(InputError, match="an artifact cannot be used here"):
        read_bytes(path, "file")


def test_damaged_archives_are_refused(tmp_path):
    whole = write_artifact(tmp_path / "whole.qza", "FeatureData[Sequence]", ">a\n" + "ACGT" * 200).read_bytes()
    path = tmp_path / "a.qza"
    for size in range(4, len(whole) - 1, 37):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged or cut short"):
            read_bytes(path, "file", TYPES)
    path.write_bytes(whole.replace(b"ACGTACGT", b"ACGTACGA", 1))
    with pytest.raises(InputError, match="damaged"):
        read_bytes(path, "file", TYPES)


def test_archives_that_are_no_artifacts_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("table.biom", "x")
    with pytest.raises(InputError, match="not a QIIME 2 artifact"):
        read_bytes(tmp_path / "a.zip", "file", TYPES)
    with pytest.raises(InputError, match="one file under data/, not 0"):
        read_bytes(write_artifact(tmp_path / "b.qza", TYPES[0], None), "file", TYPES)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"table .*absent: no such file"):
        read_bytes(tmp_path / "absent", "table")
    with pytest.raises(InputError, match="this is a folder"):
        read_bytes(tmp_path, "table")
    (tmp_path / "x").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        read_bytes(tmp_path / "file" / "below", "table")
    (tmp_path / "utf16").write_text("hello", encoding="utf-16")
    with pytest.raises(InputError, match="UTF-8"):
        read_text(tmp_path / "utf16", "table")


@pytest.mark.parametrize("content", [b"", b" \n\n", gzip.compress(b"", mtime=0)])
def test_empty_files_are_refused(tmp_path, content):
    (tmp_path / "empty").write_bytes(content)
    with pytest.raises(InputError, match="the file is empty"):
        read_bytes(tmp_path / "empty", "table")


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(bytes(range(256)) * 8)
    for content in (whole[:-3], whole[:15], whole[:20] + b"\x00\x00\x00" + whole[23:], b"\x1f\x8bnonsense"):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(InputError, match="gzip file is damaged"):
            read_bytes(tmp_path / "a.gz", "table")


FASTA = ">a first words\nACGT\nac gt\n\n>b\r\nNNRY\r\n>c\tlength=3\nUUU"


@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_fasta(tmp_path, pack):
    (tmp_path / "seqs").write_bytes(pack(FASTA))
    assert read_fasta(tmp_path / "seqs") == {"a": "ACGTacgt", "b": "NNRY", "c": "UUU"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nAC\n>b\nGT\n>a\nAC\n", "more than once: a;"),
        (">a\nAC\n>b\n>c\nGT\n", "no sequence under b"),
        (">a\nAC\n>\nGT\n", "no id right after"),
        (">a\nAC\n> b\nGT\n", "no id right after"),
        ("ACGT\n>a\nACGT\n", "not FASTA"),
        ("@a\nACGT\n+\nIIII\n", "not FASTA"),
    ],
)
def test_malformed_fasta_is_refused(tmp_path, text, message):
    (tmp_path / "seqs.fasta").write_text(text)
    with pytest.raises(InputError, match=rf"seqs.fasta: .*{message}"):
        read_fasta(tmp_path / "seqs.fasta")


def test_real_artifact(real_data):
    sequences = read_fasta(real_data / "qiime2/mackerel/rep-seqs.qza")
    assert len(sequences) > 20_000
    assert all(name == sequence for name, sequence in sequences.items())


def test_json_object_is_read_plain_or_gzipped(tmp_path):
    for path, content in ((tmp_path / "a.json", b'{"a": 1}'), (tmp_path / "b.json", gzip.compress(b'{"a": 1}'))):
        path.write_bytes(content)
        assert read_json_object(path, "weights") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"3", 'weights .*j.json: {"name": value} is wanted, not int'),
        (b"{", r"weights .*j.json: not JSON \(Expecting"),
        (b'{"b": {"a": 1, "a": 2}}', "weights .*j.json: 'a' is given twice; keep one of them"),
        (b" ", "weights .*j.json: the file is empty"),
        (b'"\xff"', "weights .*j.json: not a text file in UTF-8"),
    ],
)
def test_what_is_no_json_object_is_refused(content, message, tmp_path):
    path = tmp_path / "j.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json_object(path, "weights")


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda path: read_tables([path]), "table.biom"),
        (read_metadata, "metadata.tsv"),
        (read_phylogeny, "tree.nwk"),
        (read_fasta, "sequences.fasta"),
        (read_taxonomy, "taxonomy.tsv"),
        (read_distance_matrix, "matrix.tsv"),
        (read_distance_matrix, "matrix.npz"),
        (read_distance_matrix, "matrix.h5"),
        (lambda path: read_json_object(path, "hierarchy"), "hierarchy.json"),
    ],
)
def test_a_git_lfs_pointer_is_named_as_such(tmp_path, read, name):
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: a Git LFS pointer.*`git lfs pull`"):
        read(path)

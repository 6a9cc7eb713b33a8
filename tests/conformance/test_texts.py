"""FASTA files and metadata of scikit-bio's tests, read as scikit-bio reads them."""

from pathlib import Path

import pytest
import skbio
from skbio import Sequence
from skbio.io import FASTAFormatError
from skbio.metadata import SampleMetadata
from skbio.metadata.io import MetadataFileError

from aam.data.files.fasta import read_fasta
from aam.data.files.metadata import read_metadata
from aam.errors import InputError


def _records(path: Path) -> list[tuple[str, str]] | None:
    """Ids and sequences as scikit-bio has them; None of a file that it refuses."""
    try:
        found = skbio.io.read(str(path), format="fasta", constructor=Sequence, verify=False)
        return [(record.metadata["id"], str(record)) for record in found]
    except FASTAFormatError:
        return None


def test_its_fasta_files(installed):
    same = invalid = without_ids = 0
    for path in sorted(installed("skbio", "io", "format", "tests", "data").glob("fasta_*")):
        expected = _records(path)
        ids = [name for name, _ in expected or []]
        if expected is None:
            invalid += 1
            with pytest.raises(InputError, match="representative sequences"):
                read_fasta(path)
        elif "" in ids or len(set(ids)) < len(ids):  # ASVs are known by their ids
            without_ids += 1
            with pytest.raises(InputError, match=r"has no id|given more than once"):
                read_fasta(path)
        else:
            same += 1
            assert list(read_fasta(path).items()) == expected, path.name
    assert min(same, invalid, without_ids) >= 13


@pytest.mark.parametrize("name", ["empty", "whitespace_only"])
def test_a_file_without_a_record(installed, name):
    with pytest.raises(InputError, match="empty"):
        read_fasta(installed("skbio", "io", "format", "tests", "data", name))


def test_its_valid_metadata(installed):
    paths = sorted(installed("skbio", "metadata", "tests", "data", "valid").iterdir())
    assert len(paths) >= 37
    for path in paths:
        expected = SampleMetadata.load(str(path), default_missing_scheme="INSDC:missing").to_dataframe()
        found = read_metadata(path)
        assert list(found.index) == list(expected.index), path.name
        assert list(found.columns) == list(expected.columns), path.name
        for name in expected:
            assert found[name].isna().tolist() == expected[name].isna().tolist(), (path.name, name)
            assert found[name].dropna().tolist() == expected[name].dropna().tolist(), (path.name, name)


def test_its_invalid_metadata(installed):
    paths = sorted(installed("skbio", "metadata", "tests", "data", "invalid").iterdir())
    assert len(paths) >= 28
    for path in paths:
        with pytest.raises(MetadataFileError):
            SampleMetadata.load(str(path))
        with pytest.raises(InputError, match="sample metadata"):
            read_metadata(path)

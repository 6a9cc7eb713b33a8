"""`aam unifrac` with ids in the place of sequences."""

import hashlib
import re
from pathlib import Path

import biom
import pytest
from biom.util import biom_open

from aam.cli import main as entry
from aam.data.distances.matrix import read_distance_matrix


def unifrac(output: Path, *words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        entry(["unifrac", *map(str, words), "--output", str(output), "--backend", "scikit-bio", "--quiet"])
    return int(caught.value.code or 0)


@pytest.fixture
def hashed(study_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Table and tree of the study, of which every ASV is called by the MD5 of its sequence."""
    table, tree = biom.load_table(str(study_folder / "table.biom")), (study_folder / "tree.nwk").read_text()
    names = {str(name): hashlib.md5(str(name).encode()).hexdigest() for name in table.ids("observation")}
    with biom_open(str(tmp_path / "hashed.biom"), "w") as file:
        table.update_ids(names, "observation", inplace=False).to_hdf5(file, "test")
    renamed = re.sub(r"[ACGT]{20,}", lambda found: names.get(found[0], found[0]), tree)
    (tmp_path / "hashed.nwk").write_text(renamed)
    return tmp_path / "hashed.biom", tmp_path / "hashed.nwk"


def test_ids_that_are_tips_need_no_sequences(hashed: tuple[Path, Path], study_folder: Path, tmp_path: Path) -> None:
    table, tree = hashed
    assert unifrac(tmp_path / "h.tsv", "--table", table, "--tree", tree) == 0
    files = ("--table", study_folder / "table.biom", "--tree", study_folder / "tree.nwk")
    assert unifrac(tmp_path / "s.tsv", *files) == 0
    found, expected = (read_distance_matrix(tmp_path / f"{name}.tsv") for name in "hs")
    assert found.ids == expected.ids
    assert abs(found.values - expected.values).max() < 1e-12


def test_two_tables_are_added_up_by_id(hashed: tuple[Path, Path], tmp_path: Path) -> None:
    """Both hold all reads, so that every proportion, and so every distance, is that of one of them."""
    table, tree = hashed
    assert unifrac(tmp_path / "one.tsv", "--table", table, "--tree", tree) == 0
    assert unifrac(tmp_path / "two.tsv", "--table", table, "--table", table, "--tree", tree) == 0
    one, two = (read_distance_matrix(tmp_path / f"{name}.tsv") for name in ("one", "two"))
    assert abs(one.values - two.values).max() < 1e-12


def test_ids_that_are_no_tips(hashed: tuple[Path, Path], study_folder: Path, tmp_path: Path, capsys) -> None:
    table, _ = hashed
    assert unifrac(tmp_path / "h.tsv", "--table", table, "--tree", study_folder / "tree.nwk") == 2
    assert "the tree has no tip for" in capsys.readouterr().err
    assert not (tmp_path / "h.tsv").exists()


def test_asked_to_drop_what_has_no_sequence(hashed: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    table, tree = hashed
    assert unifrac(tmp_path / "h.tsv", "--table", table, "--tree", tree, "--drop-missing-sequences") == 2
    assert "--rep-seqs" in capsys.readouterr().err

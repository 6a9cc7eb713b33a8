"""Lineages as several databases write them, files of QIIME 2, and the classes of the ranks."""

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest

from aam.data.labels.taxonomy import (
    RANKS,
    UNKNOWN,
    TaxonomyClasses,
    TaxonomyLabels,
    parse_lineage,
    read_taxonomy,
    taxonomy_of_frame,
)
from aam.errors import InputError

ROSEBURIA = ("Bacteria", "Firmicutes", "Clostridia", "Clostridiales", "Lachnospiraceae", "Roseburia", "faecis")
TEXT = "Feature ID\tTaxon\tConfidence\na1\tk__Bacteria; p__Firmicutes\t0.9\n\na2\tUnassigned\t0.5\n"


@pytest.mark.parametrize(
    "taxon",
    [
        "k__Bacteria; p__Firmicutes; c__Clostridia; o__Clostridiales; f__Lachnospiraceae; g__Roseburia; s__faecis",
        "d__Bacteria;p__Firmicutes;c__Clostridia;o__Clostridiales;f__Lachnospiraceae;g__Roseburia;s__faecis;t__one",
        "D_0__Bacteria;D_1__Firmicutes;D_2__Clostridia;D_3__Clostridiales;D_4__Lachnospiraceae;D_5__Roseburia;faecis",
        "Bacteria; Firmicutes; Clostridia; Clostridiales; Lachnospiraceae; Roseburia; faecis; beyond",
        "d__Bacteria;k__Bacillati;p__Firmicutes;c__Clostridia;o__Clostridiales;f__Lachnospiraceae;g__Roseburia;s__faecis",
        "s__faecis;g__Roseburia;f__Lachnospiraceae;o__Clostridiales;c__Clostridia;p__Firmicutes;D_0__Bacteria",
    ],
)
def test_lineages_of_all_databases_are_the_same(taxon):
    assert parse_lineage(taxon) == ROSEBURIA


@pytest.mark.parametrize("taxon", ["Unassigned", "", "k__", "k__; p__; c__", "unclassified", "N/A", "D_0__uncultured"])
def test_a_lineage_without_a_name(taxon):
    assert parse_lineage(taxon) == ("",) * 7


@pytest.mark.parametrize(
    "name",
    [
        *("uncultured", "uncultured bacterium", "Uncultured_soil_bacterium", "Ambiguous_taxa", "metagenome"),
        *("marine metagenome", "unidentified marine eubacterium", "Chlamydiales Incertae Sedis", "unknown", "__", "-"),
        *("Lachnospiraceae_unclassified", "norank", "environmental sample"),
    ],
)
def test_words_that_are_no_name(name):
    assert parse_lineage(f"k__Bacteria; f__{name}; g__Roseburia") == ("Bacteria", "", "", "", "", "Roseburia", "")


@pytest.mark.parametrize(
    "name", ["[Tissierellaceae]", "Unculturibacter", "SAR86 clade", "NS5 marine group", "Nanoarchaea"]
)
def test_odd_names_are_names(name):
    assert parse_lineage(f"D_0__Bacteria;D_4__{name}")[4] == name


def write(tmp_path, text: str, name: str = "t.tsv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_files_of_every_kind_are_read(tmp_path):
    plain = write(tmp_path, TEXT)
    packed, artifact = tmp_path / "t.tsv.gz", tmp_path / "t.qza"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    with zipfile.ZipFile(artifact, "w") as archive:
        archive.writestr(
            "u/metadata.yaml", "uuid: u\ntype: FeatureData[Taxonomy]\nformat: TSVTaxonomyDirectoryFormat\n"
        )
        archive.writestr("u/data/taxonomy.tsv", TEXT)
    expected = {"a1": "k__Bacteria; p__Firmicutes", "a2": "Unassigned"}
    assert [read_taxonomy(path) for path in (plain, packed, artifact)] == [expected] * 3


def test_a_row_of_types_and_a_lineage_that_is_empty(tmp_path):
    text = "Feature ID\tTaxon\n#q2:types\tcategorical\na1\t\n007\td__Bacteria\n"
    assert read_taxonomy(write(tmp_path, text)) == {"a1": "", "007": "d__Bacteria"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("OTU\tLineage\na\tb\n", r"t.tsv: the first line should name the columns 'Feature ID' and 'Taxon'"),
        ("a1\tk__Bacteria\n", r"it is 'a1\\tk__Bacteria'"),
        ("Feature ID\tTaxon\na1 k__Bacteria\n", r"t.tsv: line 2 should hold an ASV id"),
        ("Feature ID\tTaxon\na1\tx\n\tk__Bacteria\n", r"t.tsv: line 3 should hold an ASV id"),
        ("Feature ID\tTaxon\na1\tx\na2\ty\na1\tx\n", r"t.tsv: ASV ids given more than once: a1; keep one row"),
        ("Feature ID\tTaxon\n", r"t.tsv: there is no ASV in it"),
        ("", r"t.tsv: the file is empty"),
    ],
)
def test_bad_files(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_taxonomy(write(tmp_path, text))


def test_a_dataframe_by_id_or_with_the_id_in_a_column():
    frame = pd.DataFrame({"Taxon": ["k__Bacteria", None], "Confidence": [1.0, 0.5]}, index=["a1", "a2"])
    assert taxonomy_of_frame(frame) == {"a1": "k__Bacteria", "a2": ""}
    assert taxonomy_of_frame(frame.rename_axis("Feature ID").reset_index()) == {"a1": "k__Bacteria", "a2": ""}


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame({"taxonomy": ["x"]}, index=["a"]), "no column 'Taxon'; its columns: taxonomy"),
        (pd.DataFrame({"Taxon": ["x"]}), "must hold ASV ids as text; not so: 0"),
        (pd.DataFrame({"Taxon": ["x", "y"]}, index=["a", "a"]), "ids given more than once: a"),
        (pd.DataFrame({"Taxon": []}), "there is no ASV in it"),
    ],
)
def test_bad_dataframes(frame, says):
    with pytest.raises(InputError, match=says):
        taxonomy_of_frame(frame)


TAXA = ["d__B; p__P1; g__X", "d__B; p__P2; g__X", "d__B; p__P1; g__", "d__B; p__P1; g__Y", ""]


def test_a_class_is_a_whole_lineage():
    classes = TaxonomyClasses.fit(TAXA)
    # of the domain there is one, so nothing to learn
    assert classes.lineages == {
        "phylum": ("B; P1", "B; P2"),
        "genus": ("B; P1; ; ; ; X", "B; P1; ; ; ; Y", "B; P2; ; ; ; X"),
    }
    assert classes.sizes == {"phylum": 2, "genus": 3}
    code = classes.encode([*TAXA, "d__B; p__P2; g__Y", "d__B; p__P3; g__X"])
    assert code.dtype == np.int64
    assert code.tolist() == [[0, 0], [1, 2], [0, -1], [0, 1], [-1, -1], [1, -1], [-1, -1]]
    assert UNKNOWN == -1


def test_classes_are_in_the_order_of_ranks_and_names_and_come_back_from_json():
    classes = TaxonomyClasses.fit(TAXA)
    assert TaxonomyClasses.fit(TAXA[::-1]) == classes
    assert list(classes.sizes) == [rank for rank in RANKS if rank in classes.sizes]
    assert TaxonomyClasses.from_json(classes.to_json()) == classes


@pytest.mark.parametrize("taxa", [[], ["d__B"], ["d__B; p__P", "d__B", "Unassigned"]])
def test_nothing_to_learn(taxa):
    with pytest.raises(InputError, match=rf"no rank has two classes among the {len(taxa)} ASVs"):
        TaxonomyClasses.fit(taxa)


def test_classes_are_those_of_training_samples():
    labels = TaxonomyLabels.of(TAXA, np.array([True, False, True, True, True]))
    assert labels.classes.sizes == {"genus": 2}
    assert labels.code.tolist() == [[0], [-1], [-1], [1], [-1]]


def test_the_simulated_taxonomy_is_read(study_folder):
    taxonomy = read_taxonomy(study_folder / "taxonomy.tsv")
    assert len(taxonomy) == 52
    sizes = TaxonomyClasses.fit(list(taxonomy.values())).sizes
    assert list(sizes) == ["phylum", "class", "order", "family", "genus"]
    assert sorted(sizes.values()) == list(sizes.values())


@pytest.mark.parametrize(
    ("study", "asvs", "sizes"),
    [
        ("moving_pictures_tutorial", 759, [2, 19, 37, 59, 107, 198, 104]),
        ("mackerel", 23253, [2, 49, 105, 256, 486, 1259, 529]),
    ],
)
def test_real_artifacts(real_data, study, asvs, sizes):
    taxonomy = read_taxonomy(real_data / "qiime2" / study / "taxonomy.qza")
    assert len(taxonomy) == asvs
    classes = TaxonomyClasses.fit(list(taxonomy.values()))
    assert list(classes.sizes.values()) == sizes
    assert not any("ncultured" in lineage for lineage in classes.lineages["species"])

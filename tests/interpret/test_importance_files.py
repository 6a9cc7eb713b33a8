"""The tree and the data set for iTOL can be read by others, and names by people."""

from io import StringIO

import numpy as np
import pytest
from scipy import sparse
from skbio import TreeNode

from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree
from aam.data.files.tables import FeatureTable
from aam.interpret.importance_files import annotated_newick, itol_bars
from aam.interpret.names import Names

NEWICK = "(((a:1,b:2):3,(c:4,(d:5,e:6):7):8):9,(f:1,(g:2,h:3):4):5);"
IDS = ("tip one", "it's", "c", "d_1", "e(2)", "f", "g", "h")


def test_the_annotated_tree_is_the_tree_with_labels():
    tree = StudyTree.cut(parse_newick(NEWICK, source="tree"), np.arange(8))
    branch = next(n for n in range(len(tree.start)) if (tree.start[n], tree.stop[n]) == (2, 5))
    text = annotated_newick(tree, IDS, {branch: ("clade_7", 'genus "X" [of] Y', 0.25)})
    assert '[&importance=0.25,name="genus X (of) Y"]' in text
    read = TreeNode.read(StringIO(text), convert_underscores=False)
    assert [tip.name for tip in read.tips()] == list(IDS)
    assert sorted(tip.name for tip in read.find("clade_7").tips()) == ["c", "d_1", "e(2)"]
    assert read.find("clade_7").length == 8
    before = TreeNode.read(StringIO(NEWICK))
    assert read.find("tip one").distance(read.find("h")) == before.find("a").distance(before.find("h"))
    assert read.find("d_1").length == 5


def test_bars_for_itol():
    lines = itol_bars({"clade_7": 0.25, "c": 0.1}, "importance").splitlines()
    assert lines[0] == "DATASET_SIMPLEBAR"
    assert lines[1] == "SEPARATOR TAB"
    assert lines[lines.index("DATA") + 1 :] == ["clade_7\t0.25", "c\t0.1"]


@pytest.fixture(scope="module")
def names() -> Names:
    sequences = tuple("ACGTACGTACGTACGTACGTA" + letter for letter in "ACGT")
    table = FeatureTable(
        sparse.csr_array(np.array([[1, 5, 2, 9]])), ("s",), (*sequences[:2], "0" * 32, "otu7"), sequences
    )
    lineages = {
        sequences[0]: "k__B; p__F; f__La; g__Blautia; s__obeum",
        sequences[1]: "k__B; p__F; f__La; g__Roseburia; s__",
        "otu7": "k__B; p__P; f__Pr; g__; s__",
    }
    return Names.of(table, lineages)


def test_asvs_are_named_by_taxon_and_hash(names):
    assert names.asv(0).startswith("Blautia obeum ")
    assert len(names.asv(0).split()[-1]) == 8
    assert names.asv(2) == "0" * 8
    assert names.asv(3) == "Pr otu7"


def test_clades_are_named_by_what_their_asvs_share(names):
    assert names.clade(np.array([0, 1])) == "La (2 ASVs)"
    assert names.clade(np.array([0, 1, 2, 3])) == "B (4 ASVs)"
    assert names.clade(np.array([3])) == "Pr otu7"
    assert names.taxon("B; F; La", np.array([0, 1]), "family") == "family La (2 ASVs)"


def test_a_clade_without_a_taxonomy_is_named_by_its_most_abundant_asvs(names):
    bare = Names(names.short, [""] * 4, names.reads)
    assert bare.clade(np.array([0, 2, 3])) == "clade of otu7, 00000000 (3 ASVs)"

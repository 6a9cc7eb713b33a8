"""A tree of ASVs from their embeddings is the average-linkage tree, read by others."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from skbio import TreeNode

from aam.data.distances.linkage import linkage_newick
from aam.data.distances.phylogeny import parse_newick
from aam.errors import InputError


def test_distances_between_tips_are_those_of_average_linkage():
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    names = [f"asv {number}'s_{number}" for number in range(30)]
    tree = TreeNode.read([linkage_newick(names, vectors)], convert_underscores=False)
    found = tree.cophenet().filter(names).condensed_form()
    assert found == pytest.approx(cophenet(linkage(vectors, "average")), rel=1e-6)
    assert set(parse_newick(linkage_newick(names, vectors), source="text").tip_names) == set(names)


def test_equal_embeddings_are_at_no_distance():
    vectors = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 5.0]])
    assert linkage_newick(["A", "C", "G"], vectors) == "(G:2.5,(A:0,C:0):2.5);"


def test_one_asv_makes_no_tree():
    with pytest.raises(InputError, match="1 ASVs; a tree is made of 2"):
        linkage_newick(["A"], np.zeros((1, 2)))

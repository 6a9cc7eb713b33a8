"""The phylogeny of a simulated study, read back by scikit-bio."""

import io

import numpy as np
import pytest
import skbio
from scipy.stats import spearmanr

from aam.data.simulation.tree import simulate_tree

TIPS, BP = 120, 80


@pytest.fixture(scope="module")
def tree():
    return simulate_tree(TIPS, BP, seed=5)


@pytest.fixture(scope="module")
def read(tree):
    return skbio.TreeNode.read(io.StringIO(tree.newick()))


def test_newick_is_binary_and_names_every_asv(tree, read):
    assert {tip.name for tip in read.tips()} == set(tree.sequences)
    assert {len(node.children) for node in read.non_tips(include_self=True)} == {2}
    assert sum(node.length for node in read.traverse(include_self=False)) == pytest.approx(tree.length.sum())
    assert tree.length.min() > 0


def test_yule_tree_has_the_expected_age():
    # The last of n lineages are expected at the sum of 1/k over k = 2..n, in units of the birth rate.
    ages = [simulate_tree(16, 20, seed).age[-1] for seed in range(300)]
    assert np.mean(ages) == pytest.approx(sum(1 / k for k in range(2, 17)), abs=0.15)


@pytest.mark.parametrize(("tips", "bp"), [(16, 20), (TIPS, BP), (3000, 20)])
def test_sequences_are_distinct_dna(tips, bp):
    sequences = simulate_tree(tips, bp, seed=0).sequences
    assert len(set(sequences)) == tips
    assert {len(sequence) for sequence in sequences} == {bp}
    assert set("".join(sequences)) == set("ACGT")


def test_sequences_carry_the_phylogeny():
    long = simulate_tree(60, 1000, seed=5)
    letters = np.array([list(sequence) for sequence in long.sequences])
    differing = np.array([(letters != row).mean(axis=1) for row in letters])
    path = skbio.TreeNode.read(io.StringIO(long.newick())).cophenet().filter(long.sequences).data
    upper = np.triu_indices(60, 1)
    assert spearmanr(differing[upper], path[upper]).statistic > 0.9


def test_some_sites_are_conserved_and_some_vary(tree):
    letters = np.array([list(sequence) for sequence in tree.sequences])
    common = [np.unique(site, return_counts=True)[1].max() / TIPS for site in letters.T]
    assert np.mean(np.array(common) > 0.95) > 0.15
    assert np.mean(np.array(common) < 0.6) > 0.15


def test_clades_are_disjoint_and_monophyletic(tree, read):
    clades = tree.clades(count=4, size=6)
    tips = np.concatenate(clades)
    assert len(clades) == 4
    assert len(set(tips)) == tips.size
    for clade in clades:
        names = [tree.sequences[tip] for tip in clade]
        assert read.lca(names).count(tips=True) == clade.size
    with pytest.raises(ValueError, match="no 200 disjoint clades"):
        tree.clades(count=200, size=6)


def test_traits_are_standardised_and_phylogenetic(tree, read):
    traits = tree.traits(200, np.random.default_rng(0))
    np.testing.assert_allclose(traits.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(traits.std(axis=1), 1)
    path = read.cophenet().filter(tree.sequences).data
    upper = np.triu_indices(TIPS, 1)
    assert np.corrcoef(np.corrcoef(traits.T)[upper], path[upper])[0, 1] < -0.7


def test_taxonomy_is_nested_and_monophyletic(tree, read):
    taxa = [taxon.split("; ") for taxon in tree.taxonomy()["Taxon"]]
    assert {len(ranks) for ranks in taxa} == {5, 6}
    for rank in range(1, 5):
        parents = {}
        for ranks in taxa:
            assert parents.setdefault(ranks[rank], ranks[:rank]) == ranks[:rank]
    for family in {ranks[4] for ranks in taxa}:
        names = [sequence for sequence, ranks in zip(tree.sequences, taxa, strict=True) if ranks[4] == family]
        assert len(names) == 1 or read.lca(names).count(tips=True) == len(names)
    assert tree.taxonomy()["Confidence"].between(0.7, 1).all()

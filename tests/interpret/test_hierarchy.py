"""Hierarchical tests: what is tested, and how often something is found where there is nothing."""

import numpy as np
import pytest

from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree
from aam.interpret.hierarchy import Found, Hierarchy, find_downwards
from aam.interpret.sign_flips import EXACT, cross_validated_p, least_p, sign_flip_p

NEWICK = "(((a:1,b:1)x:1,(c:1,(d:1,e:1)y:1)z:1)w:1,(f:1,(g:1,h:1)v:1)u:1);"


@pytest.fixture(scope="module")
def tree() -> StudyTree:
    return StudyTree.cut(parse_newick(NEWICK, source="tree"), np.arange(8))


def test_clades_of_a_tree_each_below_the_one_that_holds_it(tree):
    hierarchy = Hierarchy.of_tree(tree, np.full(8, 3))
    sets = ["".join("abcdefgh"[i] for i in node.columns) for node in hierarchy.nodes]
    assert sets == ["abcdefgh", "abcde", "ab", "a", "b", "cde", "c", "de", "d", "e", "fgh", "f", "gh", "g", "h"]
    above = {sets[place]: sets[node.parent] for place, node in enumerate(hierarchy.nodes) if node.parent >= 0}
    assert above["de"] == "cde"
    assert above["a"] == "ab"
    assert above["fgh"] == "abcdefgh"
    assert sum(hierarchy.level(place, 0.05) for place in hierarchy.children[0]) == pytest.approx(0.05)


def test_asvs_that_do_not_occur_are_in_no_clade(tree):
    hierarchy = Hierarchy.of_tree(tree, np.array([1, 0, 0, 2, 2, 0, 0, 3]))
    sets = ["".join("abcdefgh"[i] for i in node.columns) for node in hierarchy.nodes]
    assert sets == ["adeh", "ade", "a", "de", "d", "e", "h"]


def test_taxa_of_all_ranks_the_lowest_of_those_that_hold_the_same():
    lineages = [
        *("k__B; p__F; c__C; o__L; f__La; g__Bl; s__", "k__B; p__F; c__C; o__L; f__La; g__Ro; s__x", "k__B; p__P", ""),
        "k__B; p__F; c__C; o__L; f__Ru; g__; s__",
    ]
    hierarchy = Hierarchy.of_taxonomy(lineages, np.ones(5, int))
    told = {node.id: (node.rank, node.columns.tolist()) for node in hierarchy.nodes}
    assert told == {
        "all": ("", [0, 1, 2, 3, 4]),
        "B": ("domain", [0, 1, 2, 4]),
        "B; F; C; L": ("order", [0, 1, 4]),
        "B; F; C; L; La": ("family", [0, 1]),
        "B; F; C; L; La; Bl": ("genus", [0]),
        "B; F; C; L; La; Ro; x": ("species", [1]),
        "B; F; C; L; Ru": ("family", [4]),
        "B; P": ("phylum", [2]),
    }
    places = {node.id: place for place, node in enumerate(hierarchy.nodes)}
    assert hierarchy.nodes[places["B; F; C; L; La"]].parent == places["B; F; C; L"]
    assert hierarchy.nodes[places["B; P"]].parent == places["B"]


def test_nothing_is_tested_below_what_was_not_found(tree):
    hierarchy = Hierarchy.of_tree(tree, np.full(8, 3))
    asked = []
    p = {0: 1e-9, 1: 1e-6, 2: 0.04, 5: 1e-5, 10: 0.9}

    def p_of(wave):
        asked.extend(wave)
        return [p.get(place, 1.0) for place in wave]

    found = find_downwards(hierarchy, p_of, 0.05)
    assert asked == [0, 1, 10, 2, 5, 6, 7]
    assert found.rejected == [0, 1, 5]
    assert found.smallest(hierarchy, {0: 1.0, 1: 0.9, 5: 0.8}.__getitem__) == [5]
    assert found.smallest(hierarchy, {0: 1.0, 1: 0.9, 5: 0.7}.__getitem__) == [5]
    assert found.smallest(hierarchy, {0: 1.0, 1: 0.9, 5: 0.6}.__getitem__) == [1]
    longer = Found(dict.fromkeys((0, 1, 5, 7), 0.01), 0.05)
    assert longer.smallest(hierarchy, {0: 1.0, 1: 0.8, 5: 0.63, 7: 0.48}.__getitem__) == [5]  # 7 has too little of 0
    assert found.smallest(hierarchy, {0: 1.0, 1: 0.7, 5: 0.7}.__getitem__) == [0]
    assert found.p[2] == pytest.approx(0.04 * 4)  # a quarter of the occurrences: a quarter of the level
    assert found.p[7] == 1.0


def test_adjusted_values_do_not_fall_on_the_way_down(tree):
    hierarchy = Hierarchy.of_tree(tree, np.full(8, 3))
    found = find_downwards(hierarchy, lambda wave: [0.04 if place == 0 else 1e-9 for place in wave], 0.05)
    assert len(found.p) == 15
    assert set(found.p.values()) == {0.04}


def test_sign_flips_of_few_groups_are_all_gone_through():
    assert sign_flip_p(np.ones((5, 1)), 0) == pytest.approx([1 / 32])
    assert sign_flip_p(np.array([[3.0], [2.0], [-1.0]]), 0) == pytest.approx([2 / 8])
    assert sign_flip_p(np.zeros((9, 2)), 0).tolist() == [1.0, 1.0]
    assert least_p(5) == 2 / 32  # twice, as sums are from cross-validation
    assert cross_validated_p(np.zeros((9, 2)), 0).tolist() == [1.0, 1.0]


def test_drawn_flips_give_what_all_of_them_give():
    random = np.random.default_rng(1)
    sums = random.standard_normal((EXACT + 4, 6)) + 0.3
    flips = np.array([[(number >> place) & 1 for place in range(len(sums))] for number in range(2 ** len(sums))])
    exact = ((1 - 2.0 * flips) @ sums >= sums.sum(axis=0) - 1e-9).mean(axis=0)
    assert sign_flip_p(sums, 0) == pytest.approx(exact, abs=0.005)


def test_two_within_take_the_place_of_what_they_share(tree):
    hierarchy = Hierarchy.of_tree(tree, np.full(8, 3))
    found = Found(dict.fromkeys((0, 1, 10, 2, 5), 0.01), 0.05)
    effects = {0: 1.0, 1: 0.4, 10: 0.4, 2: 0.2, 5: 0.2}
    assert found.smallest(hierarchy, effects.__getitem__) == [2, 5, 10]
    assert found.smallest(hierarchy, (effects | {2: 0.05}).__getitem__) == [1, 10]
    assert found.smallest(hierarchy, (effects | {10: 0.3}).__getitem__) == [0]
    assert Found({0: 0.2}, 0.05).smallest(hierarchy, effects.__getitem__) == []


@pytest.mark.parametrize("groups", [12, 30])
def test_a_p_value_is_below_a_level_as_often_as_the_level_says(groups):
    random = np.random.default_rng(2)
    sums = random.standard_t(3, (groups, 600)) * random.gamma(1.0, size=(groups, 1))
    p = sign_flip_p(sums, 0)
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level / 600)
        assert (p <= level).mean() >= level - 4 * np.sqrt(level / 600) - 1 / 2**groups


def simulated(random, hierarchy, effects, groups=11):
    """Sums of groups of all nodes: those of their ASVs, where some have an effect."""
    asvs = random.standard_normal((groups, len(effects))) + effects
    return np.stack([asvs[:, node.columns].sum(axis=1) for node in hierarchy.nodes], axis=1)


@pytest.mark.parametrize("effects", [np.zeros(8), np.array([0, 0, 0, 3.0, 3.0, 0, 0, 0])])
def test_the_family_wise_error_rate_is_kept(tree, effects):
    """Of 400 studies, those in which a clade is found none of whose ASVs has an effect are at most 5 %, and noise."""
    random = np.random.default_rng(3)
    hierarchy = Hierarchy.of_tree(tree, np.array([9, 1, 4, 4, 4, 2, 8, 8]))
    nothing = [place for place, node in enumerate(hierarchy.nodes) if not effects[node.columns].any()]
    wrong, right = 0, 0
    for _ in range(400):
        p = sign_flip_p(simulated(random, hierarchy, effects), 0)
        found = find_downwards(hierarchy, lambda wave, p=p: [p[place] for place in wave], 0.05).rejected
        wrong += bool(set(found) & set(nothing))
        right += bool(set(found) - set(nothing))
    assert wrong / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert right == 0 if not effects.any() else right > 380

"""New ASVs in the tree of a study, against sets of tips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.data.distances.branches import branch_proportions
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.placement import place_tips, with_tips
from aam.data.distances.unifrac import StudyTree
from aam.data.files.counts import Counts
from aam.errors import InputError


def cut(newick: str, names: list[str]) -> StudyTree:
    phylogeny = parse_newick(newick, root="as-is")
    return StudyTree.cut(phylogeny, tips_of(newick, names))


def tips_of(newick: str, names: list[str]) -> np.ndarray:
    tip = {name: number for number, name in enumerate(parse_newick(newick, root="as-is").tip_names)}
    return np.array([tip.get(name, -1) for name in names], dtype=np.int64)


def placed(newick: str, study: StudyTree, known: list[str], new: list[str]) -> np.ndarray:
    larger = parse_newick(newick, root="as-is")
    return place_tips(study, known, larger, tips_of(newick, known), tips_of(newick, new))


def below(tree: StudyTree, names: list[str]) -> list[set[str]]:
    """The tips below every branch."""
    return [{names[i] for i in tree.order[a:b]} for a, b in zip(tree.start, tree.stop, strict=True)]


def test_where_new_asvs_go() -> None:
    known, new = ["a", "b", "c", "d"], ["u", "v", "w", "x", "y", "z"]
    study = cut("(((a:1,b:2):3,c:4):5,d:6);", known)
    # u along the branch of a, v at the node above a and b, w along their branch, x at the lowest node of all,
    # y above them all, z in no tree
    larger = "(((((u:1,a:1):1,v:1,b:2):1,w:1):1,c:4):5,d:6,x:1);"
    places = placed(f"({larger[:-1]}:1,y:1);", study, known, new)
    assert places.tolist()[4:] == [-1, -1]
    names = [*known, *new[:4]]
    assert below(with_tips(study, places[:4]), names) == [
        {"a", "b", "c", "d", "u", "v", "w", "x"},
        {"a", "b", "c", "u", "v", "w"},
        {"a", "b", "u", "v", "w"},
        {"a", "u"},
        {"b"},
        {"c"},
        {"d"},
    ]


def test_children_may_be_written_in_any_order() -> None:
    known = ["a", "b", "c", "d"]
    study = cut("(((a:1,b:2):3,c:4):5,d:6);", known)
    assert placed("(d:1,(c:1,(b:1,(n:1,a:1):1):1):1);", study, known, ["n"]).tolist() == [3]


@pytest.mark.parametrize(
    ("larger", "says"),
    [
        ("((a:1,c:1):1,(b:1,d:1):1);", "2 of its 7 branches are not there, and 2 others are.*the one above a, b"),
        ("((a:1,b:1,c:1):1,d:1);", "1 of its 7 branches are not there, and 0 others are.*the one above a, b"),
        ("((a:1,b:1):1,(c:1,d:1):1);", "1 of its 7 branches are not there, and 1 others are.*root in the same place"),
    ],
)
def test_another_topology_is_refused(larger, says) -> None:
    known = ["a", "b", "c", "d"]
    study = cut("(((a:1,b:2):3,c:4):5,d:6);", known)
    with pytest.raises(InputError, match=says):
        placed(larger, study, known, [])


def test_a_finer_tree_is_refused() -> None:
    known = ["a", "b", "c", "d"]
    study = cut("((a:1,b:1,c:1):1,d:1);", known)
    with pytest.raises(InputError, match=r"0 of its 6 branches .*1 others are, such as one above 2 ASVs, a, b among"):
        placed("(((a:1,b:2):3,c:4):5,d:6);", study, known, [])


def random_tree(rng: np.random.Generator, names: list[str]) -> str:
    """A tree with polytomies and nodes with one child."""
    nodes = list(rng.permutation(names))
    while len(nodes) > 1:
        size = min(len(nodes), int(rng.integers(1, 4)))
        taken = [nodes.pop(int(rng.integers(len(nodes)))) for _ in range(size)]
        nodes.append(f"({','.join(f'{node}:{rng.integers(1, 9)}' for node in taken)})")
        if size == 1 and len(nodes[-1]) > 200 * len(names):
            break
    return f"{nodes[0]};" if nodes[0].startswith("(") else f"({nodes[0]}:1);"


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_against_sets(seed, some, more) -> None:
    """Every branch gets the new tips that the lowest set around them with known ones allows, and no others."""
    rng = np.random.default_rng(seed)
    known, new = [f"k{i}" for i in range(some)], [f"n{i}" for i in range(more)]
    newick = random_tree(rng, [*known, *new])
    larger = parse_newick(newick, root="as-is")
    study = StudyTree.cut(larger, tips_of(newick, known))
    places = placed(newick, study, known, new)
    sets = [set(larger.tip_names[a:b]) for a, b in zip(larger.start, larger.stop, strict=True)]
    inside = min((one for one in sets if set(known) <= one), key=len)
    expected = below(study, known)
    for tip in new:
        around = min((one for one in sets if tip in one and one & set(known)), key=len)
        for clade in expected:
            if around <= inside and (clade & set(known)) >= (around & set(known)):
                clade.add(tip)
    kept = np.flatnonzero(places >= 0)
    names = [*known, *(new[i] for i in kept)]
    tree = with_tips(study, places[kept])
    assert below(tree, names) == expected
    assert sorted(tree.order.tolist()) == list(range(len(names)))
    np.testing.assert_array_equal(tree.order[tree.rank], np.arange(len(names)))
    counts = rng.integers(0, 3, (3, len(names)))
    counts[0, some:] = 0
    shares = branch_proportions(tree, Counts(counts)).toarray()
    direct = [[row[[names.index(tip) for tip in clade]].sum() for clade in expected] for row in counts]
    np.testing.assert_array_equal(shares, np.array(direct) / np.maximum(counts.sum(axis=1), 1)[:, None])
    old = branch_proportions(study, Counts(counts[:1, :some])).toarray()
    np.testing.assert_array_equal(shares[:1], old)

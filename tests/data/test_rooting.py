"""Midpoint rooting against scikit-bio's, and where the root of a tree has to be."""

import zipfile
from collections import defaultdict
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skbio import TreeNode
from skbio.diversity import beta_diversity

from aam.config import UnifracConfig
from aam.data.distances.phylogeny import Phylogeny, parse_newick, read_phylogeny
from aam.data.distances.rooting import _parents
from aam.data.distances.unifrac import StudyTree, distances
from aam.errors import InputError

UNROOTED = "(a:1,(b:1,c:5):1,d:2);"


def random_newick(seed: int) -> str:
    """A tree of tips t0, t1, ... with polytomies, nodes with one child, ties and lengths of zero; sums are exact."""
    rng = np.random.default_rng(seed)
    lengths = [[1.0], [0.0, 1.0], [0.0, 0.25, 1.0, 2.5, 7.0]][rng.integers(3)]
    nodes = [f"t{i}:{rng.choice(lengths)}" for i in rng.permutation(rng.integers(2, 15))]
    while len(nodes) > 1:
        children = [nodes.pop() for _ in range(min(len(nodes), rng.integers(1, 5)))]
        nodes.insert(rng.integers(len(nodes) + 1), f"({','.join(children)}):{rng.choice(lengths)}")
        if len(nodes) <= 4 and rng.random() < 0.5:
            break
    return f"({','.join(nodes)}){rng.choice(['', ':3'])};"


newicks = st.integers(0, 2**32 - 1).map(random_newick)


def by_tips(rows: list[tuple[float, frozenset[str]]], tips: int) -> dict[frozenset[str], float]:
    """Length above every set of tips; those that no distance depends on are left out."""
    lengths: defaultdict[frozenset[str], float] = defaultdict(float)
    for length, names in rows:
        if length and 0 < len(names) < tips:
            lengths[names] += length
    return lengths


def own_branches(tree: Phylogeny) -> dict[frozenset[str], float]:
    rows = zip(tree.length.tolist(), tree.start, tree.stop, strict=True)
    pairs = [(length, frozenset(tree.tip_names[start:stop])) for length, start, stop in rows]
    return by_tips(pairs, len(tree.tip_names))


def scikit_bio_branches(root: TreeNode, tips: int) -> dict[frozenset[str], float]:
    """An old root with one child is left behind as a tip without a name."""
    nodes = list(root.preorder(include_self=True))
    names = [frozenset(tip.name for tip in node.tips(include_self=True) if tip.name) for node in nodes]
    return by_tips([(node.length or 0.0, below) for node, below in zip(nodes, names, strict=True)], tips)


@given(newicks)
@settings(max_examples=300, deadline=None)
def test_the_rooted_tree_is_that_of_scikit_bio(text: str) -> None:
    tree = parse_newick(text, root="midpoint")
    expected = TreeNode.read(StringIO(text)).root_at_midpoint()
    assert own_branches(tree) == scikit_bio_branches(expected, len(tree.tip_names))
    assert tree.length[0] == 0


@given(newicks, st.integers(0, 2**32 - 1), st.sampled_from([False, True]))
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_scikit_bio(text: str, seed: int, normalized: bool) -> None:
    tree = parse_newick(text, root="midpoint")
    tips = len(tree.tip_names)
    counts = np.random.default_rng(seed).integers(0, 5, (4, tips)) + np.eye(4, tips, dtype=int)
    counts[:, 0] += counts.sum(1) == 0
    cut = StudyTree.cut(tree, np.array([tree.tip_names.index(f"t{i}") for i in range(tips)]))
    expected = TreeNode.read(StringIO(text)).root_at_midpoint().shear([f"t{i}" for i in range(tips)], prune=False)
    metric = "weighted_normalized_unifrac" if normalized else "unweighted_unifrac"
    ours = distances(cut, sp.csr_array(counts), UnifracConfig(unifrac_metric=metric))
    np.testing.assert_allclose(ours, scikit_bio(counts, expected, normalized), rtol=0, atol=1e-12)


def scikit_bio(counts: NDArray[np.int64], tree: TreeNode, normalized: bool) -> NDArray[np.float64]:
    options = {"normalized": True} if normalized else {}
    name = "weighted_unifrac" if normalized else "unweighted_unifrac"
    taxa = [f"t{i}" for i in range(counts.shape[1])]
    tree.length = None  # not counted here
    with np.errstate(invalid="ignore"):
        result = beta_diversity(name, counts, taxa=taxa, tree=tree, validate=False, **options)
    return np.nan_to_num(np.asarray(result.data))


def heights(tree: Phylogeny) -> NDArray[np.float64]:
    """Farthest tip below each child of the root, the farthest first."""
    parent = _parents(tree)
    height = np.zeros(len(parent))
    for branch in range(len(parent) - 1, 0, -1):
        height[parent[branch]] = max(height[parent[branch]], height[branch] + tree.length[branch])
    children = np.flatnonzero(np.array(parent) == 0)
    return np.sort(height[children] + tree.length[children])[::-1]


@given(newicks)
@settings(max_examples=60, deadline=None)
def test_the_root_is_in_the_middle(text: str) -> None:
    farthest = heights(parse_newick(text, root="midpoint"))
    assert len(farthest) == 1 or farthest[0] == farthest[1]


@pytest.mark.parametrize("leaning", ["left", "right"])
def test_a_caterpillar_of_100_000_tips(leaning: str) -> None:
    tips = 100_000
    if leaning == "left":
        text = "(" * (tips - 2) + "t0:1,t1:1" + "".join(f"):1,t{i}:1" for i in range(2, tips - 1))
        text += f",t{tips - 1}:1);"
    else:
        text = (
            "".join(f"(t{i}:1," for i in range(tips - 2)) + f"t{tips - 2}:1,t{tips - 1}:1" + "):1" * (tips - 3) + ");"
        )
    tree = parse_newick(text, root="midpoint")
    assert sorted(tree.tip_names) == sorted(f"t{i}" for i in range(tips))
    farthest = heights(tree)
    assert farthest[0] == farthest[1] == (tips - 1) / 2
    assert tree.length.sum() == 2 * tips - 3


def test_real_trees_are_rooted_as_they_are(real_data: Path) -> None:
    trees = sorted(real_data.glob("*/tree.nwk"))
    for path in trees:
        assert len(read_phylogeny(path).tip_names) > 100
    assert trees


def test_a_real_tree_has_the_midpoint_of_scikit_bio(real_data: Path) -> None:
    path = real_data / "tiny_moving_pictures/tree.nwk"
    tree = read_phylogeny(path, root="midpoint")
    ours = own_branches(tree)
    expected = scikit_bio_branches(
        TreeNode.read(str(path), convert_underscores=False).root_at_midpoint(), len(tree.tip_names)
    )
    assert ours.keys() == expected.keys()
    np.testing.assert_allclose([ours[key] for key in expected], list(expected.values()), atol=1e-12)


@pytest.mark.parametrize(
    "text", ["((a:1,b:2):1,c:1);", "((a:1,b:2,c:1):1);", "((a:1,b:1):1,(c:1,d:1,e:1):1);", "(a:1);"]
)
def test_one_child_or_two_make_a_root(text: str) -> None:
    assert parse_newick(text).length.tolist() == parse_newick(text, root="as-is").length.tolist()


@pytest.mark.parametrize(("text", "children"), [(UNROOTED, 3), ("(a:1,b:1,c:1,(d:1,e:1):1):5;", 4)])
def test_more_children_are_no_root(tmp_path: Path, text: str, children: int) -> None:
    path = tmp_path / "tree.nwk"
    path.write_text(text)
    said = rf"tree\.nwk: not rooted, its root has {children} children.*--root midpoint.*--root as-is"
    with pytest.raises(InputError, match=said):
        read_phylogeny(path)
    assert len(read_phylogeny(path, root="as-is").tip_names) == children + 1


def test_the_root_is_put_on_a_branch_or_on_a_node() -> None:
    on_branch = parse_newick(UNROOTED, root="midpoint")  # d to c is 8, and c's own branch is 5
    assert on_branch.tip_names == ("c", "b", "a", "d")
    np.testing.assert_array_equal(on_branch.length, [0, 4, 1, 1, 1, 1, 2])
    np.testing.assert_array_equal(on_branch.start, [0, 0, 1, 1, 2, 2, 3])
    np.testing.assert_array_equal(on_branch.stop, [4, 1, 4, 2, 4, 3, 4])
    on_node = parse_newick("((a:3,b:3):1,c:1,d:1):9;", root="midpoint")
    assert on_node.tip_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(on_node.length, [0, 3, 3, 1, 1, 1])
    np.testing.assert_array_equal(on_node.stop, [4, 1, 2, 4, 3, 4])


@pytest.mark.parametrize("text", ["(a:1);", "((a:1):2);", "(a:0,b:0,c:0);"])
def test_a_tree_without_a_longest_path_stays(text: str) -> None:
    assert own_branches(parse_newick(text, root="midpoint")) == own_branches(parse_newick(text, root="as-is"))


def test_an_unrooted_artifact_needs_the_choice(tmp_path: Path) -> None:
    path = tmp_path / "tree.qza"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("5178/metadata.yaml", "uuid: 5178\ntype: Phylogeny[Unrooted]\nformat: F\n")
        archive.writestr("5178/data/tree.nwk", UNROOTED)
    with pytest.raises(InputError, match=r"tree\.qza.*Phylogeny\[Unrooted\].*--root midpoint.*--root as-is"):
        read_phylogeny(path)
    assert read_phylogeny(path, root="midpoint").tip_names == ("c", "b", "a", "d")
    assert read_phylogeny(path, root="as-is").tip_names == ("a", "b", "c", "d")

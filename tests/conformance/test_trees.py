"""Newick trees of scikit-bio's tests, read as scikit-bio reads them."""

import numpy as np
import pytest
from skbio import TreeNode

from aam.data.distances.phylogeny import LengthChoices, parse_newick, read_phylogeny
from aam.errors import InputError

NO_NAMES = 23
"""Trees of its tests with a tip that has no name, which no ASV could belong to."""
ANY = LengthChoices(missing="zero")


@pytest.fixture(scope="module")
def newick_tests(tests_of):
    case = tests_of("skbio.io.format.tests.test_newick").TestNewick()
    case.setUp()
    return case


def _clades(tree: TreeNode) -> dict[tuple[str, ...], float]:
    """Length of the branch above every set of tips; branches above the same set are added up."""
    found: dict[tuple[str, ...], float] = {}
    for node in tree.traverse():
        tips = tuple(sorted(tip.name for tip in ([node] if node.is_tip() else node.tips())))
        found[tips] = found.get(tips, 0.0) + (node.length or 0.0)
    return found


def _clades_of(phylogeny) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for length, start, stop in zip(phylogeny.length, phylogeny.start, phylogeny.stop, strict=True):
        tips = tuple(sorted(phylogeny.tip_names[start:stop]))
        found[tips] = found.get(tips, 0.0) + length
    return found


def test_its_valid_trees(newick_tests):
    unnamed = 0
    for _, texts in newick_tests.trees_newick_lists:
        for text in texts:
            expected = TreeNode.read([text], convert_underscores=False)
            if not expected.children or not all(tip.name for tip in expected.tips()):
                unnamed += 1
                with pytest.raises(InputError, match="not a Newick tree"):
                    parse_newick(text, ANY, root="as-is")
            else:
                assert _clades_of(parse_newick(text, ANY, root="as-is")) == _clades(expected), text
    assert unnamed == NO_NAMES


def test_its_invalid_trees(newick_tests):
    assert len(newick_tests.invalid_newicks) > 10
    for text, _ in newick_tests.invalid_newicks:
        with pytest.raises(InputError, match=r"not a Newick tree|empty"):
            parse_newick(text, ANY, root="as-is")


def test_its_files_of_trees(installed):
    paths = sorted(installed("skbio", "tree", "tests", "data").glob("*.nwk"))
    assert paths
    for path in paths:
        expected = _clades(TreeNode.read(str(path), convert_underscores=False))
        found = _clades_of(read_phylogeny(path, LengthChoices(negative="zero"), "as-is"))
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), [max(0.0, expected[tips]) for tips in found], rtol=1e-12)

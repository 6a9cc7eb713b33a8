"""Exact distances of a batch against scikit-bio, the `unifrac` package and slow sums over branches."""

import pickle
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from skbio import TreeNode
from skbio.diversity import alpha_diversity, beta_diversity

from aam.config import UnifracConfig, UnifracMetric
from aam.data.distances import unifrac
from aam.data.distances.phylogeny import Phylogeny, parse_newick, read_phylogeny
from aam.data.distances.unifrac import StudyTree, cross_distances, distances, faith_pd, missing_tips
from aam.data.files.tables import FeatureTable, feature_table
from aam.errors import InputError

METRICS: list[UnifracMetric] = [
    "unweighted_unifrac",
    "weighted_unifrac",
    "weighted_normalized_unifrac",
    "generalized_unifrac",
]
EXACT = {"rtol": 0, "atol": 1e-9}


def test_faith_pd_in_blocks_of_samples(monkeypatch):
    tree, counts = study(np.random.default_rng(0).integers(0, 2, (7, 4)), "((t0:1,t1:2):3,(t2:4,t3:5):6);")
    whole = faith_pd(tree, counts)
    sizes = []
    reads = unifrac._reads_below_branches
    monkeypatch.setattr(unifrac, "_FAITH_BLOCK", 3)
    monkeypatch.setattr(
        unifrac, "_reads_below_branches", lambda t, c, device: sizes.append(c.shape[0]) or reads(t, c, device)
    )
    assert torch.equal(faith_pd(tree, counts), whole)
    assert sizes == [3, 3, 1]


def config(metric: UnifracMetric, alpha: float = 0.5) -> UnifracConfig:
    with_alpha = {"generalized_alpha": alpha} if metric == "generalized_unifrac" else {}
    return UnifracConfig(unifrac_metric=metric, **with_alpha)


def study(counts: NDArray[np.int64], newick: str, root: bool = False) -> tuple[StudyTree, sp.csr_array]:
    """Tree and counts whose columns are the tips ``t0, t1, ...``; other tips are extra."""
    phylogeny = parse_newick(newick, root="as-is")
    tips = np.array([phylogeny.tip_names.index(f"t{i}") for i in range(counts.shape[1])])
    return StudyTree.cut(phylogeny, tips, root), sp.csr_array(counts)


def definition(counts: NDArray[np.int64], phylogeny: Phylogeny, settings: UnifracConfig) -> NDArray[np.float64]:
    """The textbook sums, one pair and one branch at a time; columns are tips, the root's length does not count."""
    depth = np.maximum(counts.sum(1), 1)
    result = np.zeros((len(counts), len(counts)))
    for i in range(len(counts)):
        for j in range(len(counts)):
            above = below = 0.0
            for length, start, stop in list(zip(phylogeny.length, phylogeny.start, phylogeny.stop, strict=True))[1:]:
                p, q = counts[i, start:stop].sum() / depth[i], counts[j, start:stop].sum() / depth[j]
                if p + q == 0:
                    continue
                if settings.unifrac_metric == "unweighted_unifrac":
                    above, below = above + length * ((p > 0) != (q > 0)), below + length
                elif settings.unifrac_metric == "generalized_unifrac":
                    weight = length * (p + q) ** settings.generalized_alpha
                    above, below = above + weight * abs(p - q) / (p + q), below + weight
                else:
                    above, below = above + length * abs(p - q), below + length * (p + q)
            whole = 1.0 if settings.unifrac_metric == "weighted_unifrac" else below
            result[i, j] = above / whole if whole else 0.0
    return result


def scikit_bio(counts: NDArray[np.int64], newick: str, metric: UnifracMetric) -> NDArray[np.float64]:
    """Distances by scikit-bio; it counts a length on the root."""
    options = {} if metric == "unweighted_unifrac" else {"normalized": metric == "weighted_normalized_unifrac"}
    name = "unweighted_unifrac" if metric == "unweighted_unifrac" else "weighted_unifrac"
    tree = TreeNode.read(StringIO(newick), convert_underscores=False)
    taxa = [f"t{i}" for i in range(counts.shape[1])]
    with np.errstate(invalid="ignore"):
        result = beta_diversity(name, counts, taxa=taxa, tree=tree, validate=False, **options)
    return np.asarray(result.data)


@st.composite
def studies(draw: st.DrawFn) -> tuple[NDArray[np.int64], str]:
    """A random tree over more tips than the table has ASVs, with polytomies, unary chains and zero lengths."""
    asvs, extra, samples = draw(st.integers(1, 12)), draw(st.integers(0, 6)), draw(st.integers(1, 6))
    lengths = st.one_of(st.just(0.0), st.floats(1e-3, 3, allow_subnormal=False))
    nodes = [f"t{i}:{draw(lengths)!r}" for i in draw(st.permutations(range(asvs + extra)))]
    while len(nodes) > 1:
        children = [nodes.pop() for _ in range(min(len(nodes), draw(st.integers(1, 3))))]
        nodes.insert(draw(st.integers(0, len(nodes))), f"({','.join(children)}):{draw(lengths)!r}")
        if len(nodes) <= 4 and draw(st.booleans()):
            break
    cells = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 7, 40]), min_size=samples * asvs, max_size=samples * asvs))
    return np.array(cells, dtype=np.int64).reshape(samples, asvs), f"({','.join(nodes)});"


@given(studies(), st.sampled_from(METRICS[:3]))
@settings(max_examples=80, deadline=None)
def test_agrees_with_scikit_bio(case: tuple[NDArray[np.int64], str], metric: UnifracMetric) -> None:
    counts, newick = case
    expected = scikit_bio(counts, newick, metric)
    # scikit-bio gives NaN for 0/0 where samples have reads but no branch length; here that is 0
    expected[np.isnan(expected)] = 0.0
    tree, batch = study(counts, newick)
    np.testing.assert_allclose(distances(tree, batch, config(metric)), expected, **EXACT)


@given(studies(), st.sampled_from(METRICS), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(max_examples=50, deadline=None)
def test_agrees_with_the_definition(case: tuple[NDArray[np.int64], str], metric: UnifracMetric, alpha: float) -> None:
    counts, newick = case
    phylogeny = parse_newick(newick, root="as-is")
    by_tip = np.zeros((len(counts), len(phylogeny.tip_names)), dtype=np.int64)
    by_tip[:, [phylogeny.tip_names.index(f"t{i}") for i in range(counts.shape[1])]] = counts
    tree, batch = study(counts, newick)
    expected = definition(by_tip, phylogeny, config(metric, alpha))
    np.testing.assert_allclose(distances(tree, batch, config(metric, alpha)), expected, **EXACT)


@given(studies(), st.sampled_from(METRICS), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_blocks_and_the_order_of_samples_do_not_matter(case: tuple[NDArray[np.int64], str], metric, random) -> None:
    counts, newick = case
    tree, batch = study(counts, newick)
    whole = distances(tree, batch, config(metric))
    assert torch.equal(whole, whole.T)
    assert (whole.diagonal() == 0).all()
    shuffled = random.sample(range(len(counts)), len(counts))
    rows, columns = shuffled[: len(counts) // 2], shuffled[len(counts) // 2 :]
    block = cross_distances(tree, batch[rows], batch[columns], config(metric))
    assert block.shape == (len(rows), len(columns))
    np.testing.assert_allclose(block, whole[rows][:, columns], **EXACT)


@given(studies(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_faith_pd_agrees_with_scikit_bio(case: tuple[NDArray[np.int64], str], root: bool) -> None:
    counts, newick = case
    newick = newick[:-1] + ":0.5;"
    tree, batch = study(counts, newick, root)
    node = TreeNode.read(StringIO(newick), convert_underscores=False)
    taxa = [f"t{i}" for i in range(counts.shape[1])]
    expected = alpha_diversity("faith_pd", counts, taxa=taxa, tree=node, validate=False).to_numpy()
    on_root = 0.0 if root else 0.5 * (counts.sum(1) > 0)
    np.testing.assert_allclose(faith_pd(tree, batch), expected - on_root, **EXACT)


@pytest.mark.parametrize("metric", METRICS[:3])
def test_a_length_on_the_root_counts_on_request(metric: UnifracMetric) -> None:
    counts = np.array([[1, 2, 0], [0, 1, 1], [3, 0, 0]])
    newick = "((t0:1,t1:2):0.5,t2:1.5):4;"
    tree, batch = study(counts, newick, root=True)
    np.testing.assert_allclose(distances(tree, batch, config(metric)), scikit_bio(counts, newick, metric), **EXACT)
    tree, batch = study(counts, newick)
    without = scikit_bio(counts, newick.replace(":4;", ";"), metric)
    np.testing.assert_allclose(distances(tree, batch, config(metric)), without, **EXACT)


def test_a_stem_above_the_samples_counts() -> None:
    tree, batch = study(np.array([[1, 0], [0, 1]]), "(((t0:1,t1:1):0.25):0.25,extra:9);")
    assert distances(tree, batch, config("unweighted_unifrac"))[0, 1] == pytest.approx(2 / 2.5, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_samples_without_reads(metric: UnifracMetric) -> None:
    tree, batch = study(np.array([[0, 0], [1, 3], [0, 0]]), "(t0:1,t1:2);")
    result = distances(tree, batch, config(metric))
    assert result[0, 2] == 0
    assert result[0, 1] == pytest.approx(1.75 if metric == "weighted_unifrac" else 1.0)
    assert torch.equal(distances(tree, batch[[0, 2]], config(metric)), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_block_has_its_shape(metric: UnifracMetric) -> None:
    tree, batch = study(np.array([[1, 0], [1, 3]]), "(t0:1,t1:2);")
    assert cross_distances(tree, batch[:0], batch, config(metric)).shape == (0, 2)
    assert cross_distances(tree, batch, batch[:0], config(metric)).shape == (2, 0)


def test_large_counts_are_exact() -> None:
    """A read beside 2^52 others is still present; a sum in floating point would lose it."""
    tree, batch = study(np.array([[2**52, 1, 2**52], [2**52, 0, 2**52]]), "((t0:1,t1:1):1,t2:1);")
    assert distances(tree, batch, config("unweighted_unifrac"))[0, 1] == pytest.approx(0.25, abs=1e-15)


def test_autocast_around_the_call_changes_nothing() -> None:
    tree, batch = study(np.array([[1, 2, 0], [0, 1, 1]]), "((t0:0.1,t1:0.2):0.3,t2:0.7);")
    plain = distances(tree, batch, config("unweighted_unifrac"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distances(tree, batch, config("unweighted_unifrac")), plain)


def test_generalized_with_alpha_one_is_weighted_normalized() -> None:
    tree, batch = study(np.array([[1, 2, 0], [0, 1, 1], [5, 0, 9]]), "((t0:0.1,t1:0.2):0.3,t2:0.7);")
    one = distances(tree, batch, config("generalized_unifrac", alpha=1.0))
    np.testing.assert_allclose(one, distances(tree, batch, config("weighted_normalized_unifrac")), **EXACT)


def test_the_cut_has_at_most_two_branches_for_each_asv() -> None:
    newick = "(((((t0:1,x0:1):1):1,(x1:1,x2:1):1):1,(t1:1):1,t2:2):1,x3:1):5;"
    tree = StudyTree.cut(parse_newick(newick), np.array([4, 0, 5]))
    np.testing.assert_array_equal(tree.length, [1, 4, 2, 2])
    np.testing.assert_array_equal(tree.order[tree.rank], [0, 1, 2])


def test_the_tree_survives_pickling() -> None:
    tree, batch = study(np.array([[1, 2, 0], [0, 1, 1]]), "((t0:0.1,t1:0.2):0.3,t2:0.7);")
    again = pickle.loads(pickle.dumps(tree))
    assert torch.equal(
        distances(again, batch, config("weighted_unifrac")), distances(tree, batch, config("weighted_unifrac"))
    )


def test_tips_are_found_by_id_and_then_by_sequence() -> None:
    counts = sp.csr_array(np.ones((1, 3), dtype=np.int64))
    table = FeatureTable(counts, ("s",), ("asv1", "asv2", "asv3"), ("ACGT", "GGGG", "TTTT"))
    phylogeny = parse_newick("((GGGG:1,other:1):1,asv1:1);")
    np.testing.assert_array_equal(missing_tips(phylogeny, table), [2, 0, -1])


def test_two_asvs_on_one_tip_are_refused() -> None:
    with pytest.raises(InputError, match="same tip of the tree: b"):
        StudyTree.cut(parse_newick("(a:1,b:1);"), np.array([1, 0, 1]))


def test_asvs_without_a_tip_are_a_defect() -> None:
    with pytest.raises(ValueError, match="1 ASVs have no tip"):
        StudyTree.cut(parse_newick("(a:1,b:1);"), np.array([1, -1]))


def test_counts_of_another_table_are_a_defect() -> None:
    tree, _ = study(np.array([[1, 2]]), "(t0:1,t1:2);")
    with pytest.raises(ValueError, match="counts of 3 ASVs"):
        distances(tree, sp.csr_array(np.ones((1, 3), dtype=np.int64)), config("unweighted_unifrac"))


@pytest.fixture(scope="module")
def ecam(real_data: Path) -> tuple[FeatureTable, StudyTree, TreeNode]:
    table = feature_table(real_data / "ecam/table.biom")
    phylogeny = read_phylogeny(real_data / "ecam/tree.nwk")
    node = TreeNode.read(str(real_data / "ecam/tree.nwk"), convert_underscores=False)
    node.length = None
    return table, StudyTree.cut(phylogeny, missing_tips(phylogeny, table)), node


def dense_reference(table: FeatureTable, root: TreeNode, metric: UnifracMetric) -> NDArray[np.float64]:
    """Distances from scikit-bio's tree by a dense matrix of all branches, without intervals, cuts or prefix sums."""
    column = {name: number for number, name in enumerate(table.asv_ids)}
    nodes = list(root.preorder(include_self=False))
    below = sp.lil_array((len(nodes), table.n_asvs))
    for row, node in enumerate(nodes):
        below[row, [column[tip.name] for tip in node.tips(include_self=True) if tip.name in column]] = 1
    share = (table.counts @ below.T.tocsr()).toarray() / table.depth[:, None]
    length = np.array([node.length for node in nodes])
    if metric == "unweighted_unifrac":
        share = (share > 0).astype(float)
    difference = cdist(share, share, "cityblock", w=length)
    if metric == "weighted_unifrac":
        return difference
    total = (share @ length)[:, None] + share @ length
    return difference / ((total + difference) / 2 if metric == "unweighted_unifrac" else total)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS[:3])
def test_the_whole_of_ecam_is_exact(ecam: tuple[FeatureTable, StudyTree, TreeNode], metric: UnifracMetric) -> None:
    table, tree, root = ecam
    expected = dense_reference(table, root, metric)
    np.testing.assert_allclose(distances(tree, table.counts, config(metric)), expected, **EXACT)


@pytest.mark.parametrize("metric", METRICS[:3])
def test_a_part_of_ecam_agrees_with_scikit_bio(
    ecam: tuple[FeatureTable, StudyTree, TreeNode], metric: UnifracMetric
) -> None:
    table, tree, root = ecam
    part = table.counts[::20]
    options = {} if metric == "unweighted_unifrac" else {"normalized": metric == "weighted_normalized_unifrac"}
    name = "unweighted_unifrac" if metric == "unweighted_unifrac" else "weighted_unifrac"
    expected = beta_diversity(name, part.toarray(), taxa=list(table.asv_ids), tree=root, validate=False, **options)
    np.testing.assert_allclose(distances(tree, part, config(metric)), expected.data, **EXACT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("metric", METRICS)
def test_a_gpu_gives_the_same(metric: UnifracMetric) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (12, 40)) * (rng.random((12, 40)) < 0.3)
    newick = (
        "(" + ",".join(f"(t{i}:{rng.random()},t{i + 1}:{rng.random()}):{rng.random()}" for i in range(0, 40, 2)) + ");"
    )
    tree, batch = study(counts, newick)
    there = distances(tree, batch, config(metric), "cuda").cpu()
    np.testing.assert_allclose(there, distances(tree, batch, config(metric)), **EXACT)

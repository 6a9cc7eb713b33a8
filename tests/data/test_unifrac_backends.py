"""`aam unifrac` through each program, and the exact distances of a batch against the programs themselves."""

import logging
import shutil
import subprocess
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import biom
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skbio import TreeNode
from skbio.diversity import beta_diversity

from aam.config import MatrixOutputConfig, PhylogenyConfig, UnifracCommandConfig, UnifracConfig, UnifracMetric
from aam.data.distances import backends as unifrac_backends
from aam.data.distances.backends import Backend, available_backend, compute_matrix, cut_newick
from aam.data.distances.matrix import DistanceMatrix, read_distance_matrix
from aam.data.distances.phylogeny import parse_newick, read_phylogeny
from aam.data.distances.unifrac import StudyTree, distances, missing_tips
from aam.data.files.tables import FeatureTable, feature_table
from aam.errors import InputError
from aam.workflows.unifrac import write_unifrac

METRICS: list[UnifracMetric] = [
    "unweighted_unifrac",
    "weighted_unifrac",
    "weighted_normalized_unifrac",
    "generalized_unifrac",
]
METHODS = dict(zip(METRICS, ["unweighted", "weighted_unnormalized", "weighted_normalized", "generalized"], strict=True))
ALPHA = 0.3


def needs(backend: Backend) -> None:
    try:
        available_backend(backend)
    except InputError as error:
        pytest.skip(f"{error} (scripts/install-unifrac.sh)")


@pytest.fixture(scope="module")
def unifrac() -> ModuleType:
    """The real package."""
    needs("unifrac")
    return import_module("unifrac")


def config(metric: UnifracMetric) -> UnifracConfig:
    with_alpha = {"generalized_alpha": ALPHA} if metric == "generalized_unifrac" else {}
    return UnifracConfig(unifrac_metric=metric, **with_alpha)


def numbered_table(counts: NDArray[np.int64]) -> FeatureTable:
    asvs = tuple(f"t{i}" for i in range(counts.shape[1]))
    return FeatureTable(sp.csr_array(counts), tuple(f"s{i}" for i in range(len(counts))), asvs, asvs)


def random_study(seed: int, samples: int = 7, asvs: int = 25) -> tuple[NDArray[np.int64], str]:
    """A random tree with polytomies, unary chains, zero lengths, a stem and extra tips; every sample has reads."""
    rng = np.random.default_rng(seed)

    def length() -> str:
        return repr(float(rng.exponential())) if rng.random() < 0.9 else "0.0"

    nodes = [f"{'t' if i < asvs else 'x'}{i}:{length()}" for i in rng.permutation(asvs + 5)]
    while len(nodes) > 3:
        children = [nodes.pop(int(rng.integers(len(nodes)))) for _ in range(min(int(rng.integers(1, 5)), len(nodes)))]
        nodes.append(f"({','.join(children)}):{length()}")
    counts = rng.integers(1, 200, (samples, asvs)) * (rng.random((samples, asvs)) < 0.3)
    counts[:, 0] += counts.sum(1) == 0
    if samples > 2:
        counts[1] = counts[0]
        counts[2] = 0
        counts[2, asvs - 1] = 5
    return counts, f"(({','.join(nodes)}):0.75);"


def in_memory(unifrac: ModuleType, counts: NDArray[np.int64], newick: str, metric: UnifracMetric) -> NDArray[Any]:
    """The package's own distances, from its own reading of the whole tree."""
    names = [f"t{i}" for i in range(counts.shape[1])]
    table = biom.Table(counts.T.astype(float), names, [f"s{i}" for i in range(len(counts))])
    options = {"alpha": ALPHA} if metric == "generalized_unifrac" else {}
    compute = getattr(unifrac, f"{METHODS[metric]}_fp64")
    return np.asarray(compute(table, import_module("bp").parse_newick(newick), **options).data)


def batch_distances(counts: NDArray[np.int64], newick: str, metric: UnifracMetric) -> NDArray[np.float64]:
    table, phylogeny = numbered_table(counts), parse_newick(newick, root="as-is")
    tree = StudyTree.cut(phylogeny, missing_tips(phylogeny, table))
    return distances(tree, table.counts, config(metric)).numpy()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(12))
def test_a_batch_agrees_with_unifrac(unifrac: ModuleType, seed: int, metric: UnifracMetric) -> None:
    counts, newick = random_study(seed, samples=2 + seed % 6, asvs=1 + 3 * seed)
    expected = in_memory(unifrac, counts, newick, metric)
    np.testing.assert_allclose(batch_distances(counts, newick, metric), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "newick",
    [
        "(t0:1,t1:2,t2:0.5);",
        "((t0:1,t1:2):0.5,t2:0.25):9;",
        "((((t0:1,t1:2):0.5):0.25,t2:3):0.7);",
        "(((t0:1):1):1,((t1:2,t2:0):0,x:1):4);",
        "((t0:0.1,t1:0.2,x:1):0.5,(y:3,z:1):2,t2:0.25);",
    ],
    ids=["trifurcating root", "length on the root", "stem above all", "unary chains, zero lengths", "extra tips"],
)
def test_special_trees_agree_with_unifrac(unifrac: ModuleType, newick: str, metric: UnifracMetric) -> None:
    counts = np.array([[1, 0, 3], [2, 2, 0], [1, 0, 3], [0, 0, 9], [0, 5, 1]])
    expected = in_memory(unifrac, counts, newick, metric)
    np.testing.assert_allclose(batch_distances(counts, newick, metric), expected, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def ecam(real_data: Path) -> tuple[FeatureTable, StudyTree]:
    table = feature_table(real_data / "ecam/table.biom")
    phylogeny = read_phylogeny(real_data / "ecam/tree.nwk")
    return table, StudyTree.cut(phylogeny, missing_tips(phylogeny, table))


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_the_whole_of_ecam_agrees_with_unifrac(
    unifrac: ModuleType, real_data: Path, ecam: tuple[FeatureTable, StudyTree], metric: UnifracMetric
) -> None:
    table, tree = ecam
    bp = import_module("bp")
    options = {"alpha": ALPHA} if metric == "generalized_unifrac" else {}
    expected = getattr(unifrac, f"{METHODS[metric]}_fp64")(
        biom.load_table(str(real_data / "ecam/table.biom")),
        bp.parse_newick((real_data / "ecam/tree.nwk").read_text()),
        **options,
    )
    rows = [expected.index(name) for name in table.sample_ids]
    result = distances(tree, table.counts, config(metric))
    np.testing.assert_allclose(result, expected.data[np.ix_(rows, rows)], rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_a_file_of_ssu_agrees(tmp_path: Path, real_data: Path, metric: UnifracMetric) -> None:
    needs("ssu")
    folder, out = real_data / "tiny_moving_pictures", tmp_path / "matrix.h5"
    command = ["ssu", "-i", folder / "table.biom", "-t", folder / "tree.nwk", "-m", METHODS[metric], "-a", str(ALPHA)]
    subprocess.run([*command, "-o", out, "--format", "hdf5"], check=True)
    matrix = read_distance_matrix(out, bounded=metric != "weighted_unifrac")
    table, phylogeny = feature_table(folder / "table.biom"), read_phylogeny(folder / "tree.nwk")
    tree = StudyTree.cut(phylogeny, missing_tips(phylogeny, table))
    rows = matrix.index(table.sample_ids)
    result = distances(tree, table.counts, config(metric))
    np.testing.assert_allclose(result, matrix.block(rows, rows), rtol=0, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_the_cut_tree_as_newick_is_the_same_tree(seed: int, asvs: int) -> None:
    _, newick = random_study(seed, 2, asvs)
    phylogeny = parse_newick(newick, root="as-is")
    tree = StudyTree.cut(phylogeny, np.array([phylogeny.tip_names.index(f"t{i}") for i in range(asvs)]))
    again = parse_newick(cut_newick(tree), root="as-is")
    assert [int(name) for name in again.tip_names] == tree.order.tolist()
    twice = StudyTree.cut(again, np.argsort([int(name) for name in again.tip_names]))
    for field in ("length", "start", "stop", "order", "rank"):
        np.testing.assert_array_equal(getattr(twice, field), getattr(tree, field))
    assert TreeNode.read(StringIO(cut_newick(tree))).count(tips=True) == asvs


@pytest.mark.parametrize("backend", ["unifrac", "ssu", "scikit-bio"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_program_gives_the_batch_distances(backend: Backend, metric: UnifracMetric) -> None:
    needs(backend)
    counts, newick = random_study(3)
    counts[4] = counts[5] = 0
    table, phylogeny = numbered_table(counts), parse_newick(newick.replace(":0.75);", ":0.75):2;"))
    for root in (False, True):
        tree = StudyTree.cut(phylogeny, missing_tips(phylogeny, table), root)
        if (backend, metric) == ("scikit-bio", "generalized_unifrac"):
            with pytest.raises(InputError, match="scikit-bio has no generalized UniFrac"):
                compute_matrix(table, tree, config(metric), backend)
            continue
        matrix = compute_matrix(table, tree, config(metric), backend)
        assert matrix.ids == table.sample_ids
        tolerance = 1e-6 if backend == "ssu" else 1e-9
        expected = distances(tree, table.counts, config(metric))
        np.testing.assert_allclose(matrix.values, expected, rtol=0, atol=tolerance)


def test_a_tree_cut_to_another_table_is_a_defect() -> None:
    phylogeny = parse_newick("(t0:1,t1:1);")
    tree = StudyTree.cut(phylogeny, np.array([0]))
    with pytest.raises(ValueError, match="2 ASVs, but the tree was cut to 1"):
        compute_matrix(numbered_table(np.array([[1, 2]])), tree, config("unweighted_unifrac"), "scikit-bio")


def no_package() -> ModuleType:
    raise ImportError("No module named 'unifrac'")


def test_programs_are_found_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(unifrac_backends, "_import_unifrac", lambda: ModuleType("unifrac"))
    assert available_backend() == "unifrac"
    assert available_backend("ssu") == "ssu"
    assert available_backend("scikit-bio") == "scikit-bio"
    monkeypatch.setattr(unifrac_backends, "_import_unifrac", no_package)
    assert available_backend() == "ssu"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert available_backend() == "scikit-bio"


def test_a_program_that_is_asked_for_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unifrac_backends, "_import_unifrac", no_package)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(InputError, match=r"--backend unifrac.*No module named.*conda install"):
        available_backend("unifrac")
    with pytest.raises(InputError, match=r"--backend ssu: there is no program ssu"):
        available_backend("ssu")


TREE = "((ACGTACGTACGTACGTACGTAA:1,ACGTACGTACGTACGTACGTCC:2):0.5,ACGTACGTACGTACGTACGTGG:1.5):3;"


def write_study(folder: Path, newick: str = TREE) -> UnifracCommandConfig:
    asvs = ["ACGTACGTACGTACGTACGTGG", "ACGTACGTACGTACGTACGTAA", "ACGTACGTACGTACGTACGTCC"]
    table = biom.Table(np.array([[1, 0, 4], [2, 2, 0], [0, 5, 0]]), asvs, ["b", "a", "c"])
    with h5py.File(folder / "table.biom", "w") as file:
        table.to_hdf5(file, "test")
    (folder / "tree.nwk").write_text(newick)
    return UnifracCommandConfig(
        inputs=PhylogenyConfig(table=(folder / "table.biom",), tree=folder / "tree.nwk"),
        matrix=MatrixOutputConfig(output=folder / "matrix.tsv", backend="scikit-bio"),
    )


def test_the_command_writes_the_matrix_and_says_by_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        write_unifrac(write_study(tmp_path))
    assert "unweighted_unifrac between 3 samples with scikit-bio" in caplog.text
    matrix = read_distance_matrix(tmp_path / "matrix.tsv", bounded=True)
    assert isinstance(matrix, DistanceMatrix)
    block = matrix.block(matrix.index(["b"]), matrix.index(["a", "c"]))
    np.testing.assert_allclose(block, [[(2 + 1.5) / 5, (1 + 0.5) / 3]], rtol=0, atol=1e-12)


def test_asvs_outside_the_tree_stop_the_command_before_it_computes(tmp_path: Path) -> None:
    config = write_study(tmp_path, TREE.replace("ACGTACGTACGTACGTACGTGG", "other"))
    with pytest.raises(InputError, match=r"no tip for 1 of 3 ASVs.*ACGTACGTACGTACGTACGTGG.*--drop-missing-tips"):
        write_unifrac(config)
    assert not (tmp_path / "matrix.tsv").exists()


def test_the_root_that_was_asked_for_is_used(tmp_path: Path) -> None:
    """Weighted normalized UniFrac depends on it."""
    newick = "(ACGTACGTACGTACGTACGTAA:1,ACGTACGTACGTACGTACGTCC:2,ACGTACGTACGTACGTACGTGG:1.5,other:4);"
    config = write_study(tmp_path, newick)
    values = {}
    for root in ("as-is", "midpoint"):
        changes = {"inputs": config.inputs.model_copy(update={"root": root})}
        changes["unifrac"] = UnifracConfig(unifrac_metric="weighted_normalized_unifrac")
        write_unifrac(config.model_copy(update=changes))
        matrix = read_distance_matrix(tmp_path / "matrix.tsv")
        values[root] = matrix.block(matrix.index(["b"]), matrix.index(["c"]))[0, 0]
        (tmp_path / "matrix.tsv").unlink()
    trees = {"as-is": TreeNode.read([newick]), "midpoint": TreeNode.read([newick]).root_at_midpoint()}
    table = feature_table(tmp_path / "table.biom")
    counts = table.counts.toarray()[[table.sample_ids.index("b"), table.sample_ids.index("c")]]
    for root, tree in trees.items():
        options = {"taxa": table.asv_ids, "tree": tree, "normalized": True, "validate": False}
        expected = beta_diversity("weighted_unifrac", counts, **options)
        np.testing.assert_allclose(values[root], expected[0, 1], atol=1e-12)
    assert abs(values["as-is"] - values["midpoint"]) > 0.01

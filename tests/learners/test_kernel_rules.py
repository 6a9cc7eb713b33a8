"""Kernels: positive semidefinite, equal to their definitions, and blind to what the basis does not hold."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from aam.config import UnifracConfig
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree, distances
from aam.learners import kernel_features
from aam.learners.kernel_features import Samples
from aam.learners.kernels import KERNELS, Basis, kernel_names


def random_tree(tips: int, random: np.random.Generator) -> StudyTree:
    clades = [f"t{i}" for i in range(tips)]
    while len(clades) > 1:
        chosen = [clades.pop(random.integers(len(clades))) for _ in range(min(len(clades), random.integers(2, 4)))]
        clades.append(f"({','.join(f'{name}:{random.exponential():.4f}' for name in chosen)})")
    phylogeny = parse_newick(clades[0] + ";", root="as-is")
    return StudyTree.cut(phylogeny, np.array([phylogeny.tip_names.index(f"t{i}") for i in range(tips)]))


def random_samples(seed: int, samples: int = 25, asvs: int = 30) -> Samples:
    random = np.random.default_rng(seed)
    counts = random.geometric(0.1, (samples, asvs)) * (random.random((samples, asvs)) < random.random(asvs) ** 2)
    counts[:, 0] += counts.sum(axis=1) == 0
    counts[-1] = counts[0]  # a copy
    return Samples(random_tree(asvs, random), sp.csr_array(counts))


def part(samples: Samples, rows: slice) -> Samples:
    return Samples(samples.tree, samples.counts[rows])


def one(basis: Basis, number: int) -> np.ndarray:
    """Weights that choose a kernel."""
    return np.eye(len(basis.names))[number]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dense", [0, 8, 1000])
def test_they_are_positive_semidefinite(monkeypatch, seed, dense):
    monkeypatch.setattr(kernel_features, "_DENSE", dense)
    samples = random_samples(seed)
    basis, stack = Basis.build(kernel_names(samples.tree), samples)
    for name, kernel in zip(basis.names, stack, strict=True):
        assert np.array_equal(kernel, kernel.T)
        assert np.linalg.eigvalsh(kernel).min() > -1e-7, name


@pytest.mark.parametrize("seed", range(5))
def test_unifrac_is_one_minus_the_distance(seed):
    samples = random_samples(seed)
    _, (kernel,) = Basis.build(["unifrac"], samples)
    expected = 1 - distances(samples.tree, samples.counts, UnifracConfig(unifrac_metric="unweighted_unifrac")).numpy()
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_radial_and_linear_kernels_by_their_definitions(seed):
    samples = random_samples(seed)
    basis, stack = Basis.build(kernel_names(samples.tree), samples)
    root = np.sqrt(samples.tree.length)
    asvs, branches = samples.asvs.toarray(), samples.branches.toarray()
    held = (samples.counts.toarray() > 0).any(axis=0)
    logs = np.log1p(asvs[:, held] / 1e-4)
    features = {
        "branch_root": np.sqrt(branches) * root,
        "branch_log": np.log1p(branches / 1e-4) * root,
        "log_ratio": logs - logs.mean(axis=1, keepdims=True),
        "log_ratio_linear": logs - logs.mean(axis=1, keepdims=True),
        "hellinger": np.sqrt(asvs),
    }
    upper = np.triu_indices(len(logs), 1)
    present = asvs > 0
    both = (present[:, None] & present).sum(axis=2) / (present[:, None] | present).sum(axis=2)
    np.testing.assert_allclose(stack[basis.names.index("jaccard")], both, rtol=0, atol=1e-12)
    for name, values in features.items():
        rule, kernel = KERNELS[name][1], stack[basis.names.index(name)]
        distance = cdist(values, values)
        centred = values - values.mean(axis=0)
        expected = {
            "gaussian": np.exp(-(distance**2) / np.median(distance[upper] ** 2)),
            "laplace": np.exp(-distance / np.median(distance[upper])),
            "linear": centred @ centred.T / (centred**2).sum(axis=1).mean(),
        }[rule]
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_samples_are_compared_as_those_of_the_basis_are(seed):
    samples = random_samples(seed)
    basis, stack = Basis.build(kernel_names(samples.tree), samples)
    for number, name in enumerate(basis.names):
        cross, own = basis.weighted(samples, one(basis, number))
        np.testing.assert_allclose(cross, stack[number], rtol=0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(own, np.diagonal(stack[number]), rtol=0, atol=1e-10, err_msg=name)


def test_new_branches_count_in_a_samples_own_total():
    samples = random_samples(0)
    both = distances(samples.tree, samples.counts, UnifracConfig(unifrac_metric="unweighted_unifrac")).numpy()
    basis, _ = Basis.build(["unifrac"], part(samples, slice(0, 4)))
    cross, _ = basis.weighted(part(samples, slice(4, None)), np.ones(1))
    np.testing.assert_allclose(cross, 1 - both[4:, :4], rtol=0, atol=1e-12)


def test_ratios_are_over_the_asvs_of_the_basis():
    samples = random_samples(0)
    counts = samples.counts.toarray()
    counts[:4, 20:] = 0
    held = (counts[:4] > 0).any(axis=0)
    basis, _ = Basis.build(["log_ratio", "log_ratio_linear"], Samples(None, sp.csr_array(counts[:4])))
    share = sp.csr_array(counts[4:] / counts[4:].sum(axis=1, keepdims=True))
    fewer = share.toarray()
    fewer[:, ~held] = 0
    sides = basis.sides["asv log"]
    known = Samples(None, sp.csr_array(counts[4:]))
    direct = np.log1p(fewer / 1e-4)
    values = sides.values(known)
    np.testing.assert_allclose(values.rows.toarray(), direct, atol=1e-12)
    centred = direct[:, held] - direct[:, held].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(values.own, (centred**2).sum(axis=1), atol=1e-8)


def test_samples_that_are_all_alike():
    samples = random_samples(0)
    alike = Samples(samples.tree, sp.csr_array(np.tile(samples.counts.toarray()[0], (5, 1))))
    basis, stack = Basis.build(kernel_names(samples.tree), alike)
    assert np.isfinite(stack).all()
    assert basis.widths[basis.names.index("branch_root")] == 1
    cross, own = basis.weighted(samples, np.ones(len(stack)))
    assert np.isfinite(cross).all()
    assert np.isfinite(own).all()

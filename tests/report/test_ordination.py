"""Principal coordinates, and how well two sets of distances agree."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from aam.config import SimulateConfig, UnifracConfig
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree, distances, missing_tips
from aam.data.simulation.study import simulate_study
from aam.data.study import Study
from aam.report import ordination
from aam.report.ordination import agreement, ordinate


@pytest.fixture
def points():
    return np.random.default_rng(5).normal(size=(40, 2))


def test_distances_in_a_plane_are_given_back(points):
    matrix = squareform(pdist(points))
    found = ordinate(matrix)
    assert found is not None
    assert squareform(pdist(found.points)) == pytest.approx(matrix, abs=1e-8)
    assert sum(found.explained) == pytest.approx(1)


def test_samples_that_do_not_differ_in_two_ways_have_no_ordination():
    assert ordinate(np.zeros((5, 5))) is None
    assert ordinate(squareform(pdist([[0.0], [1.0]]))) is None


def test_agreement_is_full_for_the_same_distances_and_none_for_others(points):
    true = squareform(pdist(points))
    turned = squareform(pdist(points @ np.array([[0.6, -0.8], [0.8, 0.6]])))
    same = agreement(true, turned, ordinate(true), ordinate(turned), seed=1)
    assert same.mantel == pytest.approx(1)
    assert same.procrustes == pytest.approx(1)
    assert same.mantel_p == same.procrustes_p == 0.001
    others = squareform(pdist(np.random.default_rng(6).normal(size=(40, 2))))
    other = agreement(true, others, ordinate(true), ordinate(others), seed=1)
    assert abs(other.mantel) < 0.3
    assert min(other.mantel_p, other.procrustes_p) > 0.01
    assert agreement(true, others, ordinate(true), ordinate(others), seed=1) == other


@pytest.mark.parametrize("metric", ["unweighted_unifrac", "weighted_normalized_unifrac"])
def test_distances_by_blocks_are_those_of_all_samples_at_once(monkeypatch, metric):
    study = simulate_study(SimulateConfig(directory=Path(), samples=30, asvs=40, bp=30, depth=200))
    phylogeny = parse_newick(study.newick)
    config = UnifracConfig(unifrac_metric=metric)
    tree = StudyTree.cut(phylogeny, missing_tips(phylogeny, study.table))
    joined = Study(study.table, tree=tree)
    monkeypatch.setattr(ordination, "BLOCK", 7)
    name, matrix = ordination.distances_between(joined, np.arange(30), config)
    assert matrix == pytest.approx(distances(tree, study.table.counts, config).numpy(), abs=1e-12)
    assert name.endswith("UniFrac")
    name, matrix = ordination.distances_between(Study(study.table), np.arange(30), config)
    parts = study.table.counts.toarray() / study.table.depth[:, None]
    assert matrix == pytest.approx(squareform(pdist(parts, "braycurtis")), abs=1e-12)
    assert name.startswith("Bray-Curtis")


def test_of_many_samples_those_that_must_be_there_are(monkeypatch):
    study = simulate_study(SimulateConfig(directory=Path(), samples=30, asvs=40, bp=30, depth=200))
    monkeypatch.setattr(ordination, "MOST_SAMPLES", 12)
    found = ordination.compare(Study(study.table), UnifracConfig(), np.array([3, 29, 7]))
    assert len(set(found.rows.tolist())) == 12
    assert {3, 7, 29} <= set(found.rows.tolist())
    assert found.told == "a seeded sample of 12 of 30 samples"

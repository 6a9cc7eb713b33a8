"""UniFrac and Faith's PD: scikit-bio's own tests with aam in the place of its functions, and values of QIIME 1.9.1."""

import unittest

import numpy as np
import pytest
from scipy import sparse

from aam.config import UnifracConfig
from aam.data.distances.matrix import read_distance_matrix
from aam.data.distances.phylogeny import LengthChoices, read_phylogeny
from aam.data.distances.unifrac import StudyTree, distances, faith_pd
from aam.data.files.table_files import read_table_file
from aam.estimators.inputs import as_phylogeny

OTHER_SUBJECT = {
    "test_invalid_input": "which exception scikit-bio raises for which wrong argument",
    "test_faith_pd_invalid_input": "which exception scikit-bio raises for which wrong argument",
    "test_faith_pd_none_observed": "begins with a table without ASVs, which aam refuses to read",
    "test_unweighted_unifrac_zero_counts": "ends with a table without ASVs, which aam refuses to read",
    "test_weighted_unifrac_zero_counts": "ends with a table without ASVs, which aam refuses to read",
    "test_weighted_unifrac_zero_counts_normalized": "ends with a table without ASVs, which aam refuses to read",
    "test_weighted_unifrac_branch_correction": "a function of scikit-bio that aam has no counterpart of",
}
"""Tests of values that are not run, and why; those of its engines (numba) and rarefaction are about other code."""


def _cut(tree, taxa) -> StudyTree:
    phylogeny = as_phylogeny(tree, LengthChoices(missing="zero"), "as-is")
    return StudyTree.cut(phylogeny, np.array([phylogeny.tip_names.index(name) for name in taxa]), False)


def _counts(*samples) -> sparse.csr_array:
    return sparse.csr_array(np.stack([np.asarray(sample, np.int64) for sample in samples]))


def _unifrac(metric):
    def between(u, v, taxa, tree, validate=True, normalized=False):
        config = UnifracConfig(unifrac_metric="weighted_normalized_unifrac" if normalized else metric)
        return float(distances(_cut(tree, taxa), _counts(u, v), config)[0, 1])

    return between


def _faith_pd(counts, taxa, tree, validate=True):
    return float(faith_pd(_cut(tree, taxa), _counts(counts))[0])


def _run(case: type[unittest.TestCase], names: list[str]) -> None:
    for name in names:
        result = unittest.TestResult()
        case(name).run(result)
        faults = [text for _, text in [*result.errors, *result.failures]]
        assert faults == [], name
        assert result.testsRun == 1
        assert result.skipped == []


def test_its_tests_of_unifrac(tests_of, monkeypatch):
    module = tests_of("skbio.diversity.beta.tests.test_unifrac")
    for metric in ("unweighted_unifrac", "weighted_unifrac"):
        monkeypatch.setattr(module, metric, _unifrac(metric))
    names = unittest.TestLoader().getTestCaseNames(module.UnifracTests)
    chosen = [name for name in names if name not in OTHER_SUBJECT and not {"engine", "fast"} & set(name.split("_"))]
    assert len(chosen) >= 22
    _run(module.UnifracTests, chosen)


def test_its_tests_of_faith_pd(tests_of, monkeypatch):
    module = tests_of("skbio.diversity.alpha.tests.test_pd")
    monkeypatch.setattr(module, "faith_pd", _faith_pd)
    names = unittest.TestLoader().getTestCaseNames(module.FaithPDTests)
    chosen = [name for name in names if name.startswith("test_faith_pd") and name not in OTHER_SUBJECT]
    assert len(chosen) >= 7
    _run(module.FaithPDTests, chosen)


def test_a_wrong_distance_fails_its_tests(tests_of, monkeypatch):
    """So aam does stand in their place."""
    module = tests_of("skbio.diversity.beta.tests.test_unifrac")
    monkeypatch.setattr(module, "unweighted_unifrac", lambda *_, **__: 0.5)
    with pytest.raises(AssertionError):
        _run(module.UnifracTests, ["test_unweighted_unifrac"])


@pytest.mark.parametrize("metric", ["unweighted_unifrac", "weighted_unifrac", "weighted_normalized_unifrac"])
def test_values_of_qiime(installed, tmp_path, metric):
    """Table, tree and matrices of QIIME 1.9.1's "tiny test", read by aam."""
    folder = installed("skbio", "diversity", "beta", "tests", "data", "qiime-191-tt")
    table = read_table_file(folder / "otu-table.tsv")
    phylogeny = read_phylogeny(folder / "tree.nwk", root="as-is")
    tree = StudyTree.cut(phylogeny, np.array([phylogeny.tip_names.index(name) for name in table.asv_ids]), False)
    counts = sparse.csr_array(sparse.vstack(list(table.blocks())).astype(np.int64))
    copy = tmp_path / "expected.tsv"  # the ending decides how a matrix is read
    copy.write_bytes((folder / f"{metric}_dm.txt").read_bytes())
    expected = read_distance_matrix(copy)
    rows = expected.index(table.sample_ids)
    found = distances(tree, counts, UnifracConfig(unifrac_metric=metric))
    np.testing.assert_allclose(found.numpy(), expected.block(rows, rows).numpy(), rtol=0, atol=1e-6)

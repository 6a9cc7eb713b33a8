"""How alike samples of one group are, and how far a column gives the target away."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist, squareform

from aam.data.files.tables import FeatureTable
from aam.data.leakage.group_evidence import (
    bray_curtis,
    draw_of_groups,
    explained,
    jaccard,
    likeness,
    rows_to_compare,
    target_differences,
)
from aam.data.study import Study


def random(seed=0):
    return np.random.default_rng(seed)


def test_distances_agree_with_scipy():
    counts = random().poisson(0.7, (12, 30))
    relative = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bray_curtis(csr_array(counts)), squareform(pdist(relative, "braycurtis")), atol=1e-12)
    np.testing.assert_allclose(jaccard(csr_array(counts)), squareform(pdist(counts > 0, "jaccard")), atol=1e-12)


def test_a_draw_takes_whole_small_groups_and_little_of_large_ones():
    codes = np.concatenate([np.repeat(np.arange(500), 2), np.full(5000, 500), np.arange(501, 1500)])
    rows = draw_of_groups(tuple(f"s{i}" for i in range(len(codes))), codes, seed=0, most=300)
    sizes = np.bincount(codes[rows])
    assert len(rows) == 300
    assert sizes.max() <= 4
    assert (sizes == 1).sum() <= 1


def test_fewer_samples_are_compared_where_they_hold_many_asvs(monkeypatch):
    counts = csr_array(np.ones((100, 50), dtype=np.int64))
    names = tuple(f"{asv:050b}".replace("0", "A").replace("1", "C") for asv in range(50))
    study = Study(FeatureTable(counts, tuple(f"s{i}" for i in range(100)), names, names))
    codes = np.arange(100) // 2
    assert len(rows_to_compare(study, codes, 0)) == 100
    monkeypatch.setattr("aam.data.leakage.group_evidence.CELLS", 80 * 50)
    assert len(rows_to_compare(study, codes, 0)) == 75


def test_likeness_is_of_groups_not_of_chance():
    codes = np.repeat(np.arange(20), 5)
    place = codes % 7 + random().normal(size=100)
    alike = likeness(target_differences(pd.Series(place)), codes, None, 0)
    assert alike.is_alike
    assert alike.within < alike.between
    shuffled = [
        likeness(target_differences(pd.Series(random(i).permutation(place))), codes, None, 0) for i in range(30)
    ]
    assert sum(found.is_alike for found in shuffled) <= 1


def test_batches_of_subjects_are_not_alike_because_their_subjects_are():
    """Twelve subjects, each all in one of two batches: only subjects are shuffled, and only different ones compared."""
    told = {False: 0, True: 0}
    for seed in range(40):
        subject = np.repeat(np.arange(12), 8)
        batch = random(seed).permutation(np.arange(12) % 2)[subject]
        differences = target_differences(pd.Series(random(seed + 99).normal(size=12)[subject]))
        for careful in told:
            told[careful] += likeness(differences, batch, subject if careful else None, 0).is_alike
    assert told[True] <= 2
    assert told[False] > 20


def test_nothing_to_compare():
    differences = target_differences(pd.Series([1.0, 2.0, np.nan]))
    assert likeness(differences, np.array([0, 1, -1]), None, 0) is None
    assert likeness(differences, np.array([0, 0, 0]), None, 0) is None


def test_missing_classes_are_unknown():
    different = target_differences(pd.Series(["a", None, "b", "a"], dtype=object))
    assert np.isnan(different[1]).all()
    assert different[0, [2, 3]].tolist() == [1, 0]


@pytest.mark.parametrize("per_group", [2, 3, 10])
def test_random_columns_explain_nothing_however_many_values(per_group):
    codes = np.repeat(np.arange(600 // per_group), per_group)
    values = random(per_group).normal(size=600)
    classes = random(per_group).choice(["a", "b", "c"], 600)
    assert explained(pd.Series(values), codes) < 0.1
    assert explained(pd.Series(classes, dtype=object), codes) < 0.1


def test_a_column_that_determines_explains_all():
    codes = np.repeat(np.arange(60), 10)
    assert explained(pd.Series(codes**2.0), codes) == pytest.approx(1)
    assert explained(pd.Series([f"c{code % 7}" for code in codes], dtype=object), codes) == 1
    assert explained(pd.Series(random().normal(size=600)), np.arange(600)) == pytest.approx(0)
    assert explained(pd.Series(np.ones(600)), codes) is None

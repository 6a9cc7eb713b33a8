"""Samples that are unlike those of the training, and why."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from aam.data.distances.unifrac import distances
from aam.data.files.tables import FeatureTable
from aam.data.study import select_samples
from aam.learners.likeness import METRIC, Likeness, hashes, nearest, usual

GROUPS = np.array([f"subject{number % 8}" for number in range(40)])


@pytest.fixture
def likeness(study) -> Likeness:
    return Likeness.of(study, np.arange(40), GROUPS, seed=1)


def of(study, counts, sequences=None):
    """The study with other reads."""
    table = study.table
    ids = tuple(f"new{number}" for number in range(len(counts)))
    sequences = table.sequences if sequences is None else sequences
    table = FeatureTable(sparse.csr_array(np.asarray(counts)), ids, sequences, sequences)
    return replace(study, table=table, metadata=None)


def test_distances_are_to_the_nearest_of_another_group(study):
    counts, code = study.table.counts, np.unique(GROUPS, return_inverse=True)[1]
    whole = distances(study.tree, counts, METRIC).numpy()
    expected = [whole[row, GROUPS[row] != GROUPS].min() for row in range(40)]
    np.testing.assert_allclose(nearest(study.tree, counts, counts, code), expected, atol=1e-12)
    np.testing.assert_allclose(nearest(study.tree, counts, counts), np.zeros(40), atol=1e-12)


def test_what_is_usual_gives_groups_the_same_weight():
    values, group = np.r_[np.full(900, 9.0), np.arange(99)], np.r_[np.zeros(900, int), np.arange(1, 100)]
    assert usual(values, group) == 96  # of 100 groups the one of 900 samples is below
    assert usual(np.array([3.0]), np.zeros(1, int)) == 3


def test_training_samples_are_like_themselves(study, likeness):
    columns = likeness.unlike(study.table, study)
    assert set(columns["unlike"]) == {"no"}
    assert set(columns["why"]) == {""}
    assert list(columns["unlike"].index) == list(study.table.sample_ids)


def test_each_reason_is_told(study, likeness, caplog):
    """Few reads; an unknown sequence; one of another length; reads of a branch that no sample is near to."""
    typical = study.table.counts[[0]].toarray()[0].astype(np.int64)
    shallow = np.minimum(typical, 1)
    assert shallow.sum() * 2 < study.table.depth.min()
    new = "T" * len(study.table.sequences[0])
    longer = "T" * 40
    sequences = (*study.table.sequences, new, longer)
    counts = [np.r_[shallow, 0, 0], np.r_[typical, typical.sum(), 0], np.r_[typical, 0, typical.sum()]]
    table = of(study, counts, sequences).table
    why = likeness.unlike(table)["why"]
    assert "reads (training samples have" in why.iloc[0]
    assert why.iloc[1].startswith("50% of the reads of ASVs that no training sample holds")
    assert "lengths" not in why.iloc[1]
    assert why.iloc[2].endswith("50% of the reads of other lengths than 30 nucleotides")
    assert "3 of 3 samples are unlike those of the training" in caplog.text
    rare = np.zeros(study.table.n_asvs, np.int64)
    rare[int(np.argmin(study.table.asv_reads))] = 300
    strange = of(study, [rare])
    assert likeness.limits.distance < 1
    assert "to the nearest training sample" in likeness.unlike(strange.table, strange)["why"].iloc[0]


def test_asvs_of_one_group_are_new_to_the_others(study):
    """A subject with an ASV of its own shows how much is usual."""
    counts = study.table.counts.toarray()
    own = np.zeros(40, np.int64)
    own[GROUPS == "subject3"] = counts[GROUPS == "subject3"].sum(axis=1)
    sequences = (*study.table.sequences, "T" * 30)
    table = FeatureTable(sparse.csr_array(np.c_[counts, own]), study.table.sample_ids, sequences, sequences)
    limits = Likeness.of(replace(study, table=table, tree=None), np.arange(40), GROUPS, 1).limits
    assert limits.unseen == pytest.approx(0.5)


def test_nothing_is_learned_from_other_samples(study):
    some = np.arange(0, 40, 2)
    part = Likeness.of(study, some, GROUPS, seed=1)
    alone = Likeness.of(select_samples(study, some, "other"), np.arange(20), GROUPS[some], seed=1)
    assert part.limits.unseen == alone.limits.unseen
    assert part.limits.depth == alone.limits.depth
    assert part.limits.distance == pytest.approx(alone.limits.distance, abs=1e-12)
    np.testing.assert_array_equal(part.seen, alone.seen)
    np.testing.assert_array_equal(part.landmarks.toarray(), alone.landmarks.toarray())


@pytest.mark.parametrize("with_tree", [True, False])
def test_what_is_restored_says_the_same(study, with_tree):
    study = study if with_tree else replace(study, tree=None)
    likeness = Likeness.of(study, np.arange(30), GROUPS, seed=1)
    again = Likeness.restore(likeness.limits.model_dump(mode="json"), likeness.arrays(), study.table.n_asvs)
    for name, column in likeness.unlike(study.table, study).items():
        assert column.equals(again.unlike(study.table, study)[name])
    network = Likeness.of(study, np.arange(30), GROUPS, seed=1, landmarks=False)
    assert "landmarks" not in network.to_json()
    read = Likeness.from_json(network.to_json())
    assert read.unlike(study.table)["why"].equals(network.unlike(study.table)["why"])


def test_sequences_are_known_again_by_their_letters_alone(study):
    sequences = study.table.sequences
    np.testing.assert_array_equal(hashes(sequences[::-1]), hashes(sequences)[::-1])
    assert len(set(hashes(sequences).tolist())) == len(set(sequences))

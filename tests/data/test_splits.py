"""Splits of samples into train and val."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import SplitConfig
from aam.data.splits import Split, read_split, split_samples, write_split
from aam.errors import InputError

IDS = [f"S{number:02d}" for number in range(60)]
CLASSES = ["rare" if (number // 5) % 4 == 0 else "common" for number in range(60)]
METADATA = pd.DataFrame(
    {
        "subject": [f"P{number // 5}" for number in range(60)],
        "plot": [float(number // 10) for number in range(60)],
        "split": ["Train", " VAL", "test", None, "validation", "train"] * 10,
    },
    index=IDS,
)
WAYS = [
    {},
    {"stratify": True},
    {"group_column": "subject"},
    {"group_column": "plot"},
    {"group_column": "subject", "stratify": True},
    {"split_column": "split"},
]


def sides(split, ids):
    return {ids[row] for row in split.train}, {ids[row] for row in split.val}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25)
@given(order=st.permutations(range(60)), seed=st.integers(0, 2**63 - 1))
def test_the_order_of_samples_does_not_matter(way, order, seed):
    config = SplitConfig(**way)
    ids, classes = [IDS[row] for row in order], [CLASSES[row] for row in order]
    shuffled = split_samples(ids, METADATA.sample(frac=1, random_state=seed % 1000), config, seed, classes)
    assert sides(shuffled, ids) == sides(split_samples(IDS, METADATA, config, seed, CLASSES), IDS)


@pytest.mark.parametrize("way", WAYS)
def test_sides_are_sorted_and_disjoint(way):
    split = split_samples(IDS, METADATA, SplitConfig(**way), 1, CLASSES)
    for rows in (split.train, split.val):
        assert rows.dtype == np.int64
        assert np.all(np.diff(rows) > 0)
    assert not set(split.train) & set(split.val)


@pytest.mark.parametrize("way", WAYS[:-1])
def test_drawn_sides_hold_every_sample_and_follow_the_seed(way):
    drawn = [split_samples(IDS, METADATA, SplitConfig(**way), seed, CLASSES) for seed in range(6)]
    assert all(split.train.size + split.val.size == len(IDS) for split in drawn)
    assert len({tuple(split.val) for split in drawn}) > 1


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 12), (0.5, 30), (0.07, 4), (0.001, 1)])
def test_test_size_is_a_share_of_the_samples(share, held_out):
    for stratify in (False, True) if held_out > 1 else (False,):
        config = SplitConfig(test_size=share, stratify=stratify)
        assert split_samples(IDS, None, config, 3, CLASSES).val.size == held_out


@pytest.mark.parametrize("stratify", [False, True])
def test_no_group_is_on_both_sides(stratify):
    config = SplitConfig(group_column="subject", stratify=stratify, test_size=0.25)
    for seed in range(5):
        split = split_samples(IDS, METADATA, config, seed, CLASSES)
        subjects = METADATA["subject"].to_numpy()
        assert not set(subjects[split.train]) & set(subjects[split.val])
        assert len(set(subjects[split.val])) == 3


@pytest.mark.parametrize("group_column", [None, "subject"])
def test_stratify_holds_out_the_same_share_of_every_class(group_column):
    classes = np.array(CLASSES)
    for seed in range(5):
        config = SplitConfig(stratify=True, group_column=group_column, test_size=1 / 3)
        split = split_samples(IDS, METADATA, config, seed, CLASSES)
        shares = [np.isin(np.flatnonzero(classes == name), split.val).mean() for name in ("rare", "common")]
        np.testing.assert_allclose(shares, 1 / 3, atol=0.01)


def test_groups_with_a_rare_class_still_put_it_on_both_sides():
    # Two groups of twelve hold the class: by shares alone, holding out neither is nearer to a sixth than one (a half).
    classes = ["rare" if number // 5 in (0, 5) else "common" for number in range(60)]
    config = SplitConfig(stratify=True, group_column="subject", test_size=1 / 6)
    split = split_samples(IDS, METADATA, config, 0, classes)
    assert {classes[row] for row in split.val} == {classes[row] for row in split.train} == {"rare", "common"}


def test_split_column_decides_and_the_rest_is_counted(caplog):
    with caplog.at_level(logging.INFO, logger="aam"):
        split = split_samples(IDS, METADATA, SplitConfig(split_column="split"), 0)
    np.testing.assert_array_equal(split.train % 6 % 5, np.zeros(20))
    np.testing.assert_array_equal(np.unique(split.val % 6), [1, 4])
    assert "20 samples are in neither train nor val by column 'split'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"split": "dev"}, {"split_column": "split"}, "train, val or test; it says dev for samples S00, S01"),
        ({"split": "train"}, {"split_column": "split"}, "gives no sample to 'val'"),
        ({"split": "test"}, {"split_column": "split"}, "gives no sample to 'train'"),
        ({"subject": "P1"}, {"group_column": "subject"}, "has one group, 'P1'"),
        ({"subject": ["P", None] * 30}, {"group_column": "subject"}, "empty for samples S01, S03.*30 in all"),
        ({}, {"group_column": "subject", "test_size": 0.99}, "of 12 groups leaves none to train on"),
        ({}, {"test_size": 0.999}, "of 60 samples leaves none to train on"),
        ({}, {"group_column": "person"}, "person"),
    ],
)
def test_unusable_columns_and_sizes_are_refused(changes, config, message):
    with pytest.raises(InputError, match=message):
        split_samples(IDS, METADATA.assign(**changes), SplitConfig(**config), 0, CLASSES)


@pytest.mark.parametrize(
    ("classes", "config", "message"),
    [
        (["once", *CLASSES[1:]], {}, "two samples; too small: once"),
        (["once"] * 5 + ["common"] * 55, {"group_column": "subject"}, "two groups; too small: once"),
        (CLASSES, {"test_size": 0.02}, "1 of 60 samples held out, but each side needs one of each of the 2 classes"),
        (None, {}, "needs a classifier"),
    ],
)
def test_classes_that_cannot_be_divided_are_refused(classes, config, message):
    with pytest.raises(InputError, match=message):
        split_samples(IDS, METADATA, SplitConfig(stratify=True, **config), 0, classes)


@pytest.mark.parametrize("config", [{"split_column": "split"}, {"group_column": "subject"}])
def test_samples_without_metadata_are_named(config):
    with pytest.raises(InputError, match="the metadata lack samples S00, S01"):
        split_samples(IDS, METADATA.iloc[2:], SplitConfig(**config), 0)
    with pytest.raises(InputError, match="give --metadata too"):
        split_samples(IDS, None, SplitConfig(**config), 0)


def test_a_written_split_is_read_by_id(tmp_path):
    ids = ['a "quoted" id', "007", "1.10", "tab\tid", "left out"]
    path = tmp_path / "split.tsv"
    write_split(path, Split(np.array([0, 3]), np.array([1, 2])), ids)
    assert path.read_text().splitlines()[0] == "sample_id\tsplit"
    again = read_split(path, ids[::-1])
    assert sides(again, ids[::-1]) == ({ids[0], ids[3]}, {"007", "1.10"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line is not 'sample_id split'"),
        ("id\tsplit\nS00\ttrain\n", "first line"),
        ("sample_id\tsplit\nS00\ttrain\nS01\n", "in line 3"),
        ("sample_id\tsplit\nS00\ttrain\nS01\tdev\n", "in line 3"),
        ("sample_id\tsplit\nS00\ttrain\nS00\tval\n", "1 lines repeat"),
        ("sample_id\tsplit\nS00\ttrain\nX\tval\n", "not in the study: X"),
        ("sample_id\tsplit\nS00\ttrain\n", "no sample to 'val'"),
    ],
)
def test_a_broken_split_file_is_refused(tmp_path, text, message):
    path = tmp_path / "split.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_split(path, IDS)
    assert str(path) in str(error.value)


def test_an_absent_split_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_split(tmp_path / "split.tsv", IDS)

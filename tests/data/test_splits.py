"""Splits of samples into train and val."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import SplitConfig, TargetSplitConfig
from aam.data.sampling.splits import Split, split_samples, write_split
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
    ({}, None),
    ({}, CLASSES),
    ({"group_column": "subject"}, None),
    ({"group_column": "plot"}, None),
    ({"group_column": "subject"}, CLASSES),
    ({"split_column": "split"}, None),
]
"""Options, and classes where they are to be divided evenly."""


def sides(split, ids):
    return {ids[row] for row in split.train}, {ids[row] for row in split.val}


@pytest.mark.parametrize(("way", "strata"), WAYS)
@settings(max_examples=25)
@given(order=st.permutations(range(60)), seed=st.integers(0, 2**63 - 1))
def test_the_order_of_samples_does_not_matter(way, strata, order, seed):
    config = SplitConfig(**way)
    ids = [IDS[row] for row in order]
    classes = None if strata is None else [strata[row] for row in order]
    shuffled = split_samples(ids, METADATA.sample(frac=1, random_state=seed % 1000), config, seed, classes)
    assert sides(shuffled, ids) == sides(split_samples(IDS, METADATA, config, seed, strata), IDS)


@pytest.mark.parametrize("way", [{}, {"group_column": "subject"}])
@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_smaller_share_is_held_out_of_the_same_samples(way, share):
    few, many = (
        split_samples(IDS, METADATA, SplitConfig(val_fraction=size, **way), 1) for size in (share, share + 0.2)
    )
    assert set(few.val) < set(many.val)


@pytest.mark.parametrize(("way", "strata"), WAYS[:4])
def test_most_samples_keep_their_side_in_a_part_of_the_study(way, strata):
    """Fine-tuning on a part of what was pretrained on: the order of samples stays, only the border can move."""
    for seed in range(10):
        kept = np.flatnonzero(np.random.default_rng(seed).random(12) < 0.7)  # subjects
        rows = [row for row in range(60) if row // 5 in kept]
        ids, classes = [IDS[row] for row in rows], None if strata is None else [strata[row] for row in rows]
        _, whole = sides(split_samples(IDS, METADATA, SplitConfig(**way), seed, strata), IDS)
        _, part = sides(split_samples(ids, METADATA, SplitConfig(**way), seed, classes), ids)
        for strat in {None} if strata is None else set(strata):
            of_class = {name for name, kind in zip(IDS, CLASSES, strict=True) if strat in (None, kind)} & set(ids)
            assert part & of_class <= whole or whole & of_class <= part, "the sides cross"


@pytest.mark.parametrize(("way", "strata"), WAYS)
def test_sides_are_sorted_and_disjoint(way, strata):
    split = split_samples(IDS, METADATA, SplitConfig(**way), 1, strata)
    for rows in (split.train, split.val, split.test):
        assert rows.dtype == np.int64
        assert np.all(np.diff(rows) > 0)
    both = np.concatenate([split.train, split.val, split.test])
    assert len(set(both.tolist())) == len(both)


@pytest.mark.parametrize(("way", "strata"), WAYS[:-1])
def test_drawn_sides_hold_every_sample_and_follow_the_seed(way, strata):
    drawn = [split_samples(IDS, METADATA, SplitConfig(**way), seed, strata) for seed in range(6)]
    assert all(split.train.size + split.val.size == len(IDS) for split in drawn)
    assert len({tuple(split.val) for split in drawn}) > 1


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 12), (0.5, 30), (0.07, 4), (0.001, 1)])
def test_val_fraction_is_a_share_of_the_samples(share, held_out):
    config = SplitConfig(val_fraction=share)
    assert split_samples(IDS, None, config, 3).val.size == held_out
    assert split_samples(IDS, None, config, 3, CLASSES).val.size == max(2, held_out)  # one of each class at least


@pytest.mark.parametrize("strata", [None, CLASSES])
def test_no_group_is_on_both_sides(strata):
    config = SplitConfig(group_column="subject", val_fraction=0.25)
    for seed in range(5):
        split = split_samples(IDS, METADATA, config, seed, strata)
        subjects = METADATA["subject"].to_numpy()
        assert not set(subjects[split.train]) & set(subjects[split.val])
        assert len(set(subjects[split.val])) == 3


@pytest.mark.parametrize("group_column", [None, "subject"])
def test_stratify_holds_out_the_same_share_of_every_class(group_column):
    classes = np.array(CLASSES)
    for seed in range(5):
        config = SplitConfig(group_column=group_column, val_fraction=1 / 3)
        split = split_samples(IDS, METADATA, config, seed, CLASSES)
        shares = [np.isin(np.flatnonzero(classes == name), split.val).mean() for name in ("rare", "common")]
        np.testing.assert_allclose(shares, 1 / 3, atol=0.01)


def test_groups_with_a_rare_class_still_put_it_on_both_sides():
    # Two groups of twelve hold the class: by shares alone, holding out neither is nearer to a sixth than one (a half).
    classes = ["rare" if number // 5 in (0, 5) else "common" for number in range(60)]
    config = SplitConfig(group_column="subject", val_fraction=1 / 6)
    split = split_samples(IDS, METADATA, config, 0, classes)
    assert {classes[row] for row in split.val} == {classes[row] for row in split.train} == {"rare", "common"}


def test_split_column_decides_and_the_rest_is_counted(caplog):
    with caplog.at_level(logging.INFO, logger="aam"):
        split = split_samples(IDS, METADATA, SplitConfig(split_column="split"), 0)
    np.testing.assert_array_equal(split.train % 6 % 5, np.zeros(20))
    np.testing.assert_array_equal(np.unique(split.val % 6), [1, 4])
    np.testing.assert_array_equal(split.test, np.arange(60)[2::6])
    assert "10 samples are on no side by column 'split'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"split": "dev"}, {"split_column": "split"}, "train, val or test; it says dev for samples S00, S01"),
        ({"split": "train"}, {"split_column": "split"}, "gives no sample to 'val'"),
        ({"split": "test"}, {"split_column": "split"}, "gives no sample to 'train'"),
        ({"subject": "P1"}, {"group_column": "subject"}, "has one group, 'P1'"),
        ({"subject": ["P", None] * 30}, {"group_column": "subject"}, "empty for samples S01, S03.*30 in all"),
        ({}, {"group_column": "subject", "val_fraction": 0.99}, "of 12 groups leaves none to train on"),
        ({}, {"val_fraction": 0.999}, "of 60 samples leaves none to train on"),
        ({}, {"group_column": "person"}, "person"),
    ],
)
def test_unusable_columns_and_sizes_are_refused(changes, config, message):
    with pytest.raises(InputError, match=message):
        split_samples(IDS, METADATA.assign(**changes), SplitConfig(**config), 0)


@pytest.mark.parametrize(
    ("classes", "config", "message"),
    [
        (["once", *CLASSES[1:]], {}, r"two samples; too small: once \(samples S00\): .* --where"),
        (
            ["once"] * 5 + ["common"] * 55,
            {"group_column": "subject"},
            r"two groups; too small: once \(samples S00, S01, .*\): .* --where",
        ),
    ],
)
def test_classes_that_cannot_be_divided_are_refused(classes, config, message):
    with pytest.raises(InputError, match=message):
        split_samples(IDS, METADATA, TargetSplitConfig(stratify=True, **config), 0, classes)


def test_three_sides_need_three_samples_of_a_class():
    config = TargetSplitConfig(stratify=True, test_fraction=0.2)
    with pytest.raises(InputError, match=r"three samples; too small: few \(samples S00, S01\)"):
        split_samples(IDS, None, config, 0, ["few"] * 2 + CLASSES[2:])


def test_classes_too_small_to_divide_train_unless_stratify_was_asked_for():
    classes = ["once", "few", "few", *CLASSES[3:]]
    for seed in range(5):
        split = split_samples(IDS, None, TargetSplitConfig(test_fraction=0.2), seed, classes)
        assert {classes[row] for row in split.train} == set(classes)


@pytest.mark.parametrize("strata", [None, CLASSES])
@pytest.mark.parametrize("group_column", [None, "subject"])
def test_the_test_side_is_drawn_first_and_apart(strata, group_column):
    way = {"group_column": group_column}
    for seed in range(5):
        drawn = split_samples(IDS, METADATA, TargetSplitConfig(test_fraction=0.25, **way), seed, strata)
        other = split_samples(
            IDS, METADATA, TargetSplitConfig(test_fraction=0.25, val_fraction=0.5, **way), seed, strata
        )
        np.testing.assert_array_equal(drawn.test, other.test)  # whatever validates
        assert 12 <= drawn.test.size <= 18
        assert sorted([*drawn.train, *drawn.val, *drawn.test]) == list(range(60))
        if group_column is not None:
            of = METADATA["subject"].to_numpy()
            assert not set(of[drawn.test]) & set(of[np.concatenate([drawn.train, drawn.val])])
        # another draw than that of validation: else a test would hold what an earlier run chose its checkpoint by
        alone = split_samples(IDS, METADATA, TargetSplitConfig(val_fraction=0.25, **way), seed, strata)
        assert set(alone.val) != set(drawn.test)


@pytest.mark.parametrize("config", [{"split_column": "split"}, {"group_column": "subject"}])
def test_samples_without_metadata_are_named(config):
    with pytest.raises(InputError, match="the metadata lack samples S00, S01"):
        split_samples(IDS, METADATA.iloc[2:], SplitConfig(**config), 0)
    with pytest.raises(InputError, match="give --metadata too"):
        split_samples(IDS, None, SplitConfig(**config), 0)


def test_a_written_split_is_read_by_id(tmp_path):
    ids = ['a "quoted" id', "007", "1.10", "tab\tid", "left out", "for a test"]
    path = tmp_path / "split.tsv"
    write_split(path, Split(np.array([0, 3]), np.array([1, 2]), np.array([5])), ids)
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("sample_id\tsplit", "for a test\ttest")
    again = pd.read_csv(path, sep="\t", dtype=str, index_col="sample_id")["split"]
    assert again.to_dict() == {ids[0]: "train", ids[3]: "train", "007": "val", "1.10": "val", "for a test": "test"}

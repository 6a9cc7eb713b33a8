"""Which samples are held out together."""

import numpy as np
import pandas as pd
import pytest

from aam.config.evaluate import FoldsConfig
from aam.errors import InputError
from aam.evaluation.schemes import Samples, fold_table, plan_folds


def samples(groups: int = 10, each: int = 3, classes: int | None = None) -> tuple[Samples, pd.DataFrame]:
    size = groups * each
    ids = [f"s{number:03d}" for number in range(size)]
    kinds = None if classes is None else np.array([f"c{number % classes}" for number in range(size)])
    of_sample = np.repeat([f"g{number}" for number in range(groups)], each)
    metadata = pd.DataFrame({"subject": of_sample, "part": [str(n % 4) for n in range(size)]}, index=ids)
    return Samples(ids, kinds, of_sample), metadata


def shuffled(one: Samples, metadata: pd.DataFrame) -> tuple[Samples, pd.DataFrame]:
    order = np.random.default_rng(3).permutation(len(one.ids))
    classes = None if one.classes is None else one.classes[order]
    groups = None if one.groups is None else one.groups[order]
    return Samples([one.ids[place] for place in order], classes, groups), metadata.iloc[order]


SCHEMES = ["group", "stratified-group", "kfold", "stratified", "leave-one-group-out"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_sample_is_held_out_once_in_a_repeat_and_never_trains_then(scheme):
    some, metadata = samples(classes=2)
    repeats = {} if scheme == "leave-one-group-out" else {"repeats": 2}
    config = FoldsConfig(group_column="subject", cv=scheme, **repeats)
    folds = plan_folds(some, metadata, config, seed=1)
    for repeat in range(1, config.rounds + 1):
        held_out = np.concatenate([fold.held_out for fold in folds if fold.repeat == repeat])
        assert sorted(held_out) == list(range(30))
    for fold in folds:
        assert set(fold.train) | set(fold.held_out) == set(range(30))
        assert not set(fold.train) & set(fold.held_out)
        if "group" in scheme:
            assert not set(some.groups[fold.train]) & set(some.groups[fold.held_out])
    assert len({tuple(fold.held_out) for fold in folds}) == len(folds)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_folds_do_not_depend_on_the_order_of_rows(scheme):
    some, metadata = samples(classes=2)
    repeats = {} if scheme == "leave-one-group-out" else {"repeats": 2}
    config = FoldsConfig(group_column="subject", cv=scheme, **repeats)
    other, moved = shuffled(some, metadata)
    tables = [fold_table(plan_folds(*each, config, 5), each[0]) for each in ((some, metadata), (other, moved))]
    pd.testing.assert_frame_equal(*tables)


def test_another_seed_and_another_repeat_draw_other_folds():
    some, metadata = samples()
    config = FoldsConfig(group_column="subject", repeats=2)
    first, second = (plan_folds(some, metadata, config, seed) for seed in (1, 100))
    assert any(set(a.held_out) != set(b.held_out) for a, b in zip(first, second, strict=True))
    assert any(set(a.held_out) != set(b.held_out) for a, b in zip(first[:5], first[5:], strict=True))


def test_a_column_gives_the_folds_in_the_order_of_its_numbers():
    some, metadata = samples()
    metadata["part"] = [str(group).replace("g", "1") for group in metadata["subject"]]
    folds = plan_folds(some, metadata, FoldsConfig(group_column="subject", fold_column="part"), 0)
    assert [sorted(set(metadata["part"].iloc[fold.held_out])) for fold in folds] == [[f"1{n}"] for n in range(10)]


def test_a_column_gives_the_test_and_samples_without_a_side_are_not_used():
    some, metadata = samples()
    metadata["side"] = ["Test"] * 6 + [None] * 3 + ["train"] * 21
    (fold,) = plan_folds(some, metadata, FoldsConfig(group_column="subject", test_column="side"), 0)
    assert fold.held_out.tolist() == list(range(6))
    assert fold.train.tolist() == list(range(9, 30))


def test_a_group_of_one_sample_is_fine():
    some, metadata = samples(each=1)
    folds = plan_folds(some, metadata, FoldsConfig(group_column="subject", repeats=1), 0)
    assert sum(len(fold.held_out) for fold in folds) == 10


@pytest.mark.parametrize(
    ("groups", "classes", "options", "message"),
    [
        (3, None, {}, "--folds 5: there are 3 groups to divide; give --folds 3 or fewer"),
        (10, None, {"cv": "kfold", "folds": 31}, "there are 30 samples"),
        (10, None, {"fold_column": "part"}, "puts groups on several sides: g0, g1"),
        (10, None, {"fold_column": "absent"}, "no column 'absent'"),
        (10, None, {"test_column": "part"}, "should say train or test"),
    ],
)
def test_what_cannot_be_divided_is_refused(groups, classes, options, message):
    some, metadata = samples(groups, classes=classes)
    with pytest.raises(InputError, match=message):
        plan_folds(some, metadata, FoldsConfig(group_column="subject", **options), 0)


def test_a_class_in_too_few_groups_is_refused():
    some, metadata = samples(classes=2)
    kinds = np.where(np.arange(30) < 6, "rare", "common")
    few = Samples(some.ids, kinds, some.groups)
    with pytest.raises(InputError, match=r"in fewer: rare \(2\); give --folds 2, or leave them out with --where"):
        plan_folds(few, metadata, FoldsConfig(group_column="subject"), 0)
    alone = Samples(some.ids, np.where(np.arange(30) < 3, "rare", "common"), some.groups)
    with pytest.raises(InputError, match=r"fold 1\.1 holds out all samples of class rare"):
        plan_folds(alone, metadata, FoldsConfig(group_column="subject", cv="leave-one-group-out"), 0)

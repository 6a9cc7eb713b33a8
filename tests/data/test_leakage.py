"""The guard on made studies: what is found, what is not, and that nothing depends on order or names."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import PhylogenyConfig, SamplingConfig, SimulateConfig, TableConfig, UnifracConfig
from aam.data.leakage.guard import find_leakage
from aam.data.simulation.study import simulate_study, write_study
from aam.data.study import Study, load_study
from aam.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    config = SimulateConfig(directory=folder, samples=120, asvs=120, depth=600, subjects=20)
    write_study(simulate_study(config), folder)
    return folder


@pytest.fixture(scope="module")
def study(folder):
    """Without a tree."""
    inputs = TableConfig(table=(folder / "table.biom",), metadata=folder / "metadata.tsv")
    return load_study(inputs, SamplingConfig())


@pytest.fixture(scope="module")
def acidity(study):
    return study.metadata[["acidity"]]


def told(findings):
    return {(finding.kind, finding.column, finding.role, finding.refuses) for finding in findings}


def refused(findings):
    return {finding.column for finding in findings if finding.refuses}


def with_columns(study: Study, **columns) -> Study:
    return replace(study, metadata=study.metadata.assign(**columns))


def without(study: Study, *columns: str) -> Study:
    return replace(study, metadata=study.metadata.drop(columns=list(columns)))


def test_the_subject_of_a_simulated_study(folder, study, acidity):
    inputs = PhylogenyConfig(table=(folder / "table.biom",), metadata=folder / "metadata.tsv", tree=folder / "tree.nwk")
    with_tree = load_study(inputs, SamplingConfig(), UnifracConfig())
    for one, distance in ((study, "Bray-Curtis"), (with_tree, "UniFrac")):
        first, *rest = find_leakage(one, acidity)
        assert told([first]) == {("group", "subject", "subject", True)}
        assert first.text.startswith("subject looks like a column of subjects (20 in 120 samples, up to 6 each)")
        assert f"more alike (mean {distance} distance" in first.text
        assert first.text.endswith("split by --group-column subject.")
        assert not refused(rest)


def test_classes_and_several_targets(study):
    findings = find_leakage(study, study.metadata[["acidity", "health"]])
    assert refused(findings) == {"subject"}
    assert "agree in health" in find_leakage(study, study.metadata[["health"]])[0].text


def test_without_targets_and_without_metadata(study):
    (finding, *_) = find_leakage(study, pd.DataFrame(index=study.metadata.index))
    assert refused([finding]) == {"subject"}
    assert "acidity" not in finding.text
    assert find_leakage(replace(study, metadata=None), study.metadata[["acidity"]]) == []


def test_samples_without_a_value_are_not_looked_at(study):
    some = study.metadata[["acidity"]].where(study.metadata["habitat"] == "gut")
    assert "in 40 samples" in find_leakage(study, some)[0].text
    assert find_leakage(study, some * np.nan) == []
    assert find_leakage(study, some.iloc[:0]) == []


def test_what_the_chosen_groups_keep_together_is_no_finding(study, acidity):
    assert refused(find_leakage(study, acidity)) == {"subject"}
    kept = find_leakage(study, acidity, group_column="subject")
    assert "subject" not in {finding.column for finding in kept}
    assert not refused(kept)
    assert find_leakage(study, acidity, group_column="site") == []  # subjects lie within sites
    assert refused(find_leakage(study, acidity, group_column="habitat")) == {"subject"}  # and not within habitats
    with pytest.raises(InputError, match="no column 'sujet'"):
        find_leakage(study, acidity, group_column="sujet")


def test_smaller_groups_are_a_choice_of_the_user_unless_they_are_samples(study, acidity):
    mother = study.metadata["subject"].map(lambda name: f"mother {int(name[-2:]) // 2}")
    families = with_columns(study, mother_id=mother, sample=list(study.metadata.index))
    assert refused(find_leakage(families, acidity)) == {"mother_id", "subject"}
    by_child = find_leakage(families, acidity, group_column="subject")
    assert told(by_child) >= {("group", "mother_id", "subject", False)}
    assert "the results hold for these subjects and not for new ones" in by_child[0].text
    assert refused(find_leakage(families, acidity, group_column="sample")) == {"mother_id", "subject"}


def test_subjects_that_are_spelled_in_two_ways_are_divided_by_their_own_column(study, acidity):
    subject = study.metadata["subject"]
    messy = with_columns(study, subject=subject.where(np.arange(120) >= 40, subject.str.upper()))
    (finding, *_) = find_leakage(messy, acidity, group_column="subject")
    assert finding.refuses
    assert "'SUBJECT01' and 'subject01' count as one although a split by this column tells them apart" in finding.text


def test_known_sides(study, acidity):
    subject = study.metadata["subject"]
    apart = pd.Series(np.where(subject < "subject11", "train", "val"), index=subject.index)
    assert "subject" not in {finding.column for finding in find_leakage(study, acidity, sides=apart)}
    crossed = apart.copy()
    crossed[subject.isin(["subject01", "subject02", "subject15"]) & (np.arange(120) < 60)] = "test"
    crossed[subject == "subject20"] = None
    (finding, *_) = find_leakage(study, acidity, sides=crossed)
    assert finding.refuses
    assert "(19 in 114 samples, up to 6 each, 3 of them on more than one side)" in finding.text
    assert "this split has the same subject on both sides" in finding.text
    folds = pd.Series(np.arange(120) // 24, index=subject.index)
    assert refused(find_leakage(study, acidity, sides=folds)) == {"subject"}


def test_runs_are_noted_and_what_tells_the_target(study, acidity):
    plate = (study.metadata["acidity"].rank() // 10).map("plate {:.0f}".format)
    town = (study.metadata["acidity"].rank() // 20).map("town {:.0f}".format)
    findings = find_leakage(with_columns(without(study, "subject", "site"), plate=plate, town=town), acidity)
    assert ("batch", "plate", "run", False) in told(findings)
    texts = {finding.column: finding.text for finding in findings if finding.kind == "determined"}
    assert set(texts) == {"plate"}  # a town is two plates or so: nested, and says less
    assert texts["plate"].startswith(
        "plate gives acidity away: the mean of the other samples of the same plate explains"
    )
    assert not refused(findings)


def test_duplicates_across_sides(study, acidity):
    table = study.table.select_samples(np.r_[np.arange(120), np.arange(3)])
    table = replace(table, sample_ids=(*study.table.sample_ids, "again1", "again2", "again3"))
    metadata = pd.DataFrame({"acidity": 1.0}, index=list(table.sample_ids))
    (finding,) = find_leakage(Study(table, metadata), metadata)
    assert finding.kind == "near-copies"
    assert finding.text.startswith("3 pairs of samples are almost the same (Bray-Curtis distance up to 0.")
    assert "S0001 and again1, S0002 and again2, S0003 and again3;" in finding.text
    sides = pd.Series(0, index=metadata.index)
    sides[["again1", "S0003", "again3"]] = 1
    (finding,) = find_leakage(Study(table, metadata), metadata, sides=sides)
    assert "1 pair of samples on different sides of the split is almost the same" in finding.text
    assert find_leakage(Study(table, metadata), metadata, sides=sides * 0) == []


def test_a_site_that_shows_is_refused_and_one_that_does_not_is_not(study, acidity):
    host = study.metadata["subject"] + study.metadata["habitat"]
    house = host.map({name: f"house {number // 2}" for number, name in enumerate(sorted(host.unique()))})
    bare = without(study, "subject", "site")
    assert refused(find_leakage(with_columns(bare, house=house), acidity)) == {"house"}
    drawn = np.random.default_rng(0).permutation(house.to_numpy())
    assert find_leakage(with_columns(bare, house=drawn), acidity) == []


def test_a_column_of_unknown_name_is_told_and_not_refused(study, acidity):
    renamed = replace(study, metadata=study.metadata.rename(columns={"subject": "proefpersoon"}).drop(columns="site"))
    (finding,) = find_leakage(renamed, acidity)
    assert told([finding]) == {("group", "proefpersoon", "other", False)}
    assert "if these are subjects, sites or studies, keep each on one side" in finding.text


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(2, 12), name=st.sampled_from(["diet", "sex", "month", "x"]))
def test_a_random_covariate_is_no_subject(study, acidity, seed, levels, name):
    drawn = np.random.default_rng(seed).integers(0, levels, 120)
    bare = without(study, "subject", "site")
    texts = with_columns(bare, **{name: [f"level {value}" for value in drawn]})
    numbers = with_columns(bare, **{name: drawn.astype(np.float64)})
    assert find_leakage(texts, acidity) == find_leakage(numbers, acidity) == []


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decimals=st.integers(0, 3), name=st.sampled_from(["bmi", "subject_bmi", "age"]))
def test_measurements_are_no_subjects(study, acidity, seed, decimals, name):
    drawn = np.random.default_rng(seed).normal(30, 8, 120).round(decimals)
    assert find_leakage(with_columns(without(study, "subject", "site"), **{name: drawn}), acidity) == []


@pytest.mark.parametrize("name", ["subject", "house", "study", "run", "city", "notes"])
@pytest.mark.parametrize(
    "values",
    [[None] * 120, ["same"] * 120, [f"v{i}" for i in range(120)], [np.nan] * 120, [1.0] * 120, list(range(120))],
    ids=["empty", "one", "distinct", "nan", "ones", "numbers"],
)
def test_columns_without_groups_are_passed_over(study, acidity, name, values):
    column = pd.Series(values, index=study.metadata.index, dtype=object if isinstance(values[0], str | None) else None)
    bare = without(study, "subject", "site")
    bare.metadata[name] = column
    assert find_leakage(bare, acidity) == []


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_neither_order_nor_names_of_values_matter(study, seed):
    random = np.random.default_rng(seed)
    values = study.metadata[["acidity", "health"]]
    run = pd.Series([f"run {number}" for number in np.arange(120) // 7 % 5], index=values.index)
    study = with_columns(study, run=run)
    rows, columns = random.permutation(120), random.permutation(len(study.metadata.columns))
    asvs = random.permutation(study.table.n_asvs)
    metadata = study.metadata.iloc[rows, columns].copy()
    for name in ("subject", "site", "run"):
        kinds = sorted(set(metadata[name]))
        metadata[name] = metadata[name].map(
            dict(zip(kinds, (f"k{i}" for i in random.permutation(len(kinds))), strict=True))
        )
    shuffled = Study(study.table.select_samples(rows).select_asvs(asvs), metadata)
    expected = find_leakage(study, values)
    assert len(expected) >= 2
    assert find_leakage(shuffled, values.iloc[random.permutation(120)]) == expected

"""Names and values that tell subjects, sites, studies and runs from covariates."""

import numpy as np
import pandas as pd
import pytest

from aam.data.leakage.group_columns import (
    codes_of,
    determines,
    fold,
    groupings,
    is_place,
    place_columns,
    role_of,
    tokens,
)

NO_TARGETS = pd.DataFrame(index=[f"s{i}" for i in range(60)])


def frame(**columns):
    return pd.DataFrame(columns, index=NO_TARGETS.index)


def found(metadata, targets=NO_TARGETS):
    return {group.column: group.role for group in groupings(metadata, targets)}


REPEATED = [f"p{i % 12}" for i in range(60)]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("host_subject_id", "subject"),
        ("Host Subject ID", "subject"),
        ("HostSubjectID", "subject"),
        ("patient", "subject"),
        ("donor.code", "subject"),
        ("mice", "subject"),
        ("mouse-number", "subject"),
        ("host_id", "subject"),
        ("house_number", "site"),
        ("Household", "site"),
        ("sampling_site", "site"),
        ("station", "site"),
        ("study_id", "study"),
        ("emp_study_id", "study"),
        ("project_name", "study"),
        ("miseq_run_nr", "run"),
        ("run_prefix", "run"),
        ("run_date", "run"),
        ("ExtractionKit", "run"),
        ("PCR_primers", "run"),
        ("sequencing_centre", "run"),
    ],
)
def test_telling_names(name, role):
    assert role_of(name) == role


COVARIATES = """
sex season diet month 16S title body_site sample_site common_sample_site sample_type_body_site host_body_site
host_species host_common_name host child
animals_in_house number_humans_inhabiting_house temp_inside_house years_house_inhabited
subject_age patient_sex mother_antibiotics donor_diet study_day study_type sequencing_depth library_size fish_count
days_since_experiment_start isolation_source number_of_subjects distance_to_station
"""


@pytest.mark.parametrize("name", COVARIATES.split())
def test_names_of_covariates(name):
    assert role_of(name) is None


def test_places():
    assert all(map(is_place, ("city", "Town", "country_name")))
    assert not any(map(is_place, ("body_region", "cityscape", "city_size")))


def test_words_and_spellings():
    assert tokens("hostSubjectID_2.PCR plates") == ["host", "subject", "id", "pcr", "plate"]
    assert fold("S38_19") == fold(" s38-19 ") == fold("s38 19") != fold("s3819")
    assert fold("s1_12") != fold("s11_2")
    assert fold("1.0") == fold("1") != fold("-1")
    assert fold("ER+") != fold("ER-")
    assert fold("9007199254740993") != fold("9007199254740992")


def test_values_are_numbered_by_appearance_and_missing_words_are_missing():
    codes, spelled = codes_of(["s-2", None, "S_2", "unknown", "s3", "not applicable"])
    assert codes.tolist() == [0, -1, 0, -1, 1, -1]
    assert spelled == ("S_2", "s-2")
    assert codes_of(["unknown", "Unknown", "a"])[1] is None


def test_columns_that_determine_others():
    fine, coarse = np.array([0, 0, 1, 2, -1]), np.array([0, 0, 0, 1, 0])
    assert determines(fine, coarse)
    assert not determines(coarse, fine)


def test_values_decide_too():
    metadata = frame(
        subject_id=[f"p{i}" for i in range(60)],  # each once
        patient=["p1"] * 60,
        donor=[None] * 60,
        animal=np.linspace(0, 1, 60) * np.tile([1, 2], 30),  # decimals are measurements
        participant=REPEATED,
        site=["gut", "skin", "tongue", "palm", "nose", "ear"] * 10,
        location=["here", "there"] * 30,
        study=[f"st{i}" for i in range(50)] + ["st0"] * 10,  # hardly any twice
    )
    assert found(metadata) == {"participant": "subject"}


def test_numbers_may_be_ids():
    assert found(frame(subject=np.arange(60.0) % 12)) == {"subject": "subject"}


def test_copies_are_reported_once_by_the_best_name():
    spelled = [f"P-{i % 12}" if i < 30 else f" p_{i % 12}" for i in range(60)]
    metadata = frame(individual=spelled, fish_code=[f"f{i % 12}" for i in range(60)], host_subject_id=REPEATED)
    (group,) = groupings(metadata, NO_TARGETS)
    assert (group.column, group.copies, group.spellings) == ("host_subject_id", ("individual", "fish_code"), None)
    (group,) = groupings(metadata[["individual"]], NO_TARGETS)
    assert (len(group.sizes), group.spellings) == (12, (" p_0", "P-0"))


def test_the_target_is_no_group():
    metadata = frame(
        subject=REPEATED, subject_code=[f"q{i % 6}" for i in range(60)], run=[f"r{i % 4}" for i in range(60)]
    )
    assert found(metadata, metadata[["subject"]]) == {"run": "run"}
    assert found(metadata, metadata[["run"]]) == {"subject": "subject", "subject_code": "subject"}
    renamed = metadata[["subject"]].rename(columns={"subject": "fish"})
    assert "subject" not in found(metadata, renamed)


def test_a_target_does_not_hide_the_subjects_named_after_it():
    hosts = pd.DataFrame({"host": ["cat", "dog"] * 30}, index=NO_TARGETS.index)
    assert found(frame(host_subject=REPEATED), hosts) == {"host_subject": "subject"}


def test_unknown_names_only_where_no_name_tells():
    metadata = frame(proefpersoon=REPEATED, day=[f"2020-01-0{i % 9}" for i in range(60)], few=["a", "b"] * 30)
    assert found(metadata) == {"proefpersoon": "other"}
    assert found(metadata.assign(patient=[f"q{i % 15}" for i in range(60)])) == {"patient": "subject"}


def test_towns_are_places_and_no_subjects():
    metadata = frame(city=[f"c{i % 6}" for i in range(60)], country=["x"] * 60)
    assert found(metadata) == {}
    assert [group.column for group in place_columns(metadata, NO_TARGETS)] == ["city"]

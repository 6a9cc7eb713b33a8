"""The guard, unasked, on published studies."""

from pathlib import Path

import pandas as pd
import pytest

from aam.config import PhylogenyConfig, SamplingConfig, UnifracConfig
from aam.data.files.metadata import categorical_column, numeric_column
from aam.data.leakage.guard import Finding, find_leakage
from aam.data.study import load_study


def findings(folder: Path, target: str, *where: str, classes: bool = False, tree: bool = True) -> list[Finding]:
    files = {"table": (folder / "table.biom",), "metadata": folder / "metadata.tsv", "where": where}
    inputs = PhylogenyConfig(**files, tree=folder / "tree.nwk" if tree else None)
    study = load_study(inputs, SamplingConfig(), UnifracConfig() if tree else None)
    values = (categorical_column if classes else numeric_column)(study.metadata, target)
    return find_leakage(study, pd.DataFrame({target: values}))


def refused(found: list[Finding]) -> list[tuple[str | None, str | None]]:
    return [(finding.column, finding.role) for finding in found if finding.refuses]


def of_kind(found: list[Finding], kind: str) -> set[str | None]:
    return {finding.column for finding in found if finding.kind == kind}


SUBJECT = ("host_subject_id", "subject")


@pytest.mark.parametrize(
    ("name", "target", "classes", "where", "expected"),
    [
        ("tiny_moving_pictures", "bodysite", True, (), ("subject", "subject")),
        ("ecam", "delivery", True, ("mom_child=C",), SUBJECT),
        ("ecam", "month_of_life", False, ("mom_child=C",), SUBJECT),
        ("moving_pictures", "common_sample_site", True, (), SUBJECT),
        ("mackerel", "season", True, (), SUBJECT),
        ("mackerel", "sample_type_body_site", True, (), SUBJECT),
        ("amazon_houses", "village", True, (), ("house_number", "site")),
    ],
)
@pytest.mark.parametrize("tree", [True, False], ids=["tree", "table"])
def test_repeated_subjects_sites_and_studies_are_refused(real_data, name, target, classes, where, expected, tree):
    assert refused(findings(real_data / name, target, *where, classes=classes, tree=tree)) == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("tree", [True, False], ids=["tree", "table"])
@pytest.mark.parametrize(("target", "classes"), [("ph", False), ("temperature_deg_c", False), ("empo_3", True)])
def test_studies_of_the_earth_microbiome_project(real_data, target, classes, tree):
    found = findings(real_data / "emp_2k", target, classes=classes, tree=tree)
    assert refused(found) == [("study_id", "study")]
    assert "study_id" in of_kind(found, "determined")


def test_a_city_gives_the_latitude_away_and_nobody_comes_twice(real_data):
    found = findings(real_data / "spain_oral", "latitude")
    assert not refused(found)
    assert of_kind(found, "group") == set()
    assert of_kind(found, "batch") == {"batch"}
    assert of_kind(found, "determined") == {"city"}


def test_runs_are_noted_and_not_refused(real_data):
    found = findings(real_data / "nasopharynx_biomass", "log10_qpcr_16s_pgul")
    assert not refused(found)
    assert of_kind(found, "group") == set()
    assert of_kind(found, "batch") == {"iso_run_nr", "miseq_run_nr"}


def test_body_sites_were_sequenced_run_by_run(real_data):
    """The lanes of moving_pictures hold different body sites."""
    found = findings(real_data / "moving_pictures", "common_sample_site", classes=True, tree=False)
    assert of_kind(found, "determined") == {"run_prefix"}

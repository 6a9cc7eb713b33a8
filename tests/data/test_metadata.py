"""Sample metadata: the format, columns and choosing samples."""

import gzip

import numpy as np
import pandas as pd
import pytest

from aam.data.files.metadata import categorical_column, numeric_column, read_metadata, select_where
from aam.errors import InputError

STUDY = """\
sample-id\tage\tsite\tyear\tcity
#q2:types\tnumeric\tcategorical\tcategorical\t
# a comment
007\t1.5\tgut\t2008\tBoston, MA
1.10\t\tskin\t2009\tnot applicable
10249.5\tnot collected\tgut\t2008\tParis

S4\t6\t\t2010\t
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="metadata.tsv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def study(write):
    return read_metadata(write(STUDY))


def test_types_comments_and_missing_values(study):
    assert list(study.columns) == ["age", "site", "year", "city"]
    assert study["age"].dtype == np.float64
    np.testing.assert_equal(study["age"].tolist(), [1.5, np.nan, np.nan, 6.0])
    assert study["site"].tolist() == ["gut", "skin", "gut", None]
    assert study["year"].tolist() == ["2008", "2009", "2008", "2010"]
    assert study["city"].tolist() == ["Boston, MA", None, "Paris", None]


def test_sample_ids_that_look_like_numbers_stay_text(study):
    assert study.index.tolist() == ["007", "1.10", "10249.5", "S4"]
    assert study.index.name == "sample_id"


@pytest.mark.parametrize(
    "header",
    ["id", "SampleID", "Sample ID", "SAMPLE-ID", "featureid", "#SampleID", "#OTU ID", "sample_name", "sample_id"],
)
def test_id_headers(write, header):
    frame = read_metadata(write(f"# first\n\n{header}\tage\nS1\t1\n"))
    assert frame.loc["S1", "age"] == 1


@pytest.mark.parametrize("header", ["sample", "#Sampleid", "Sample_Name", "age"])
def test_other_id_headers_are_refused(write, header):
    with pytest.raises(InputError, match=r"metadata\.tsv"):
        read_metadata(write(f"{header}\tage\nS1\t1\n"))


@pytest.mark.parametrize("header", ["sample_id", '"sample_id"', "Sample_ID"])
def test_only_ids(write, header):
    assert read_metadata(write(f"{header}\nS1\nS2\n")).index.tolist() == ["S1", "S2"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: (text + "\n\n\t\t\n").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("sample-id", "sample_id").replace("gut", '"gut"').encode(),
        lambda text: text.replace("\tgut", "\t  gut ").encode(),
    ],
)
def test_spellings_of_the_same_file(write, study, change):
    pd.testing.assert_frame_equal(read_metadata(write(change(STUDY), "other.tsv")), study)


def test_insdc_terms_are_missing_unless_the_file_says_otherwise(write):
    terms = ["not applicable", "missing", "not collected", "not provided", "restricted access"]
    rows = "".join(f"S{number}\t{term}\t{term}\n" for number, term in enumerate(terms))
    frame = read_metadata(write(f"id\ta\tb\n#q2:missing\t\tblank\n{rows}S9\tred\tred\n"))
    assert frame["a"].tolist() == [None] * 5 + ["red"]
    assert frame["b"].tolist() == [*terms, "red"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# only a comment\n", "Failed to locate header"),
        ("id\tage\n", "at least one ID"),
        ("id\tage\nS1\t1\nS1\t2\n", "duplicated: 'S1'"),
        ("id\tage\tage\nS1\t1\t2\n", "duplicated: 'age'"),
        ("id\tage\t\tx\nS1\t1\t2\t3\n", "column without a name"),
        ("id\tage\nS1\t1\t2\n", "more cells"),
        ("id\tage\n\t1\n", "empty metadata ID"),
        ("id\tage\n#q2:types\tnumeric\nS1\told\n", "'old'"),
        ("id\tage\n#q2:types\tnumber\nS1\t1\n", "unrecognized column type 'number'"),
        ("id,age\nS1,1\n", "tab-separated"),
        ('id\tage\nS1\t"open\n', "quote"),
        ("id\tage\nS1\t1\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_broken_rules_are_named_with_the_file(write, text, message):
    with pytest.raises(InputError, match=rf"sample metadata .*metadata.tsv.*{message}") as caught:
        read_metadata(write(text))
    assert "\n" not in str(caught.value)
    assert "Keemei" not in str(caught.value)


def test_numeric_column(study):
    np.testing.assert_equal(numeric_column(study, "age").tolist(), [1.5, np.nan, np.nan, 6.0])
    assert numeric_column(study, "year").tolist() == [2008, 2009, 2008, 2010]
    assert numeric_column(study, "year").index.tolist() == study.index.tolist()


def test_column_without_values(write):
    frame = read_metadata(write("id\ta\tb\nS1\t\t1\nS2\t\t2\n"))
    assert numeric_column(frame, "a").isna().all()
    assert categorical_column(frame, "a").tolist() == [None, None]


@pytest.mark.parametrize("value", ["NA", "nan", "inf", "1,5", "<0.1"])
def test_column_that_is_not_numeric_names_values_and_samples(write, value):
    frame = read_metadata(write(f"id\tage\nS1\t1\nS2\t{value}\n"))
    with pytest.raises(InputError, match=rf"column 'age' is not numeric: '{value}' \(sample S2\).*--classifier"):
        numeric_column(frame, "age")


def test_categorical_column_writes_numbers_as_short_as_they_are_exact(write):
    frame = read_metadata(write("id\tx\ty\nS1\t1\ta\nS2\t0.1\tb\nS3\t\t\n"))
    assert categorical_column(frame, "x").tolist() == ["1", "0.1", None]
    assert categorical_column(frame, "y").tolist() == ["a", "b", None]


def test_unknown_column_suggests_close_ones(study):
    with pytest.raises(InputError, match=r"no column 'Sites'; did you mean site\? columns: age, site, year, city"):
        categorical_column(study, "Sites")
    with pytest.raises(InputError, match=r"no column 'ph'; columns: age, site, year, city"):
        numeric_column(study, "ph")


def test_column_name_used_twice_in_a_frame_of_the_user():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"], index=["S1"])
    with pytest.raises(InputError, match="2 columns are named 'a'"):
        numeric_column(frame, "a")


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ([], ["007", "1.10", "10249.5", "S4"]),
        (["site=gut"], ["007", "10249.5"]),
        (["site=gut,skin"], ["007", "1.10", "10249.5"]),
        (["site=gut", "city=Paris"], ["10249.5"]),
        (['city="Boston, MA",Paris'], ["007", "10249.5"]),
        (["age=6"], ["S4"]),
        (["age=1.50, 6.0"], ["007", "S4"]),
        (["year=2008"], ["007", "10249.5"]),
    ],
)
def test_select_where(study, clauses, expected):
    assert select_where(study, clauses).index.tolist() == expected


def test_select_where_finds_columns_with_an_equals_sign():
    frame = pd.DataFrame({"a": ["x", "y"], "a=b": ["c", "d"]}, index=["S1", "S2"])
    assert select_where(frame, ["a=b=d"]).index.tolist() == ["S2"]
    assert select_where(frame, ["a=y"]).index.tolist() == ["S2"]


@pytest.mark.parametrize(
    ("clauses", "message"),
    [
        (["site"], "COLUMN=VALUE"),
        (["site="], "no value"),
        (["place=gut"], "no column 'place'"),
        (["site=gutt"], "has no 'gutt'; it has gut, skin"),
        (["age=old"], "has no 'old'"),
        (["site=skin", "city=Paris"], "no sample .* --where site=skin and --where city=Paris"),
    ],
)
def test_select_where_refuses(study, clauses, message):
    with pytest.raises(InputError, match=message):
        select_where(study, clauses)


def test_real_metadata(real_data):
    for path in sorted(real_data.glob("*/metadata.tsv")):
        frame = read_metadata(path)
        ids = [line.split("\t")[0].strip('"') for line in path.read_text().splitlines()[1:]]
        assert frame.index.tolist() == ids, path
    tutorial = read_metadata(real_data / "qiime2/moving_pictures_tutorial/sample-metadata.tsv")
    assert sorted(set(tutorial["BodySite"])) == ["gut", "left palm", "right palm", "tongue"]
    assert tutorial["Year"].dtype == np.float64
    ecam = read_metadata(real_data / "ecam/metadata.tsv")
    assert numeric_column(select_where(ecam, ["mom_child=C"]), "month_of_life").max() > 20


@pytest.mark.parametrize(
    "cells",
    [
        ["9007199254740992", "9007199254740993"],
        ["9007199254740993.0", "9007199254740992."],
        ["-9007199254740993", "-9007199254740992"],
        ["007", "7"],
        ["0012", ""],
        ["1" * 400, "2" * 400],
        ['"9007199254740993"', "1.5"],
        ["  010", "11"],
    ],
)
def test_whole_numbers_that_float64_would_change_keep_their_text(write, cells):
    rows = "".join(f"S{number}\t{cell}\t{number}\n" for number, cell in enumerate(cells))
    frame = read_metadata(write(f"id\tsubject\tage\n{rows}"))
    expected = [cell.strip().strip('"') or None for cell in cells]
    assert categorical_column(frame, "subject").tolist() == expected
    assert frame["age"].dtype == np.float64
    kept = next(cell for cell in expected if cell)
    assert select_where(frame, [f"subject={kept}"]).index.tolist() == [f"S{expected.index(kept)}"]


def test_a_file_may_call_such_numbers_numeric_and_they_are_still_ids_and_numbers(write):
    frame = read_metadata(write("id\tx\n#q2:types\tnumeric\nS1\t9007199254740993\nS2\t08\n"))
    assert categorical_column(frame, "x").tolist() == ["9007199254740993", "08"]
    assert numeric_column(frame, "x").tolist() == [9007199254740992.0, 8.0]


@pytest.mark.parametrize("cells", [["0", "0.0"], ["0.5", "1e20"], ["9007199254740992", "20080115"], ["100", "1.0"]])
def test_other_numbers_stay_numbers(write, cells):
    rows = "".join(f"S{number}\t{cell}\n" for number, cell in enumerate(cells))
    assert read_metadata(write(f"id\tx\n{rows}"))["x"].tolist() == [float(cell) for cell in cells]

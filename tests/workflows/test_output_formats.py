"""Tables of results: the ending of a file decides its format."""

import gzip

import pandas as pd
import pytest

from aam.config import flag
from aam.errors import InputError
from aam.workflows import tables
from aam.workflows.tables import check_tables, write_parts, write_table

TABLE = pd.DataFrame(
    {"dim_0": [0.125, 1 / 3, None], "note": ["", "a, b", "no reads"]},
    index=pd.Index(["007", "S2", "S3"], name="sample_id"),
)
COMMA, TAB = ",", "\t"


@pytest.mark.parametrize(
    ("name", "separator"),
    [
        *(("e.tsv", TAB), ("e", TAB), ("e.txt", TAB), ("e.csv", COMMA), ("E.CSV", COMMA)),
        *(("e.tsv.gz", TAB), ("e.gz", TAB), ("e.v2.tsv", TAB), ("e.csv.gz", COMMA), ("E.TSV.GZ", TAB)),
    ],
)
def test_the_ending_decides_the_format(tmp_path, name, separator):
    path, parts = tmp_path / name, tmp_path / f"parts-{name}"
    check_tables({"output": path, "asv": None})
    check_tables({"output": parts}, parquet=False)
    write_table(TABLE, path)
    write_parts([TABLE.reset_index().iloc[:2], TABLE.reset_index().iloc[2:]], parts)
    for written in (path, parts):
        content = written.read_bytes()
        text = (gzip.decompress(content) if name.lower().endswith(".gz") else content).decode()
        assert text.splitlines()[:2] == [
            separator.join(["sample_id", "dim_0", "note"]),
            f"007{separator}0.125{separator}",
        ]
        assert ('"a, b"' in text) is (separator == COMMA)
        assert len(text.splitlines()) == 4


def test_parquet_has_types_and_all_digits(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'aam[parquet]'")
    path = tmp_path / "e.parquet"
    check_tables({"output": path})
    write_table(TABLE, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path).set_index("sample_id"), TABLE, check_index_type=False)


def test_parquet_without_its_library_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"e\.parquet: Parquet needs a library: pip install 'aam\[parquet\]'"):
        check_tables({"output": tmp_path / "e.parquet"})


@pytest.mark.parametrize(
    ("name", "named"),
    [
        *(("e.qza", ".qza"), ("e.qza.gz", ".qza.gz"), ("e.tsv.zip", ".zip"), ("e.xlsx", ".xlsx")),
        *(("e.parquet.gz", ".parquet.gz"), ("e.v2", ".v2"), ("e.tsv.gz.gz", ".gz.gz")),
    ],
)
def test_other_endings_are_refused_with_those_that_are_written(tmp_path, name, named):
    with pytest.raises(InputError, match=rf"asv .*: no table is written as {named}; .*\.tsv, \.txt, \.csv .*\.parquet"):
        check_tables({"output": tmp_path / "e.tsv", "asv": tmp_path / name})


def test_parts_are_not_written_as_parquet(tmp_path):
    with pytest.raises(InputError, match=r"as \.parquet; .*\(each may be followed by \.gz\)$"):
        check_tables({"output": tmp_path / "e.parquet"}, parquet=False)


@pytest.mark.parametrize(
    ("command", "options"),
    [("embed", ("output",)), ("embed", ("output", "asv")), ("predict", ("output",)), ("explain", ("output",))],
)
def test_commands_refuse_before_they_read_anything(aam, tmp_path, capsys, command, options):
    """The checkpoint and the table are not there, and the ending is what is told."""
    files = {option: tmp_path / f"{option}.tsv" for option in options} | {options[-1]: tmp_path / "results.qza"}
    more = {"what": "category-attention"} if command == "explain" else {}
    assert aam(command, checkpoint=tmp_path / "run", table=tmp_path / "table.biom", **more, **files, device="cpu") == 2
    assert f"{flag(options[-1])} {tmp_path / 'results.qza'}: no table is written as .qza" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

import subprocess
import sys

import pytest

from aam.data.files.whole_files import leftovers_of, whole_file, write_json, write_text


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": 0.1})
    with whole_file(path) as draft:
        draft.write_text("half")
        assert path.read_text() == '{\n  "a": 0.1\n}\n'
        assert draft.suffix == path.suffix
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"r2": float("nan")})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "split.tsv"
    write_text(path, "old")
    code = (
        "import os, pathlib, sys\n"
        "from aam.data.files.whole_files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    (left,) = leftovers_of(path)
    assert left.read_text() == "half"
    assert set(tmp_path.iterdir()) == {path, left}


def test_two_writers_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "report[1].json"
    with whole_file(path) as first:
        first.write_text("one")
        with whole_file(path) as second:
            second.write_text("two")
            assert set(leftovers_of(path)) == {first, second}
            assert leftovers_of(tmp_path / "report1.json") == []
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]

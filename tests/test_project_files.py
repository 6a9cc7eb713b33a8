"""What stands beside the code agrees with it."""

import re
import tomllib
from pathlib import Path

import pytest

import aam
from aam.cli.app import app

ROOT = Path(aam.__file__).parents[1]
CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_of_this_version(project):
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([\w-]+): *(.+)$", citation, re.MULTILINE))
    assert fields["version"] == project["version"] == aam.__version__
    assert fields["license"] == project["license"]
    assert fields["cff-version"] == "1.2.0"
    assert {"message", "title", "type"} <= fields.keys()
    assert re.search(r"^authors:\n  - name: ", citation, re.MULTILINE)


def test_the_version_is_written_in_one_place(project):
    sources = [path for path in (ROOT / "aam").rglob("*.py") if f'"{project["version"]}"' in path.read_text()]
    assert sources == []


def test_the_changelog_has_the_form_of_one():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= set(CHANGES)


def test_the_changelog_names_every_command():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [name for name in app.commands if f"`aam {name}" not in text] == []


def test_what_the_changelog_links_to_is_there():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (ROOT / place).exists(), place

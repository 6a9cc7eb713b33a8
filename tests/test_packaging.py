"""Releases, tried dry; the recipe for conda and the page for contributors agree with the project."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import aam

ROOT = Path(aam.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "release.py"
IN_CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names that packages have in conda-forge, where they differ."""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the files of a release, and a package of one line."""
    root = tmp_path / "repository"
    (root / "recipe").mkdir(parents=True)
    (root / "aam").mkdir()
    (root / "aam" / "__init__.py").write_text('"""Nothing."""\n')
    for name in (
        "pyproject.toml",
        "CITATION.cff",
        "CHANGELOG.md",
        "recipe/recipe.yaml",
        "README.md",
        "LICENSE",
        ".gitignore",
    ):
        shutil.copy(ROOT / name, root / name)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "somebody")
    git(root, "config", "user.email", "somebody@localhost")
    commit(root)
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def release(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *words, "--root", root]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_release_is_tried_without_a_trace(repository):
    pytest.importorskip("build")
    before = git(repository, "log")
    done = release(repository, "7.8.9", "--dry-run")
    assert done.returncode == 0, done.stderr
    for line in (
        '+version = "7.8.9"',
        "+version: 7.8.9",
        "+## [7.8.9] - 20",
        '+  version: "7.8.9"',
        "+date-released: 20",
    ):
        assert f"\n{line}" in done.stdout
    assert "built aam-7.8.9-py3-none-any.whl and aam-7.8.9.tar.gz" in done.stdout
    assert (git(repository, "log"), git(repository, "tag"), git(repository, "status", "--short")) == (before, "", "")


@pytest.mark.slow
def test_a_release_is_committed_and_tagged_once(repository):
    pytest.importorskip("build")
    done = release(repository, "7.8.9")
    assert done.returncode == 0, done.stderr
    assert "git push origin main v7.8.9 && twine upload dist/aam-7.8.9-py3-none-any.whl" in done.stdout
    assert git(repository, "describe", "--tags").strip() == "v7.8.9"
    assert git(repository, "status", "--short") == ""
    assert "the tag v7.8.9 is there already" in release(repository, "7.8.9").stderr


@pytest.mark.parametrize(
    ("version", "spoil", "says"),
    [
        ("1.0", None, "1.0 is no version such as 0.2.0"),
        ("v1.0.0", None, "v1.0.0 is no version"),
        ("0.0.1", None, "0.0.1 is earlier than 0.1.0"),
        ("1.0.0", ("README.md", "x"), "there are changes that are not committed"),
        ("1.0.0", ("CHANGELOG.md", "## [Unreleased]\n\n## [0.1.0]\n\n- all\n"), "says of nothing under [Unreleased]"),
        ("1.0.0", ("CHANGELOG.md", "## [Unreleased]\n\n- more\n\n## [1.0.0]\n"), "CHANGELOG.md has 1.0.0 already"),
        ("1.0.0", ("recipe/recipe.yaml", "context:\n"), "is there 0 times instead of once"),
    ],
)
def test_a_release_that_cannot_be_is_refused(repository, version, spoil, says):
    if spoil is not None:
        (repository / spoil[0]).write_text(spoil[1])
        if spoil[0] != "README.md":
            commit(repository)
    before = git(repository, "status", "--short")
    done = release(repository, version)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (git(repository, "status", "--short"), git(repository, "tag")) == (before, "")


def test_a_release_is_made_on_the_main_branch(repository):
    git(repository, "switch", "--quiet", "--create", "other")
    assert "a release is made on the branch main" in release(repository, "1.0.0").stderr


def test_the_recipe_has_version_and_dependencies_of_the_project(project):
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == project["version"]
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    needed = [re.fullmatch(r"([\w-]+)(.*)", each).groups() for each in project["dependencies"]]
    assert recipe["requirements"]["run"][1:] == [f"{IN_CONDA.get(name, name)} {range_}" for name, range_ in needed]
    (script,) = project["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(script)]
    assert recipe["about"]["license"] == project["license"]


def test_the_commands_for_contributors_are_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"\bmake ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert {"install", "lint", "test"} <= set(named) <= targets


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem != "config":
        assert {"name", "description", "body"} <= form.keys()
        assert all({"type", "attributes"} <= part.keys() for part in form["body"])

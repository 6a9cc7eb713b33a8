"""Release a version by one command: check, set the version, build, commit and tag; nothing is uploaded or pushed.

    make release VERSION=0.2.0 DRY=--dry-run   # all of it in a clone that is thrown away
    make release VERSION=0.2.0

The version stands in pyproject.toml, from where the package has it; CITATION.cff, CHANGELOG.md and recipe/recipe.yaml
repeat it. All four are set here, and tests/test_project_files.py holds that they agree.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
BRANCH = "main"


def refuse(problem: str) -> None:
    """End with a message."""
    raise SystemExit(f"error: {problem}; nothing was changed")


def replaced(text: str, pattern: str, new: str, name: str) -> str:
    """A text with the one place that a pattern finds replaced."""
    found = re.findall(pattern, text, re.MULTILINE)
    if len(found) != 1:
        refuse(f"{name}: {pattern} is there {len(found)} times instead of once")
    return re.sub(pattern, new, text, flags=re.MULTILINE)


def in_project(text: str, version: str, _: str) -> str:
    """Set the version in pyproject.toml, to a later one."""
    before = str(tomllib.loads(text)["project"]["version"])
    if _numbers(version) < _numbers(before):
        refuse(f"{version} is earlier than {before}, the version of pyproject.toml")
    return replaced(text, r'^version = ".*"$', f'version = "{version}"', "pyproject.toml")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def in_citation(text: str, version: str, today: str) -> str:
    """Set version and date of the citation."""
    text = re.sub(r"^date-released: .*\n", "", text, flags=re.MULTILINE)
    return replaced(text, r"^version: .*$", f"version: {version}\ndate-released: {today}", "CITATION.cff")


def in_changelog(text: str, version: str, today: str) -> str:
    """Give what is unreleased the version and a date, and begin anew."""
    if f"## [{version}]" in text:
        refuse(f"CHANGELOG.md has {version} already")
    unreleased = text.partition("## [Unreleased]")[2].partition("\n## ")[0]
    if not re.search(r"^- ", unreleased, re.MULTILINE):
        refuse("CHANGELOG.md says of nothing under [Unreleased]")
    return replaced(text, r"^## \[Unreleased\]$", f"## [Unreleased]\n\n## [{version}] - {today}", "CHANGELOG.md")


def in_recipe(text: str, version: str, _: str) -> str:
    """Set the version of the conda recipe."""
    return replaced(text, r'^  version: ".*"$', f'  version: "{version}"', "recipe/recipe.yaml")


FILES: dict[str, Callable[[str, str, str], str]] = {
    "pyproject.toml": in_project,
    "CITATION.cff": in_citation,
    "CHANGELOG.md": in_changelog,
    "recipe/recipe.yaml": in_recipe,
}
"""Every file that names the version, and what sets it there."""


def git(root: Path, *words: str) -> str:
    """What git says in a repository."""
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout.strip()


def check(root: Path, version: str) -> None:
    """Refuse what is no version, a version that exists, and a repository with changes."""
    if VERSION.fullmatch(version) is None:
        refuse(f"{version} is no version such as 0.2.0 (https://semver.org)")
    if git(root, "tag", "--list", f"v{version}"):
        refuse(f"the tag v{version} is there already")
    if git(root, "status", "--porcelain"):
        refuse("there are changes that are not committed")


def release(root: Path, version: str, today: str) -> list[str]:
    """Set the version, build, commit and tag; names of the files that were built.

    All texts are made before the first is written, and the commit comes after the build, so that what fails is undone
    by ``git checkout .``.
    """
    texts = {name: change((root / name).read_text(), version, today) for name, change in FILES.items()}
    for name, text in texts.items():
        (root / name).write_text(text)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"], cwd=root, check=True)
    built = sorted(path.name for path in (root / "dist").glob(f"aam-{version}*"))
    if built != [f"aam-{version}-py3-none-any.whl", f"aam-{version}.tar.gz"]:
        raise SystemExit(f"error: dist/ holds {built} of {version}; undo the changes by git checkout .")
    git(root, "commit", "--all", "--quiet", "--message", f"release {version}")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"aam {version}")
    return built


def main() -> None:
    """Release, or show what a release would do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version", help="such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="do it in a clone that is thrown away")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository")
    options = parser.parse_args()
    root, version, today = options.root.resolve(), options.version, datetime.now(UTC).date().isoformat()
    check(root, version)
    if options.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            clone = Path(scratch) / "clone"
            git(root, "clone", "--quiet", str(root), str(clone))
            built = release(clone, version, today)
            print(git(clone, "show", "--stat", "--patch", "--unified=0", f"v{version}"))
        print(f"dry run: built {' and '.join(built)}, committed and tagged v{version}, in a clone that is gone")
        return
    if git(root, "branch", "--show-current") != BRANCH:
        refuse(f"a release is made on the branch {BRANCH}")
    built = release(root, version, today)
    print(f"dist/ has {' and '.join(built)}; the commit is tagged v{version}. To publish:")
    print(f"  git push origin {BRANCH} v{version} && twine upload {' '.join('dist/' + name for name in built)}")


if __name__ == "__main__":
    main()

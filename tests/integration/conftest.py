"""What tables of bad input have in common: a small study, and how a command must refuse."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study, write_study


def exit_code(words: Sequence[str]) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def contents_of(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture(scope="session")
def leave() -> Callable[[Sequence[str]], int | str | None]:
    """Run a command; gives its exit code."""
    return exit_code


@pytest.fixture(scope="session")
def write_small_study() -> Callable[[Path], None]:
    """Write a study of 24 samples into a folder."""

    def write(folder: Path) -> None:
        config = SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300, subjects=8)
        write_study(simulate_study(config), folder)

    return write


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys) -> Callable[..., None]:
    """Run wrong words in a damaged copy of a study: exit code 2, one message, and nothing written but what is named."""

    def check(
        study: Path,
        words: Sequence[str],
        says: str,
        damage: Callable[[], object] = lambda: None,
        wrote: Sequence[str] = (),
    ) -> None:
        folder = tmp_path / "study"
        shutil.copytree(study, folder, symlinks=True)
        monkeypatch.chdir(folder)
        damage()
        before = contents_of(folder)
        assert exit_code(words) == 2
        shown = capsys.readouterr().err
        errors = [line for line in shown.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, shown
        assert "Traceback" not in shown
        assert len(errors[0]) < 700
        assert re.search(says, errors[0]), errors[0]
        after = contents_of(folder)
        assert after.keys() == before.keys() | {name for name in after if name.split("/")[0] in wrote}
        assert {name: after[name] for name in before} == before

    return check

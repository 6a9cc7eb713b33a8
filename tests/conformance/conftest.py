"""Data and tests that scikit-bio and biom-format bring along: read where they are installed, never copied."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest


def pytest_configure(config) -> None:
    """Marks that are unknown here are errors."""
    config.addinivalue_line("markers", "numba: a mark of scikit-bio's tests, which are imported here")


@pytest.fixture(scope="session")
def installed() -> Callable[..., Path]:
    """Find a file or folder inside an installed package; skips, saying so, where the package came without."""

    def find(package: str, *places: str) -> Path:
        path = Path(import_module(package).__file__).parent.joinpath(*places)
        if not path.exists():
            pytest.skip(f"{package} is installed without {'/'.join(places)}")
        return path

    return find


@pytest.fixture(scope="session")
def tests_of() -> Callable[[str], ModuleType]:
    """Import a module of tests of an installed package; skips, saying so, where the package came without."""
    return lambda module: pytest.importorskip(module, reason=f"{module} is not installed")

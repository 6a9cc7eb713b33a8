"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real studies named by AAM_TEST_DATA; the test is skipped, saying so, where that is unset."""
    folder = os.environ.get("AAM_TEST_DATA")
    if not folder:
        pytest.skip("real data: set AAM_TEST_DATA to a folder of studies (docs/testing.md)")
    return Path(folder)

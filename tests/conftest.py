"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aam.config import SimulateConfig
from aam.data.sampling.samples import Samples
from aam.data.simulation.study import simulate_study, write_study
from aam.errors import InputError


@pytest.fixture(autouse=True)
def _options_in_messages(request, monkeypatch) -> None:
    """Messages name options, as most tests are of what the command line says; those of estimators name parameters."""
    monkeypatch.setattr(InputError, "names_options", "tests/estimators" not in request.path.as_posix())


@pytest.fixture(scope="session", autouse=True)
def _signals_as_at_a_terminal() -> None:
    """Whoever starts the tests in the background, or under nohup, has signals ignored, by all that they start too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real studies named by AAM_TEST_DATA; the test is skipped, saying so, where that is unset."""
    folder = os.environ.get("AAM_TEST_DATA")
    if not folder:
        pytest.skip("real data: set AAM_TEST_DATA to a folder of studies (docs/testing.md)")
    return Path(folder)


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory) -> Path:
    """Files of a simulated study (40 samples of 152 to 630 reads, 52 ASVs of 30 nucleotides); not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    config = SimulateConfig(directory=folder, samples=40, asvs=60, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    return folder


def sample_alone(asvs: Tensor, reads: np.ndarray, **more: Tensor) -> Samples:
    counts = torch.tensor(np.array(reads))[None]
    padding = torch.zeros_like(counts, dtype=torch.bool)
    return Samples(asvs, torch.arange(len(reads))[None], counts, counts.sum(1), padding, **more)


@pytest.fixture(scope="session")
def one_sample() -> Callable[..., Samples]:
    """Make a sample by itself, of its ASVs [S, ...] and the reads of each [S]."""
    return sample_alone

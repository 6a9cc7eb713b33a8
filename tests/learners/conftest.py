"""A simulated study for all learners."""

import pytest

from aam.config import InputConfig, SamplingConfig, UnifracConfig
from aam.data.study import Study, load_study


@pytest.fixture(scope="session")
def study(study_folder) -> Study:
    inputs = InputConfig(
        table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk", metadata=study_folder / "metadata.tsv"
    )
    return load_study(inputs, SamplingConfig(), UnifracConfig())

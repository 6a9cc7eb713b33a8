"""A simulated study for all learners, and an encoder."""

import pytest

from aam.config import InputConfig, LearnersConfig, PretrainConfig, SamplingConfig, UnifracConfig
from aam.data.study import Study, load_study
from aam.learners.kernel_sources import Wanted, wanted_columns
from aam.models.initial import allocate, initialize
from aam.training.machine.compute import CPU
from aam.workflows.encoder_source import Embedding, WantedEmbedding
from aam.workflows.restore import Restored, build_encoder


@pytest.fixture(scope="session")
def study(study_folder) -> Study:
    inputs = InputConfig(
        table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk", metadata=study_folder / "metadata.tsv"
    )
    return load_study(inputs, SamplingConfig(), UnifracConfig())


@pytest.fixture(scope="session")
def embedding() -> Embedding:
    """By an encoder as it is drawn, which pretraining would only make better."""
    shape = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "max_bp": 30}
    config = PretrainConfig.from_flat({"output_dir": "nowhere", "rarefy_depth": 200, **shape})
    encoder = allocate(build_encoder(config, {}), CPU)
    initialize(encoder, 0)
    return Embedding(Restored(config, encoder.eval(), None, None, None, {}), "cpu")


@pytest.fixture(scope="session")
def described(embedding) -> tuple[Wanted, ...]:
    """All that the kernel can learn from besides reads."""
    options = {"categorical_columns": "site,habitat", "categorical_hierarchy": "site=region", "numeric_columns": "day"}
    return (*wanted_columns(LearnersConfig.from_flat(options)), WantedEmbedding(embedding))
